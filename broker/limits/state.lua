-- KEYS, two for each bucket: bucket, leases. ARGV: now.
-- Returns six texts for each bucket: requests, tokens ('' when never used or not limited), in flight, cooldown left,
-- rpm, tpm ('' when not limited).

local now = clock(ARGV[1])
local answer = {}
for i = 1, #KEYS, 2 do
  local bucket = load(KEYS[i])
  local rpm, tpm = limits(bucket, bucket.rpm, bucket.tpm, now)
  local requests, tokens
  if bucket.requests or bucket.tokens then requests, tokens = levels(bucket, rpm, tpm, now) end
  answer[#answer + 1] = text(requests)
  answer[#answer + 1] = text(tokens)
  answer[#answer + 1] = text(redis.call('ZCOUNT', KEYS[i + 1], '(' .. text(now), '+inf'))
  answer[#answer + 1] = text(math.max(0, (bucket.cooldown_until or now) - now))
  answer[#answer + 1] = text(rpm)
  answer[#answer + 1] = text(tpm)
end
return answer
