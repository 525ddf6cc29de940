-- Take all that a job needs from all accounts, or say who refuses it, or which budgets must be seeded before.
-- ARGV: now, job, tokens, cost, ttl in seconds; for each account rpm, tpm, parallel, the number of its budgets, and for
-- each of them start, end, limit, base.
-- Returns {'admitted', then requests, tokens, spent of each account}; {'refused', account, limit, wait in seconds,
-- allowed, used}; {'unseeded', then account, start, end, ticket of each budget}; or {'again'} when so much had expired
-- that more may be left. Accounts are counted from 0.

local now, job, tokens, cost, ttl =
  clock(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

local function read_accounts(epoch)
  local accounts, place = {}, 6
  for i = 1, (#KEYS - 1) / 2 do
    local account = {budgets = {}, book = load(2 * i, epoch, job)}
    account.rpm, account.tpm, account.parallel =
      number(ARGV[place]), number(ARGV[place + 1]), number(ARGV[place + 2])
    local budgets = tonumber(ARGV[place + 3])
    place = place + 4
    for j = 1, budgets do
      account.budgets[j] = {
        start = ARGV[place], finish = ARGV[place + 1], limit = tonumber(ARGV[place + 2]),
        base = tonumber(ARGV[place + 3]),
      }
      place = place + 4
    end
    accounts[i] = account
  end
  return accounts
end

-- All but what is reserved, and how much of it is in doubt.
local function used_by(book, budget)
  local window = find_window(book, budget.start, budget.finish)
  if not window then return budget.base, 0 end
  return budget.base + ((window.spent or 0) + window.doubtful), window.doubtful
end

local function fits(book, budget, used)
  used = used + book.reserved
  local alone = book.in_flight == 0 or book.reserved == 0 -- what finished jobs have reserved is what they cost
  return used + cost <= budget.limit or (alone and used < budget.limit)
end

local function asks(book, budget)
  local window = find_window(book, budget.start, budget.finish)
  if not window or not window.spent then return true end
  if window.doubtful == 0 then return false end
  local used, doubtful = used_by(book, budget)
  local refused_in_doubt = not fits(book, budget, used) and fits(book, budget, used - doubtful)
  return refused_in_doubt or now - window.asked_at >= ASK_AGAIN
end

local function ask(book, budget)
  local window = find_window(book, budget.start, budget.finish)
  if not window then
    window = {start = budget.start, finish = budget.finish, doubtful = 0, since = 0, seeded = 0}
    book.windows[#book.windows + 1] = window
  end
  if not window.ticket then window.ticket, window.since = next_mark(book), 0 end
  window.asked_at = now
  book.changed, book.windows_changed = true, true
  return window.ticket
end

local function forget_old_windows(account)
  local book, old, asked = account.book, false, {}
  for _, window in ipairs(book.windows) do
    window.old = tonumber(window.finish) <= now - OVER
    old = old or window.old
  end
  if not old and #book.windows <= MAX_WINDOWS then return end
  for _, budget in ipairs(account.budgets) do asked[budget.start .. ' ' .. budget.finish] = true end
  local function keep(still)
    local kept = {}
    for _, window in ipairs(book.windows) do
      if asked[window.start .. ' ' .. window.finish] or still(window) then kept[#kept + 1] = window end
    end
    book.windows = kept
  end
  keep(function(window) return not window.old end)
  if #book.windows > MAX_WINDOWS then keep(function() return false end) end
  book.changed, book.windows_changed = true, true
end

local function wait_for(balance, needed, per_minute)
  if per_minute <= 0 then return math.huge end
  local wait = (needed - balance) / (per_minute / 60)
  if wait <= SLACK then return 0 end
  return wait
end

local function wait_for_budget(book, budget)
  if fits(book, budget, (used_by(book, budget))) then return 0 end
  if budget.limit <= 0 and cost > 0 then return math.huge end
  return math.max(tonumber(budget.finish) - now, TURN)
end

local function longest_wait(account)
  local book = account.book
  local longest = {seconds = 0}
  local function consider(seconds, limit, allowed, used)
    if seconds > longest.seconds then
      longest = {seconds = seconds, limit = limit, allowed = allowed, used = used}
    end
  end
  local requests, balance = levels(book, account.rpm, account.tpm, now)
  if account.rpm then consider(wait_for(requests, 1, account.rpm), 'requests', account.rpm, account.rpm - requests) end
  if account.tpm then
    consider(wait_for(balance, math.min(tokens, account.tpm), account.tpm), 'tokens', account.tpm,
      account.tpm - balance)
  end
  if account.parallel and book.in_flight >= account.parallel then
    consider(account.parallel > 0 and SLOT_RETRY or math.huge, 'max_parallel_requests', account.parallel,
      book.in_flight)
  end
  for _, budget in ipairs(account.budgets) do
    consider(wait_for_budget(book, budget), 'budget', budget.limit, (used_by(book, budget)) + book.reserved)
  end
  return longest
end

local function take(account)
  local book = account.book
  local taken, held = account.tpm and math.min(tokens, account.tpm) or 0, nil
  for _, budget in ipairs(account.budgets) do
    held = math.min(held or cost, budget.limit - (used_by(book, budget)) - book.reserved)
  end
  book.rpm, book.tpm = account.rpm, account.tpm
  refill(book, now)
  if book.requests then book.requests = book.requests - 1 end
  if book.tokens then book.tokens = book.tokens - taken end
  book.in_flight = book.in_flight + 1
  book.reserved = book.reserved + (held or 0)
  if not book.mark then next_mark(book) end
  book.own = {expiry = now + ttl, tokens = taken, cost = held, mark = book.mark, stage = 'open'}
  hold(book, job, book.own)
end

local function renew(book)
  if book.own.stage ~= 'finished' and now + ttl > book.own.expiry then
    book.own.expiry = now + ttl
    hold(book, job, book.own)
  end
end

local accounts, again = read_accounts(epoch_now()), false
for _, account in ipairs(accounts) do again = drop_expired(account.book, now) or again end
local function save_all()
  for _, account in ipairs(accounts) do save(account.book, now) end
end
if again then
  save_all()
  return {'again'}
end

local answer, listed = {'unseeded'}, {}
for i, account in ipairs(accounts) do
  account.admitted = own_reservation(account.book, now) ~= nil
  for _, budget in ipairs(account.admitted and {} or account.budgets) do
    local name = i .. ' ' .. budget.start .. ' ' .. budget.finish
    if not listed[name] and asks(account.book, budget) then
      listed[name] = true
      listed[#listed + 1] = {i, account.book, budget}
    end
  end
end
if #listed > 0 then
  for _, account in ipairs(accounts) do
    if not account.admitted then forget_old_windows(account) end
  end
  for _, each in ipairs(listed) do
    local place, book, budget = unpack(each)
    answer[#answer + 1] = text(place - 1)
    answer[#answer + 1] = budget.start
    answer[#answer + 1] = budget.finish
    answer[#answer + 1] = text(ask(book, budget))
  end
  save_all()
  return answer
end

local longest, refusing = {seconds = 0}, nil
for i, account in ipairs(accounts) do
  local wait = account.admitted and longest or longest_wait(account)
  if wait.seconds > longest.seconds then longest, refusing = wait, i - 1 end
end
if refusing then
  save_all()
  return {
    'refused', text(refusing), longest.limit, text(longest.seconds), text(longest.allowed), text(longest.used),
  }
end

answer = {'admitted'}
for _, account in ipairs(accounts) do
  local book = account.book
  if account.admitted then
    renew(book)
  else
    forget_old_windows(account)
    take(account)
  end
  local requests, balance = levels(book, account.rpm, account.tpm, now)
  local spent
  if account.budgets[1] then
    spent = (used_by(book, account.budgets[1])) + book.reserved - (book.own.cost or 0)
  end
  answer[#answer + 1] = text(requests)
  answer[#answer + 1] = text(balance)
  answer[#answer + 1] = text(spent)
end
save_all()
return answer
