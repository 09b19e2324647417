"""The operations on a key's account in Redis, each one Lua script and so atomic.

All of them take the same keys, which share a hash tag and so a node of a cluster, and one argument
in JSON. They go by Redis's own clock. What the arithmetic is for, `account.py` and `windows.py`
say; the limits in it are the caller's.

windows  hash    `<kind>:<tick>` → amount
holds    hash    id → {session, tick, amounts} in JSON
open     hash    slots and tokens of all holds
leases   zset    session → until when its holds are believed
day, month       tokens used
"""

from deployments.ledger.limits.account import SLOT_RETRY_S, WINDOWED
from deployments.ledger.limits.sliding_window import COUNTED_S

KEYS = ("windows", "holds", "open", "leases")
"""Names of the first keys; those of the day and the month follow."""

LEASE_S = 5

_KEPT_S = 600
"""For how long nothing may happen before the account is forgotten."""

_BEGINNING = f"""
local windows, holds, open, leases, day, month = unpack(KEYS)
local ask = cjson.decode(ARGV[1])
local time = redis.call('TIME')
local tick = tonumber(time[1])
local now = tick + tonumber(time[2]) / 1000000
local KINDS = {{{", ".join(f"'{kind}'" for kind in WINDOWED)}}}
local COUNTED_S, LEASE_S, KEPT_S = {COUNTED_S}, {LEASE_S}, {_KEPT_S}
local SLOT_RETRY_S = {SLOT_RETRY_S}
"""

_FUNCTIONS = """
local function keep()
    redis.call('EXPIRE', windows, COUNTED_S)
    for _, key in ipairs({holds, open, leases}) do redis.call('EXPIRE', key, KEPT_S) end
end

local function read_windows()
    local read = {}
    for _, kind in ipairs(KINDS) do read[kind] = {used = 0, newest = 0, buckets = {}} end
    local fields, old = redis.call('HGETALL', windows), {}
    for i = 1, #fields, 2 do
        local kind, at = string.match(fields[i], '(%a+):(%d+)')
        local amount, window = tonumber(fields[i + 1]), read[kind]
        at = tonumber(at)
        if at + COUNTED_S <= now then
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

local function count(kind, amount)
    if amount > 0 then redis.call('HINCRBY', windows, kind .. ':' .. tick, amount) end
end

local function give_back(kind, at, amount)
    local field = kind .. ':' .. at
    local there = tonumber(redis.call('HGET', windows, field) or 0)
    if there <= amount then
        redis.call('HDEL', windows, field)
    else
        redis.call('HINCRBY', windows, field, -amount)
    end
end

local function hold(id, amounts)
    local kept = {session = ask.session, tick = tick, amounts = amounts}
    redis.call('HSET', holds, id, cjson.encode(kept))
    redis.call('HINCRBY', open, 'slots', amounts.slots)
    redis.call('HINCRBY', open, 'tokens', amounts.tokens)
    for _, kind in ipairs(KINDS) do count(kind, amounts[kind]) end
end

local function end_hold(id, held)
    redis.call('HDEL', holds, id)
    -- Not `-n`: minus nothing is -0 in Lua, and no integer to Redis.
    redis.call('HINCRBY', open, 'slots', 0 - held.amounts.slots)
    redis.call('HINCRBY', open, 'tokens', 0 - held.amounts.tokens)
end

local function end_holds(is_over)
    local fields = redis.call('HGETALL', holds)
    for i = 1, #fields, 2 do
        local held = cjson.decode(fields[i + 1])
        if is_over(fields[i], held) then end_hold(fields[i], held) end
    end
end

local function end_lapsed()
    local lapsed = {}
    for _, session in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now)) do
        lapsed[session] = true
    end
    if next(lapsed) then
        end_holds(function(_, held) return lapsed[held.session] end)
        redis.call('ZREMRANGEBYSCORE', leases, '-inf', now)
    end
end

local function stand()
    local read, standing = read_windows(), {}
    for _, kind in ipairs({'requests', 'tokens'}) do
        local window = read[kind]
        local reset = 0
        if window.used > 0 then reset = window.newest + COUNTED_S - now end
        table.insert(standing, string.format('%.0f', window.used))
        table.insert(standing, string.format('%.6f', reset))
    end
    return standing
end
"""

_RESERVE = """
-- First, so that whoever was only slow does not end its own holds.
redis.call('ZADD', leases, now + LEASE_S, ask.session)
end_lapsed()
if redis.call('HEXISTS', holds, ask.id) == 1 then return {'', stand()} end

local read = read_windows()
local open_tokens = tonumber(redis.call('HGET', open, 'tokens') or 0)
local open_slots = tonumber(redis.call('HGET', open, 'slots') or 0)

local function wait(limited, amount, limit)
    if limited == 'day' or limited == 'month' or amount > limit then return '' end
    if limited == 'concurrent' then return tostring(SLOT_RETRY_S) end
    local excess = read[limited].used + amount - limit
    table.sort(read[limited].buckets, function(a, b) return a.at < b.at end)
    for _, bucket in ipairs(read[limited].buckets) do
        excess = excess - bucket.amount
        if excess <= 0 then return string.format('%.6f', bucket.at + COUNTED_S - now) end
    end
end

local demands = {
    {'month', tonumber(redis.call('GET', month) or 0) + open_tokens, ask.tokens},
    {'day', tonumber(redis.call('GET', day) or 0) + open_tokens, ask.tokens},
    {'requests', read.requests.used, ask.amounts.requests},
    {'tokens', read.tokens.used, ask.tokens},
    {'images', read.images.used, ask.amounts.images},
    {'concurrent', open_slots, ask.amounts.slots},
}
for _, demand in ipairs(demands) do
    local limited, used, amount = unpack(demand)
    local limit = ask.limits[limited]
    if limit and amount > 0 and used + amount > limit then
        return {limited, stand(), string.format('%.0f', used), wait(limited, amount, limit)}
    end
end
hold(ask.id, ask.amounts)
keep()
return {'', stand()}
"""

_SETTLE = """
local kept = redis.call('HGET', holds, ask.id)
if kept then
    local held = cjson.decode(kept)
    end_hold(ask.id, held)
    read_windows() -- what counts no more is not given back, but gone
    for _, kind in ipairs(KINDS) do
        local unused = held.amounts[kind] - ask.used[kind]
        if unused > 0 then give_back(kind, held.tick, unused) else count(kind, -unused) end
    end
    keep()
end
"""

_RENEW = """
redis.call('ZADD', leases, now + LEASE_S, ask.session)
end_lapsed()
local named, restored = {}, {}
for _, held in ipairs(ask.holds) do
    named[held.id] = true
    if redis.call('HEXISTS', holds, held.id) == 0 then
        hold(held.id, held.amounts)
        table.insert(restored, held.id)
    end
end
for _, id in ipairs(ask.asked) do named[id] = true end
if ask.is_all then
    end_holds(function(id, held) return held.session == ask.session and not named[id] end)
end
if #ask.holds + #ask.asked == 0 then redis.call('ZREM', leases, ask.session) end
keep()
return restored
"""

_STANDING = "return stand()"

_SPEND = """
for key, kept_s in pairs({[day] = ask.day_s, [month] = ask.month_s}) do
    redis.call('INCRBY', key, ask.tokens)
    redis.call('EXPIRE', key, kept_s)
end
"""

_SEED = """
-- Not a plain SET: others have been counting since the sum was taken.
for key, seed in pairs({[day] = ask.day, [month] = ask.month}) do
    if tonumber(redis.call('GET', key) or 0) < seed then redis.call('SET', key, seed) end
end
redis.call('EXPIRE', day, ask.day_s)
redis.call('EXPIRE', month, ask.month_s)
"""

RESERVE, SETTLE, RENEW, STANDING, SPEND, SEED = (
    _BEGINNING + _FUNCTIONS + body for body in (_RESERVE, _SETTLE, _RENEW, _STANDING, _SPEND, _SEED)
)
