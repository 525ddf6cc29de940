-- Grant the first candidate that may go, or say which one may go first and when. Nothing is written on refusal.
-- KEYS, three for each candidate: bucket, leases, dead key.
-- ARGV: now, lease, lease ttl in seconds, then four for each candidate: rpm, tpm, parallel, tokens.
-- Returns {candidate, reserved, rpm, tpm}, or {0, wait in seconds, reason}.

local now, lease, lease_ttl = clock(ARGV[1]), ARGV[2], tonumber(ARGV[3])

local function wait_for(balance, needed, per_minute)
  if not balance then return 0 end
  if per_minute <= 0 then return math.huge end
  local wait = (needed - balance) / rate(per_minute)
  if wait <= SLACK then return 0 end
  return wait
end

local function wait_for_slot(leases, parallel)
  -- Counting the live ones is worth it only when all together could be too many.
  if not parallel or redis.call('ZCARD', leases) < parallel then return 0 end
  if redis.call('ZCOUNT', leases, '(' .. text(now), '+inf') < parallel then return 0 end
  if parallel <= 0 then return math.huge end
  return PARALLEL_RETRY
end

local shortest, shortest_reason
for i = 0, #KEYS / 3 - 1 do
  local key, leases, dead = KEYS[3 * i + 1], KEYS[3 * i + 2], KEYS[3 * i + 3]
  local configured_rpm, configured_tpm = number(ARGV[4 * i + 4]), number(ARGV[4 * i + 5])
  local parallel, reserved = number(ARGV[4 * i + 6]), tonumber(ARGV[4 * i + 7])
  local wait, reason = math.huge, 'dead'
  if redis.call('EXISTS', dead) == 0 then
    local bucket = load(key)
    local rpm, tpm = limits(bucket, configured_rpm, configured_tpm, now)
    if tpm then reserved = math.min(reserved, math.floor(tpm)) end
    local requests, tokens = levels(bucket, rpm, tpm, now)
    wait, reason = math.max(0, (bucket.cooldown_until or now) - now), 'cooldown'
    local function consider(other, name) if other > wait then wait, reason = other, name end end
    consider(wait_for(requests, 1, rpm), 'requests')
    consider(wait_for(tokens, reserved, tpm), 'tokens')
    consider(wait_for_slot(leases, parallel), 'parallel')
    if wait <= 0 then
      if rpm or tpm or parallel then
        bucket.rpm, bucket.tpm = configured_rpm, configured_tpm
        refill(bucket, rpm, tpm, now)
        if rpm then bucket.requests = bucket.requests - 1 end
        if tpm then bucket.tokens = bucket.tokens - reserved end
        save(key, bucket, {'at', 'requests', 'tokens', 'rpm', 'tpm'})
        keep(key, bucket, rpm, tpm, now)
        redis.call('ZREMRANGEBYSCORE', leases, '-inf', now)
        redis.call('ZADD', leases, now + lease_ttl, lease)
        local ttl = math.ceil(lease_ttl * 1000)
        -- A minute more than needed, so that it is not set anew each time.
        if redis.call('PTTL', leases) < ttl then redis.call('PEXPIRE', leases, ttl + 60000) end
      end
      return {i + 1, text(reserved), text(rpm), text(tpm)}
    end
  end
  if not shortest or wait < shortest then shortest, shortest_reason = wait, reason end
end
return {0, text(shortest), shortest_reason}
