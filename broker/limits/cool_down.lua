-- Keep everybody off a bucket; a longer cooldown in force stays. KEYS: bucket. ARGV: now, seconds.

local now = clock(ARGV[1])
local bucket = load(KEYS[1])
local rpm, tpm = limits(bucket, bucket.rpm, bucket.tpm, now)
bucket.cooldown_until = math.max(bucket.cooldown_until or 0, now + tonumber(ARGV[2]))
save(KEYS[1], bucket, {'cooldown_until'})
keep(KEYS[1], bucket, rpm, tpm, now)
return 1
