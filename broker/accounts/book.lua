-- The book of account.py, operation by operation; every script begins with this file.
--
-- An account is a hash: at, requests, tokens (its balances and when they were right), rpm, tpm (as configured for the
-- latest admission), in_flight, reserved, mark, epoch, held_until, windows, and a reservation under each `job/<id>`; and
-- a sorted set of these jobs by expiry. KEYS: the epoch, then the two of each account. Whatever budgets have spent
-- is unknown when it was written under another epoch: so all of it is forgotten by writing one key.
-- Numbers are kept with 17 digits, so that nothing is lost between a double and its text. `-` is nothing.

local IDLE_TTL = 3600
local CHARGE_TTL = 7 * 86400
local ASK_AGAIN = 5
local SLOT_RETRY = 1
local MAX_WINDOWS = 16
local OVER = 60
local TURN = 0.01
local SLACK = 2e-6
local DROP_AT_ONCE = 200 -- expired reservations of an account in one call, which others wait for

local FIELDS = {'at', 'requests', 'tokens', 'rpm', 'tpm', 'in_flight', 'reserved', 'mark', 'epoch', 'held_until'}

local function number(text)
  if not text or text == '' or text == '-' then return nil end
  return tonumber(text)
end

local function text(number)
  if number == nil then return '' end
  return string.format('%.17g', number)
end

-- Of nano-dollars and marks, which are whole: quicker than 17 digits, and exact.
local function word(number)
  if number == nil then return '-' end
  return string.format('%d', number)
end

local function server_time()
  local time = redis.call('TIME')
  return tonumber(time[1]), tonumber(time[2])
end

-- The server's time, so that all processes agree; a test may bring its own.
local function clock(given)
  if given ~= '' then return tonumber(given) end
  local seconds, microseconds = server_time()
  return seconds + microseconds / 1e6
end

-- Marks and epochs begin at the time, so that those given out after the server lost everything are greater than those
-- before. A test's clock may stand still meanwhile; this one does not.
local function first_mark()
  local seconds, microseconds = server_time()
  return seconds * 1e6 + microseconds
end

local function parse_reservation(record)
  if not record then return nil end
  local expiry, tokens, cost, mark, stage = string.match(record, '(%S+) (%S+) (%S+) (%S+) (%S+)')
  return {
    expiry = tonumber(expiry), tokens = tonumber(tokens), cost = number(cost), mark = tonumber(mark), stage = stage,
  }
end

local function parse_windows(lines)
  local windows = {}
  for line in string.gmatch(lines, '[^;]+') do
    local start, finish, spent, doubtful, since, ticket, asked_at, seeded =
      string.match(line, '(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)')
    windows[#windows + 1] = {
      start = start, finish = finish, spent = number(spent), doubtful = tonumber(doubtful), since = tonumber(since),
      ticket = number(ticket), asked_at = tonumber(asked_at), seeded = tonumber(seeded),
    }
  end
  return windows
end

local function format_windows(windows)
  local lines = {}
  for i, each in ipairs(windows) do
    lines[i] = table.concat({
      each.start, each.finish, word(each.spent), word(each.doubtful), word(each.since), word(each.ticket),
      text(each.asked_at), word(each.seeded),
    }, ' ')
  end
  return table.concat(lines, ';')
end

-- The account at a place in KEYS, and with it the reservation of a job.
local function load(place, epoch, job)
  local book = {key = KEYS[place], open = KEYS[place + 1], written = {}, changed = false, loaded = {}}
  local names = {unpack(FIELDS)}
  names[#FIELDS + 1] = 'windows'
  names[#FIELDS + 2] = job and 'job/' .. job
  local values = redis.call('HMGET', book.key, unpack(names))
  for i = 1, #FIELDS do
    local value = number(values[i])
    book[FIELDS[i]], book.loaded[FIELDS[i]] = value, value
  end
  book.exists = book.mark ~= nil
  book.windows = parse_windows(book.epoch == epoch and values[#FIELDS + 1] or '')
  book.own = job and parse_reservation(values[#FIELDS + 2])
  book.windows_changed, book.epoch = book.epoch ~= epoch, epoch
  book.at, book.held_until = book.at or 0, book.held_until or 0
  book.in_flight, book.reserved = book.in_flight or 0, book.reserved or 0
  return book
end

local function epoch_now()
  return number(redis.call('GET', KEYS[1])) or 0
end

local function next_mark(book)
  book.mark = book.mark and book.mark + 1 or first_mark()
  book.changed = true
  return book.mark
end

local function level(balance, per_minute, elapsed)
  if per_minute == nil then return nil end
  if balance == nil then return per_minute end
  return math.min(per_minute, balance + elapsed * (per_minute / 60))
end

local function levels(book, rpm, tpm, now)
  local elapsed = math.max(0, now - book.at)
  return level(book.requests, rpm, elapsed), level(book.tokens, tpm, elapsed)
end

local function refill(book, now)
  book.requests, book.tokens = levels(book, book.rpm, book.tpm, now)
  book.at = math.max(book.at, now)
end

local function hold(book, job, reservation)
  local expiry = text(reservation.expiry)
  book.written[#book.written + 1] = 'job/' .. job
  book.written[#book.written + 1] = table.concat({
    expiry, text(reservation.tokens), word(reservation.cost), word(reservation.mark), reservation.stage,
  }, ' ')
  redis.call('ZADD', book.open, expiry, job)
  book.held_until = math.max(book.held_until, reservation.expiry)
  book.changed = true
end

-- Its tokens stay taken: nobody said that they were not used.
local function settle(book, reservation)
  book.reserved = book.reserved - (reservation.cost or 0)
  if reservation.stage ~= 'finished' then book.in_flight = book.in_flight - 1 end
  book.changed = true
end

local function release(book, job, reservation)
  settle(book, reservation)
  redis.call('HDEL', book.key, 'job/' .. job)
  redis.call('ZREM', book.open, job)
end

-- Returns whether there may be more.
local function drop_expired(book, now)
  local jobs = redis.call('ZRANGEBYSCORE', book.open, '-inf', text(now), 'LIMIT', 0, DROP_AT_ONCE)
  if #jobs == 0 then return false end
  local fields = {}
  for i, job in ipairs(jobs) do fields[i] = 'job/' .. job end
  for _, record in ipairs(redis.call('HMGET', book.key, unpack(fields))) do
    local reservation = parse_reservation(record)
    if reservation then settle(book, reservation) end
  end
  redis.call('HDEL', book.key, unpack(fields))
  redis.call('ZREM', book.open, unpack(jobs))
  return #jobs == DROP_AT_ONCE
end

-- The job's reservation, unless its time is over.
local function own_reservation(book, now)
  if book.own and book.own.expiry > now then return book.own end
  return nil
end

local function find_window(book, start, finish)
  for _, window in ipairs(book.windows) do
    if window.start == start and window.finish == finish then return window end
  end
  return nil
end

-- An account may be forgotten once nobody holds anything of it and its bucket would be full again.
local function lifetime(book, now)
  local seconds = IDLE_TTL
  if book.in_flight > 0 or book.reserved > 0 then
    seconds = seconds + math.max(0, book.held_until - now)
  else
    book.held_until = 0
  end
  local requests, tokens = levels(book, book.rpm, book.tpm, now)
  if book.rpm and book.rpm > 0 then seconds = math.max(seconds, 2 * (book.rpm - requests) / (book.rpm / 60)) end
  if book.tpm and book.tpm > 0 then seconds = math.max(seconds, 2 * (book.tpm - tokens) / (book.tpm / 60)) end
  return text(math.ceil(math.min(seconds, 1e9) * 1000))
end

local function save(book, now)
  if not book.changed then return end
  if not book.mark then next_mark(book) end
  local ttl, values = lifetime(book, now), book.written
  for _, name in ipairs(FIELDS) do
    if book[name] ~= book.loaded[name] then
      values[#values + 1] = name
      values[#values + 1] = text(book[name])
      book.loaded[name] = book[name]
    end
  end
  if book.windows_changed then
    values[#values + 1] = 'windows'
    values[#values + 1] = format_windows(book.windows)
  end
  if #values > 0 then redis.call('HSET', book.key, unpack(values)) end
  redis.call('PEXPIRE', book.key, ttl)
  redis.call('PEXPIRE', book.open, ttl)
  book.written, book.windows_changed = {}, false
end
