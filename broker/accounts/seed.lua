-- What the ledger had for a budget. What was charged since the ticket may be in it, or not. KEYS: epoch, one account.
-- ARGV: now, start, end, spent, ticket.

local now, start, finish = clock(ARGV[1]), ARGV[2], ARGV[3]
local book = load(2, epoch_now())
local window = find_window(book, start, finish)
if not window or not window.ticket or window.ticket ~= tonumber(ARGV[5]) then return 0 end
window.spent, window.doubtful = tonumber(ARGV[4]), window.since
window.since, window.ticket, window.seeded = 0, nil, next_mark(book)
book.windows_changed = true
save(book, now)
return 1
