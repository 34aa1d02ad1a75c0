#!lua flags=allow-oom
-- One budget of a workspace for a whole fleet of proxies: an exact sliding window on this server's clock.
--
-- Every call of the script does everything that a member has to say and ask: what it sent, what it did not
-- need, what was refused, how much it wants. Times are in microseconds. The rules are those of pacer.py,
-- congestion.py and sliding_window.py; turns between members are by start-time fair queueing (Goyal 1996);
-- what is held for those who are silent is in silence.py.
--
-- Neither this server's memory nor its clock is trusted. What it has forgotten may be any calls of the last window, so
-- that none leaves until they no longer count (it is blind). When its clock is set, everything that is a time is moved
-- along, as if no time had passed.
--
-- KEYS: state (hash), window (sorted set: call -> when it left), refused (the same, of refused calls),
--       members (sorted set: member -> the latest answer that it is known to have heard), shares (hash: member -> calls it
--       may make alone), turns (hash: member -> virtual time), waiting (sorted set: member -> virtual time),
--       wants (hash: member -> calls it waits with), floors (hash: member -> calls it may make when it is alone for long),
--       absent (sorted set: as members, those who are silent for long).
-- ARGV[1]: a JSON object, see shared.py.

local STATE, WINDOW, REFUSED, MEMBERS, SHARES, TURNS, WAITING, WANTS, FLOORS, ABSENT = unpack(KEYS)
local ask = cjson.decode(ARGV[1])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])

-- What the state says, read once.
local known = {}

local function read_state()
    local entries = redis.call('HGETALL', STATE)
    for index = 1, #entries, 2 do
        known[entries[index]] = tonumber(entries[index + 1])
    end
end

local function state(name)
    return known[name]
end

local function set_state(name, value)
    known[name] = value
    redis.call('HSET', STATE, name, string.format('%.17g', value))
end

local function count(name)
    known[name] = redis.call('HINCRBY', STATE, name, 1)
    return known[name]
end

local function go_blind()
    set_state('blind', math.max(state('blind') or 0, now + ask.leave + ask.window))
end

local function begin_anew()
    redis.call('DEL', unpack(KEYS))
    known = {}
    set_state('born', math.max(now, ask.born + 1))
    go_blind()
end

-- Moves everything that is a time, since the clock was set by so much.
local function move(by)
    local times = {'awaited', 'blind', 'decided', 'declined', 'evenly', 'event', 'kept', 'latest', 'pause', 'refusal'}
    for _, name in ipairs(times) do
        local value = state(name)
        if value then
            set_state(name, value + by)
        end
    end
    for _, key in ipairs({WINDOW, REFUSED, MEMBERS, ABSENT}) do
        local entries = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
        for index = 1, #entries, 2 do
            redis.call('ZADD', key, entries[index + 1] + by, entries[index])
        end
    end
end

local function total_but_mine(key)
    local total, entries = 0, redis.call('HGETALL', key)
    for index = 1, #entries, 2 do
        if entries[index] ~= ask.member then
            total = total + tonumber(entries[index + 1])
        end
    end
    return total
end

local function total(key)
    return total_but_mine(key) + tonumber(redis.call('HGET', key, ask.member) or 0)
end

-- In whole calls, since rounded up all of them together would be more than there is.
local function whole(calls)
    return calls >= 1 and math.floor(calls) or math.max(0, calls)
end

-- Counts the keys that say who was promised what: a server that runs out of memory may lose some of them only.
local function keys_of_members()
    return redis.call('EXISTS', MEMBERS, SHARES, FLOORS, ABSENT)
end

local function forget_member(member)
    redis.call('ZREM', MEMBERS, member)
    redis.call('HDEL', SHARES, member)
    redis.call('HDEL', TURNS, member)
    redis.call('ZREM', WAITING, member)
    redis.call('HDEL', WANTS, member)
end

local function forget_for_good(member)
    redis.call('ZREM', ABSENT, member)
    redis.call('HDEL', FLOORS, member)
end

local function answer()

read_state()

-- Memory. Lives of this server are told apart by when they began, and a later one begins later, whatever the clock says.
local born, serial = state('born'), state('serial') or 0
local went_back = born and (ask.born > born or (ask.born == born and ask.serial > serial))
if not born or went_back or keys_of_members() < (state('keys') or 0) then
    begin_anew()
    born = state('born')
end
if ask.born > 0 and ask.born < born and not state('awaited') then
    -- There were others before: they may still live on what they were promised then.
    set_state('awaited', now)
end
serial = count('serial')
local latest = state('latest')
if latest and latest > now - ask.window and redis.call('EXISTS', WINDOW) == 0 then
    go_blind()
end

-- The clock. Members say how long ago (at most) the answer was given that they heard last, by their own clocks.
local last = state('last')
local heard = ask.born == born and ask.steps == (state('steps') or 0) and ask.heard or 0
if last then
    local quiet = now - last > ask.gap
    if now < last - ask.tolerance or (quiet and heard > 0 and now - heard - ask.since > ask.gap) then
        move(now - last)
        heard = math.min(now, heard + now - last)
        count('steps')
    elseif ask.stepped then
        go_blind()
        count('steps')
    end
    if quiet and (ask.apart or heard == 0) then
        -- Nobody is there who could vouch that nothing was forgotten and the clock not set.
        go_blind()
    end
end
set_state('last', now)

-- What a member is about to send counts from the latest moment at which it can leave, until it says when it did.
for _, call in ipairs(ask.held) do
    redis.call('ZADD', WINDOW, 'NX', now + ask.hold, call)
end
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
    known.latest = nil
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

-- Members. A request may be late and its answer lost: what counts is the latest answer that a member has heard for sure.
-- One that was silent for longer, or knows an earlier life only, may be alone until it has heard this one.
local seen = ask.born > 0 and math.min(now, math.max(heard, now - ask.missing - 1)) or now
redis.call('ZADD', MEMBERS, 'GT', seen, ask.member)
redis.call('ZREM', ABSENT, ask.member)
for _, member in ipairs(redis.call('ZRANGEBYSCORE', MEMBERS, '-inf', now - ask.presumed)) do
    redis.call('ZADD', ABSENT, redis.call('ZSCORE', MEMBERS, member), member)
    forget_member(member)
end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', ABSENT, '-inf', now - ask.forgotten)) do
    forget_for_good(member)
end

-- Those not heard of may be cut off from here but not from the workspace.
local reserved = 0
for _, member in ipairs(redis.call('ZRANGEBYSCORE', MEMBERS, '-inf', now - ask.missing)) do
    reserved = reserved + tonumber(redis.call('HGET', SHARES, member) or 0)
    redis.call('ZREM', WAITING, member)
end
local most = math.floor(ask.floors)
local absent = 0
if most > 0 then
    for _, member in ipairs(redis.call('ZRANGE', ABSENT, 0, most - 1)) do
        absent = absent + math.max(1, tonumber(redis.call('HGET', FLOORS, member) or 0))
    end
end
absent = math.min(most, absent)

-- What this member may spend if it hears nothing any more. It counts with what it believes until it is known to have heard
-- of less.
local members = redis.call('ZCARD', MEMBERS)
local share, floor = ask.share, ask.floor_share
local fair = whole(ask.shares / math.max(1, members))
if fair ~= share then
    local others = total_but_mine(SHARES)
    share = whole(math.min(fair, ask.shares - others, ask.limit - absent - others))
end
local awaited = state('awaited')
if awaited and now < awaited + ask.presumed then
    share = math.min(share, ask.share)
end
fair = whole(ask.floors / (members + 1))
if fair ~= floor then
    -- Half of what is left, so that there is something for the next one. Who gets next to nothing has one call at times.
    local left = (ask.floors - total_but_mine(FLOORS)) / 2
    floor = math.min(fair, whole(math.max(left, math.min(1, fair))))
end
redis.call('HSET', SHARES, ask.member, string.format('%.17g', math.max(share, ask.share)))
redis.call('HSET', FLOORS, ask.member, string.format('%.17g', math.max(floor, ask.floor_share)))
if awaited and now < awaited + ask.presumed then
    reserved = reserved + math.max(0, ask.shares - total(SHARES))
elseif awaited and now < awaited + ask.forgotten then
    absent = math.min(most, absent + math.max(0, math.floor(ask.floors - total(FLOORS))))
end
reserved = math.ceil(reserved + absent)

if ask.leaving then
    forget_member(ask.member)
    forget_for_good(ask.member)
end

-- Grants: whoever has had less goes first.
local rate = rate_at(now)
local interval = ask.window / rate
local refusal = state('refusal')
local spaced = refusal and now < math.max(refusal, state('pause') or 0) + ask.calm
    or now < (state('declined') or 0) + ask.window
local not_before = math.max(state('pause') or 0, state('blind') or 0, spaced and state('evenly') or 0)
local limit = math.min(ask.limit - reserved, math.ceil(rate))
local taken = redis.call('ZCARD', WINDOW)
local virtual = state('virtual') or 0
local turn = math.max(virtual, tonumber(redis.call('HGET', TURNS, ask.member) or 0))
local evenly = state('evenly') or 0
local calls = {}
-- Who asks again since the last answer was not heard may not hear this one either: first it has to say so.
local wanted = (ask.leaving or ask.apart) and 0 or ask.wanted
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
    local call = ask.member .. ':' .. count('serial')
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

set_state('keys', keys_of_members())
-- Everything is kept for a day: said again when a key is new, and every hour.
local there = redis.call('EXISTS', unpack(KEYS))
if there ~= state('there') or now - (state('kept') or 0) > 3600000000 then
    set_state('there', there)
    set_state('kept', now)
    for _, key in ipairs(KEYS) do
        redis.call('PEXPIRE', key, 86400000)
    end
end
return cjson.encode({
    born = string.format('%.0f', born),
    serial = string.format('%.0f', serial),
    now = string.format('%.0f', now),
    steps = state('steps') or 0,
    share = string.format('%.17g', share),
    floor_share = string.format('%.17g', floor),
    calls = calls,
    wait = wait,
    in_window = taken,
    members = members,
    rate = rate,
    places = math.max(0, ask.limit - reserved),
    peak = event and peak or ask.limit,
    refusal = refusal and now - refusal or -1,
    pause = math.max(0, (state('pause') or 0) - now),
    waiting = redis.call('ZCARD', WAITING),
})

end

local fine, result = pcall(answer)
if not fine then
    -- Somebody has put something else where this lay: all of it is as good as lost.
    begin_anew()
    return answer()
end
return result
