-- A job is over: its slots are free, tokens that it did not use return, and of its money stays what it cost.
-- ARGV: now, job, tokens that it used ('' keeps those taken), cost.

local now, job, used, cost = clock(ARGV[1]), ARGV[2], number(ARGV[3]), tonumber(ARGV[4])
local epoch = epoch_now()

local function finish(book, own)
  if used then
    refill(book, now)
    if book.tpm and book.tokens then book.tokens = math.min(book.tpm, book.tokens + (own.tokens - used)) end
  end
  if not own.cost or cost <= 0 then
    release(book, job, own)
    return
  end
  settle(book, own)
  book.reserved = book.reserved + cost
  hold(book, job, {expiry = now + CHARGE_TTL, tokens = 0, cost = cost, mark = own.mark, stage = 'finished'})
end

for place = 2, #KEYS, 2 do
  local book = load(place, epoch, job)
  if book.exists then
    drop_expired(book, now)
    local own = own_reservation(book, now)
    if own and own.stage ~= 'finished' then finish(book, own) end
    save(book, now)
  end
end
return 1
