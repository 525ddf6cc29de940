-- Give a slot back and replace the reserved tokens by the used ones; once a lease, and not after it expired.
-- KEYS: bucket, leases. ARGV: now, lease, reserved, used ('' keeps the reservation).

local now, lease, reserved, used = clock(ARGV[1]), ARGV[2], tonumber(ARGV[3]), number(ARGV[4])
local expiry = number(redis.call('ZSCORE', KEYS[2], lease))
if not expiry or expiry <= now then return 0 end
redis.call('ZREM', KEYS[2], lease)
if used then
  local bucket = load(KEYS[1])
  local rpm, tpm = limits(bucket, bucket.rpm, bucket.tpm, now)
  refill(bucket, rpm, tpm, now)
  if tpm then bucket.tokens = math.min(tpm, bucket.tokens + (reserved - used)) end
  save(KEYS[1], bucket, BALANCES)
  -- The lifetime that the attempt's start gave it is enough, unless it used more than it had reserved.
  if reserved < used then keep(KEYS[1], bucket, rpm, tpm, now) end
end
return 1
