-- Adopt the limits that the config did not give, and believe a lower balance than ours.
-- KEYS: bucket. ARGV: now, rpm, tpm, remaining requests, remaining tokens ('' for what the provider did not say).

local now, rpm, tpm = clock(ARGV[1]), number(ARGV[2]), number(ARGV[3])
local requests, tokens = number(ARGV[4]), number(ARGV[5])
local bucket = load(KEYS[1])
local known_rpm, known_tpm = limits(bucket, nil, nil, now)
if rpm or tpm then
  bucket.learned_rpm, bucket.learned_tpm, bucket.learned_at = rpm or known_rpm, tpm or known_tpm, now
end
rpm, tpm = limits(bucket, bucket.rpm, bucket.tpm, now)
refill(bucket, rpm, tpm, now)
if rpm and requests then bucket.requests = math.min(bucket.requests, requests) end
if tpm and tokens then bucket.tokens = math.min(bucket.tokens, tokens) end
save(KEYS[1], bucket, {'at', 'requests', 'tokens', 'learned_rpm', 'learned_tpm', 'learned_at'})
keep(KEYS[1], bucket, rpm, tpm, now)
return 1
