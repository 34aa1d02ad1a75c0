#!lua flags=allow-oom
-- One budget of a workspace for a whole fleet of proxies: an exact sliding window on this server's clock.
--
-- Every call of the script does everything that a member has to say and ask: what it sent, what it did not
-- need, what was refused, how much it wants. Times are in microseconds. The rules are those of pacer.py,
-- congestion.py and sliding_window.py; turns between members are by start-time fair queueing (Goyal 1996).
--
-- KEYS: state (hash), window (sorted set: call -> when it left), refused (the same, of refused calls),
--       members (sorted set: member -> when seen last), shares (hash: member -> calls it may make alone),
--       turns (hash: member -> virtual time), waiting (sorted set: member -> virtual time),
--       wants (hash: member -> calls it waits with).
-- ARGV[1]: a JSON object, see shared.py.

local STATE, WINDOW, REFUSED, MEMBERS, SHARES, TURNS, WAITING, WANTS = unpack(KEYS)
local ask = cjson.decode(ARGV[1])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])

local function state(name)
    return tonumber(redis.call('HGET', STATE, name) or false)
end

local function set_state(name, value)
    redis.call('HSET', STATE, name, string.format('%.17g', value))
end

-- What a member makes alone when so many share the limit: see SharedPacer. In whole calls, since rounded up all shares
-- together would be more than the limit, and reserving them would leave nothing for those who are here.
local function share_among(members)
    local share = ask.limit / members
    return share >= 1 and math.floor(share) or share
end

local function forget_member(member)
    redis.call('ZREM', MEMBERS, member)
    redis.call('HDEL', SHARES, member)
    redis.call('HDEL', TURNS, member)
    redis.call('ZREM', WAITING, member)
    redis.call('HDEL', WANTS, member)
end

-- A server that starts empty has forgotten who was there: for a while others may still live on their shares.
local born = state('born')
if not born then
    born = now
    set_state('born', now)
    set_state('expected', ask.members)
end
-- One that evicts keys, or lost them otherwise, has forgotten calls that still count: nobody knows which, so none leaves
-- until they no longer do.
local latest = state('latest')
local forgotten = latest and latest > now - ask.window and redis.call('EXISTS', WINDOW) == 0
if forgotten or (ask.born > 0 and ask.born ~= born) then
    set_state('blind', now + ask.window)
end

for index, age in ipairs(ask.departures) do
    redis.call('ZADD', WINDOW, now - age, ask.member .. ':alone:' .. now .. ':' .. index)
end
redis.call('ZADD', MEMBERS, now, ask.member)

for _, sent in ipairs(ask.sent) do
    redis.call('ZADD', WINDOW, now - sent.age, sent.call)
end
for _, call in ipairs(ask.unused) do
    redis.call('ZREM', WINDOW, call)
end
if #ask.sent > 0 then
    set_state('latest', now)
elseif #ask.unused > 0 and redis.call('EXISTS', WINDOW) == 0 then
    redis.call('HDEL', STATE, 'latest')
end

-- Refusals: the rate falls once per congestion event.
local event = state('event')
local peak = state('peak') or ask.limit

local function rate_at(moment)
    if not event then
        return ask.limit
    end
    local seconds = math.max(0, moment - event) / 1000000
    local plateau = (peak * (1 - ask.decrease) / ask.growth) ^ (1 / 3)
    return math.min(ask.limit, math.max(ask.floor, peak + ask.growth * (seconds - plateau) ^ 3))
end

for _, refusal in ipairs(ask.refused) do
    local left = tonumber(redis.call('ZSCORE', WINDOW, refusal.call) or now)
    redis.call('ZADD', REFUSED, left, refusal.call)
    set_state('refusal', now)
    if refusal.pause > 0 then
        set_state('pause', math.max(state('pause') or 0, now + refusal.pause))
    end
    if left > (state('decided') or 0) then
        redis.call('ZREMRANGEBYSCORE', WINDOW, '-inf', now - ask.window)
        redis.call('ZREMRANGEBYSCORE', REFUSED, '-inf', now - ask.window)
        local passing = redis.call('ZCARD', WINDOW) - redis.call('ZCARD', REFUSED)
        local rate = rate_at(now)
        peak = math.max(ask.floor, math.min(rate, math.max(passing, rate / 2)))
        event = math.max(now, state('pause') or 0)
        set_state('peak', peak)
        set_state('event', event)
        set_state('decided', now)
    end
end

redis.call('ZREMRANGEBYSCORE', WINDOW, '-inf', now - ask.window)
redis.call('ZREMRANGEBYSCORE', REFUSED, '-inf', now - ask.window)

-- Members: those not heard of may be cut off from here but not from the workspace, and live on their shares.
for _, member in ipairs(redis.call('ZRANGEBYSCORE', MEMBERS, '-inf', now - ask.presumed)) do
    forget_member(member)
end
local reserved = 0
for _, member in ipairs(redis.call('ZRANGEBYSCORE', MEMBERS, '-inf', now - ask.missing)) do
    reserved = reserved + tonumber(redis.call('HGET', SHARES, member) or 0)
    redis.call('ZREM', WAITING, member)
end
local members = redis.call('ZCARD', MEMBERS)
if now < born + ask.grace then
    local expected = math.max(state('expected') or 1, members)
    reserved = reserved + (expected - members) * share_among(expected)
    members = expected
end
redis.call('HSET', SHARES, ask.member, string.format('%.17g', share_among(members)))

if ask.leaving then
    forget_member(ask.member)
end

-- Grants: whoever has had less goes first.
local rate = rate_at(now)
local interval = ask.window / rate
local refusal = state('refusal')
local spaced = refusal and now < math.max(refusal, state('pause') or 0) + ask.calm
    or now < (state('declined') or 0) + ask.window
local not_before = math.max(state('pause') or 0, state('blind') or 0, spaced and state('evenly') or 0)
local limit = math.min(ask.limit, math.ceil(rate)) - math.ceil(reserved)
local taken = redis.call('ZCARD', WINDOW)
local virtual = state('virtual') or 0
local turn = math.max(virtual, tonumber(redis.call('HGET', TURNS, ask.member) or 0))
local evenly = state('evenly') or 0
local calls = {}
local wanted = ask.leaving and 0 or ask.wanted
redis.call('ZREM', WAITING, ask.member)

-- Those whose turns come before; more of them than places make no difference.
local ahead = redis.call('ZRANGE', WAITING, 0, ask.limit, 'WITHSCORES')
local function places_before()
    local places = 0
    for index = 1, #ahead, 2 do
        local lead = math.ceil(turn - tonumber(ahead[index + 1]))
        if lead > 0 then
            places = places + math.min(lead, tonumber(redis.call('HGET', WANTS, ahead[index]) or 1))
        end
    end
    return places
end

local before = 0
while #calls < wanted and now >= not_before do
    before = places_before()
    if taken + before >= limit then
        break
    end
    local call = ask.member .. ':' .. redis.call('HINCRBY', STATE, 'serial', 1)
    -- Counts from the latest moment at which it can leave, until its member says when it did.
    redis.call('ZADD', WINDOW, now + ask.hold, call)
    calls[#calls + 1] = call
    taken = taken + 1
    virtual = math.max(virtual, turn)
    turn = turn + 1
    evenly = math.min(math.max(evenly, now - ask.slack) + interval, now + math.max(ask.window, interval))
    if spaced then
        not_before = evenly
    end
end
if #calls > 0 then
    set_state('latest', now)
    set_state('virtual', virtual)
    set_state('evenly', evenly)
    redis.call('HSET', TURNS, ask.member, string.format('%.17g', turn))
end

-- When to ask again: when the place comes free that is this member's, if nobody else comes.
local wait = 0
if #calls < wanted then
    set_state('declined', now)
    redis.call('ZADD', WAITING, string.format('%.17g', turn), ask.member)
    redis.call('HSET', WANTS, ask.member, wanted - #calls)
    before = places_before()
    local index = math.max(0, taken - limit + before)
    local place = redis.call('ZRANGE', WINDOW, index, index, 'WITHSCORES')
    wait = place[2] and tonumber(place[2]) + ask.window - now or ask.window
    -- Of those whose turns come at the same time one asks first, or all would ask again for every place.
    local ahead_of_it = math.max(before, redis.call('ZRANK', WAITING, ask.member))
    wait = math.max(wait, not_before - now + (spaced and ahead_of_it * interval or 0))
end

for _, key in ipairs(KEYS) do
    redis.call('PEXPIRE', key, 86400000)
end
return cjson.encode({
    born = string.format('%.0f', born),
    calls = calls,
    wait = wait,
    in_window = taken,
    members = members,
    rate = rate,
    peak = event and peak or ask.limit,
    refusal = refusal and now - refusal or -1,
    pause = math.max(0, (state('pause') or 0) - now),
    waiting = redis.call('ZCARD', WAITING),
})
