-- The ledger has these rows. ARGV: now; for each row job, when it started, cost, whether it is the job's last ('1' or
-- ''), the number of its accounts and their numbers among KEYS, from 0.

local now, epoch = clock(ARGV[1]), epoch_now()
local books = {}
for i = 1, (#KEYS - 1) / 2 do
  local book = load(2 * i, epoch)
  if book.exists then
    drop_expired(book, now)
    books[i - 1] = book
  end
end

local function charge(book, job, started_at, cost, last)
  book.own = parse_reservation(redis.call('HGET', book.key, 'job/' .. job))
  local own = own_reservation(book, now)
  if own and own.stage == 'charged' then own = nil end
  for _, window in ipairs(book.windows) do
    if tonumber(window.start) <= started_at and started_at < tonumber(window.finish) then
      if window.ticket then window.since = window.since + cost end
      if window.spent and own and last and own.mark >= window.seeded then
        window.spent = window.spent + cost
      elseif window.spent then
        window.doubtful = window.doubtful + cost
      end
      book.changed, book.windows_changed = true, true
    end
  end
  if not own or not last then return end
  if own.stage == 'finished' then
    release(book, job, own)
  else
    book.reserved = book.reserved - (own.cost or 0)
    own.cost, own.stage = nil, 'charged'
    hold(book, job, own)
  end
end

local place = 2
while place <= #ARGV do
  local job, started_at, cost, last = ARGV[place], tonumber(ARGV[place + 1]), tonumber(ARGV[place + 2]), ARGV[place + 3]
  local accounts = tonumber(ARGV[place + 4])
  for i = place + 5, place + 4 + accounts do
    local book = books[tonumber(ARGV[i])]
    if book then
      charge(book, job, started_at, cost, last == '1')
      if #book.written > 0 then save(book, now) end -- a later row may be of the same job
    end
  end
  place = place + 5 + accounts
end
for _, book in pairs(books) do save(book, now) end
return 1
