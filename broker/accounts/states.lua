-- ARGV: now. Returns for each account {requests, tokens, in flight, reserved, then start, end, spent of each window
-- that is known for certain}; balances are '' when never used or not limited.

local now, epoch = clock(ARGV[1]), epoch_now()
local answer = {}
for place = 2, #KEYS, 2 do
  local book = load(place, epoch)
  if book.exists then
    drop_expired(book, now)
    save(book, now)
  end
  local requests, tokens
  if book.requests or book.tokens then requests, tokens = levels(book, book.rpm, book.tpm, now) end
  local state = {text(requests), text(tokens), text(book.in_flight), text(book.reserved)}
  for _, window in ipairs(book.windows) do
    if window.spent and window.doubtful == 0 then
      state[#state + 1] = window.start
      state[#state + 1] = window.finish
      state[#state + 1] = text(window.spent)
    end
  end
  answer[#answer + 1] = state
end
return answer
