-- The token bucket of token_bucket.py, operation by operation; every script begins with this file.
--
-- A bucket is a hash: at, requests, tokens (its balances and when they were right), rpm, tpm (as configured for the
-- latest attempt), learned_rpm, learned_tpm, learned_at, cooldown_until. Its leases are a sorted set, lease -> expiry.
-- Numbers are kept with 17 digits, so that nothing is lost between a double and its text: commands write those that
-- they are given as such, answers need `text`.

local PACE = 0.99
local BURST_REQUESTS = 0.01
local SMALL_BURST, SMALL_BURST_SHARE = 5, 0.1
local LEARNED_TTL = 3600
local PARALLEL_RETRY = 0.25
local SLACK = 2e-6

local FIELDS = {'at', 'requests', 'tokens', 'rpm', 'tpm', 'learned_rpm', 'learned_tpm', 'learned_at', 'cooldown_until'}

local function number(text)
  if not text or text == '' then return nil end
  return tonumber(text)
end

local function text(number)
  if number == nil then return '' end
  return string.format('%.17g', number)
end

-- The server's time, so that all processes agree; a test may bring its own.
local function clock(given)
  if given ~= '' then return tonumber(given) end
  local time = redis.call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1e6
end

local function load(key)
  local values = redis.call('HMGET', key, unpack(FIELDS))
  local bucket = {}
  for i, name in ipairs(FIELDS) do bucket[name] = number(values[i]) end
  return bucket
end

local function request_capacity(rpm)
  return math.max(1, math.min(SMALL_BURST, rpm * SMALL_BURST_SHARE), rpm * BURST_REQUESTS)
end
local function rate(per_minute) return PACE * per_minute / 60 end

local function level(balance, capacity, per_minute, elapsed)
  if balance == nil then return capacity end
  return math.min(capacity, balance + elapsed * rate(per_minute))
end

-- The configured limits, and where there is none what was learnt.
local function limits(bucket, rpm, tpm, now)
  if bucket.learned_at and now - bucket.learned_at < LEARNED_TTL then
    rpm = rpm or bucket.learned_rpm
    tpm = tpm or bucket.learned_tpm
  end
  return rpm, tpm
end

local function levels(bucket, rpm, tpm, now)
  local elapsed = math.max(0, now - (bucket.at or 0))
  local requests = rpm and level(bucket.requests, request_capacity(rpm), rpm, elapsed)
  local tokens = tpm and level(bucket.tokens, tpm, tpm, elapsed)
  return requests, tokens
end

local function refill(bucket, rpm, tpm, now)
  bucket.requests, bucket.tokens = levels(bucket, rpm, tpm, now)
  bucket.at = math.max(bucket.at or 0, now)
end

-- A bucket may be forgotten once it would be full again and nothing that it knows is in force.
local function lifetime(bucket, rpm, tpm, now)
  local seconds = math.max(LEARNED_TTL, (bucket.cooldown_until or 0) - now)
  local requests, tokens = levels(bucket, rpm, tpm, now)
  if rpm and rpm > 0 then seconds = math.max(seconds, 2 * (request_capacity(rpm) - requests) / rate(rpm)) end
  if tpm and tpm > 0 then seconds = math.max(seconds, 2 * (tpm - tokens) / rate(tpm)) end
  return math.ceil(math.min(seconds, 1e9) * 1000)
end

local BALANCES = {'at', 'requests', 'tokens'}

-- Write these fields, the only ones that changed.
local function save(key, bucket, names)
  local values = {}
  for i, name in ipairs(names) do
    values[2 * i - 1], values[2 * i] = name, bucket[name] or ''
  end
  redis.call('HSET', key, unpack(values))
end

local function keep(key, bucket, rpm, tpm, now)
  redis.call('PEXPIRE', key, lifetime(bucket, rpm, tpm, now))
end
