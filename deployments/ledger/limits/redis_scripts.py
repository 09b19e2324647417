"""The operations on a key's account in Redis, each one Lua script and therefore atomic.

All scripts take the same keys, which share a hash tag and so one node of a cluster, and one
argument in JSON. They use Redis's own clock. `account.py` and `sliding_window.py` explain the
arithmetic, which is the same here; the limits come with each call.

The stored names, which older versions wrote too:

windows  hash    `<window>:<second>` → amount
holds    hash    reservation id → {session, tick (the second), amounts} in JSON
open     hash    sums over all reservations: slots (concurrent requests) and tokens
leases   zset    session → Redis time at which its reservations lapse
day, month       tokens used
"""

from deployments.ledger.limits.account import CONCURRENT_RETRY_S, WINDOW_NAMES
from deployments.ledger.limits.sliding_window import COUNTED_S

KEYS = ("windows", "holds", "open", "leases")
"""Names of the first keys; those of the day and the month follow."""

LEASE_S = 5

_KEPT_S = 600
"""Redis deletes an account after this long without a change."""

_BEGINNING = f"""
local windows, holds, open, leases, day, month = unpack(KEYS)
local args = cjson.decode(ARGV[1])
local time = redis.call('TIME')
local second = tonumber(time[1])
local now = second + tonumber(time[2]) / 1000000
local WINDOW_NAMES = {{{", ".join(f"'{name}'" for name in WINDOW_NAMES)}}}
local COUNTED_S, LEASE_S, KEPT_S = {COUNTED_S}, {LEASE_S}, {_KEPT_S}
local CONCURRENT_RETRY_S = {CONCURRENT_RETRY_S}
"""

_FUNCTIONS = """
local function postpone_expiry()
    redis.call('EXPIRE', windows, COUNTED_S)
    for _, key in ipairs({holds, open, leases}) do redis.call('EXPIRE', key, KEPT_S) end
end

local function read_windows()
    local read = {}
    for _, name in ipairs(WINDOW_NAMES) do read[name] = {used = 0, newest = 0, buckets = {}} end
    local fields, old = redis.call('HGETALL', windows), {}
    for i = 1, #fields, 2 do
        local name, at = string.match(fields[i], '([%a_]+):(%d+)')
        local amount, window = tonumber(fields[i + 1]), read[name]
        at = tonumber(at)
        -- A bucket far ahead was counted before the clock went back. It would count until then.
        if at + COUNTED_S <= now or at > now + COUNTED_S then
            old[#old + 1] = fields[i]
        elseif amount > 0 then
            window.used = window.used + amount
            window.newest = math.max(window.newest, at)
            table.insert(window.buckets, {at = at, amount = amount})
        end
    end
    if #old > 0 then redis.call('HDEL', windows, unpack(old)) end
    return read
end

local function count(name, amount)
    if amount > 0 then redis.call('HINCRBY', windows, name .. ':' .. second, amount) end
end

local function refund(name, at, amount)
    local field = name .. ':' .. at
    local total = tonumber(redis.call('HGET', windows, field) or 0)
    if total <= amount then
        redis.call('HDEL', windows, field)
    else
        redis.call('HINCRBY', windows, field, -amount)
    end
end

local function open_reservation(id, amounts)
    local stored = {session = args.session, tick = second, amounts = amounts}
    redis.call('HSET', holds, id, cjson.encode(stored))
    redis.call('HINCRBY', open, 'slots', amounts.slots)
    redis.call('HINCRBY', open, 'tokens', amounts.tokens)
    for _, name in ipairs(WINDOW_NAMES) do count(name, amounts[name] or 0) end
end

local function close_reservation(id, reservation)
    redis.call('HDEL', holds, id)
    -- Not `-n`: in Lua, minus zero is -0, which Redis does not parse as an integer.
    redis.call('HINCRBY', open, 'slots', 0 - reservation.amounts.slots)
    redis.call('HINCRBY', open, 'tokens', 0 - reservation.amounts.tokens)
end

local function close_reservations(is_over)
    local fields = redis.call('HGETALL', holds)
    for i = 1, #fields, 2 do
        local reservation = cjson.decode(fields[i + 1])
        if is_over(fields[i], reservation) then close_reservation(fields[i], reservation) end
    end
end

local function close_lapsed_sessions()
    -- The clock has gone back: a session that has died would keep its reservations until then.
    local latest = now + LEASE_S
    for _, session in ipairs(redis.call('ZRANGEBYSCORE', leases, '(' .. latest, '+inf')) do
        redis.call('ZADD', leases, latest, session)
    end
    local lapsed = {}
    for _, session in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now)) do
        lapsed[session] = true
    end
    if next(lapsed) then
        close_reservations(function(_, reservation) return lapsed[reservation.session] end)
        redis.call('ZREMRANGEBYSCORE', leases, '-inf', now)
    end
end

local function status()
    local read, numbers = read_windows(), {}
    for _, name in ipairs({'requests', 'tokens'}) do
        local window = read[name]
        local reset = 0
        if window.used > 0 then reset = window.newest + COUNTED_S - now end
        table.insert(numbers, string.format('%.0f', window.used))
        table.insert(numbers, string.format('%.6f', reset))
    end
    return numbers
end
"""

_RESERVE = """
-- Before the lapsed sessions are closed, so that a slow session keeps its own reservations.
redis.call('ZADD', leases, now + LEASE_S, args.session)
close_lapsed_sessions()
if redis.call('HEXISTS', holds, args.id) == 1 then return {'', status()} end

local read = read_windows()
local open_tokens = tonumber(redis.call('HGET', open, 'tokens') or 0)
local open_slots = tonumber(redis.call('HGET', open, 'slots') or 0)

local function wait(limit_name, requested, limit)
    if limit_name == 'day' or limit_name == 'month' or requested > limit then return '' end
    if limit_name == 'concurrent' then return tostring(CONCURRENT_RETRY_S) end
    local excess = read[limit_name].used + requested - limit
    table.sort(read[limit_name].buckets, function(a, b) return a.at < b.at end)
    for _, bucket in ipairs(read[limit_name].buckets) do
        excess = excess - bucket.amount
        if excess <= 0 then return string.format('%.6f', bucket.at + COUNTED_S - now) end
    end
end

local demands = {
    {'month', tonumber(redis.call('GET', month) or 0) + open_tokens, args.tokens},
    {'day', tonumber(redis.call('GET', day) or 0) + open_tokens, args.tokens},
    {'requests', read.requests.used, args.amounts.requests},
    {'tokens', read.tokens.used, args.tokens},
    {'images', read.images.used, args.amounts.images},
    {'pixel_steps', read.pixel_steps.used, args.amounts.pixel_steps},
    {'concurrent', open_slots, args.amounts.slots},
}
for _, demand in ipairs(demands) do
    local limit_name, used, requested = unpack(demand)
    local limit = args.limits[limit_name]
    if limit and requested > 0 and used + requested > limit then
        local wait_s = wait(limit_name, requested, limit)
        return {limit_name, status(), string.format('%.0f', used), wait_s}
    end
end
open_reservation(args.id, args.amounts)
postpone_expiry()
return {'', status()}
"""

_SETTLE = """
local stored = redis.call('HGET', holds, args.id)
if stored then
    local reservation = cjson.decode(stored)
    close_reservation(args.id, reservation)
    read_windows() -- deletes the buckets that no longer count, which must not be refunded
    for _, name in ipairs(WINDOW_NAMES) do
        -- An earlier version's reservation has fewer amounts.
        local unused = (reservation.amounts[name] or 0) - args.used[name]
        if unused > 0 then refund(name, reservation.tick, unused) else count(name, -unused) end
    end
    postpone_expiry()
end
"""

_RENEW = """
redis.call('ZADD', leases, now + LEASE_S, args.session)
close_lapsed_sessions()
local named, restored = {}, {}
for _, reservation in ipairs(args.reservations) do
    named[reservation.id] = true
    if redis.call('HEXISTS', holds, reservation.id) == 0 then
        open_reservation(reservation.id, reservation.amounts)
        table.insert(restored, reservation.id)
    end
end
for _, id in ipairs(args.pending_ids) do named[id] = true end
if args.is_complete then
    close_reservations(function(id, reservation)
        return reservation.session == args.session and not named[id]
    end)
end
if #args.reservations + #args.pending_ids == 0 then redis.call('ZREM', leases, args.session) end
postpone_expiry()
return restored
"""

_ADD_QUOTA_USAGE = """
for key, kept_s in pairs({[day] = args.day_s, [month] = args.month_s}) do
    redis.call('INCRBY', key, args.tokens)
    redis.call('EXPIRE', key, kept_s)
end
"""

_SET_QUOTA_USAGE = """
-- Not a plain SET: other ledgers have been counting since the sum was read.
for key, tokens in pairs({[day] = args.day, [month] = args.month}) do
    if tonumber(redis.call('GET', key) or 0) < tokens then redis.call('SET', key, tokens) end
end
redis.call('EXPIRE', day, args.day_s)
redis.call('EXPIRE', month, args.month_s)
"""

RESERVE, SETTLE, RENEW, ADD_QUOTA_USAGE, SET_QUOTA_USAGE = (
    _BEGINNING + _FUNCTIONS + body
    for body in (_RESERVE, _SETTLE, _RENEW, _ADD_QUOTA_USAGE, _SET_QUOTA_USAGE)
)
