#!lua
-- What the fleet keeps of a workspace's answers, and who is fetching which: one cache, one flight for each question.
--
-- Nothing here can be read without the fleet's secret: names are keyed hashes, answers are sealed. A write makes stored
-- answers wrong and flights in the air unjoinable by counting generations up; what was stored or begun under another
-- generation does not count any more. Losing any of these keys costs calls and never makes an answer wrong: the
-- generations carry a mark of when they began, and with them everything goes. So it does when a member has heard more
-- than was ever said here: a Redis that came back with an older state has forgotten writes. And so it does when the
-- clock goes back, that of this machine or by way of another one that takes over: then nobody knows how old an answer
-- is, and what should have ended, leases too, lasts longer by as much.
--
-- KEYS: generations (hash), log (stream: what was brought and what was written), secrets (sorted set: fingerprint of a
--       secret -> when seen last), then what the operation names.
-- ARGV: operation, member, mark of the generations and number of the last message that it knows, then what the operation
--       takes; lists are read from ARGV itself, since Lua cannot unpack long ones.
-- Times are in microseconds, durations in milliseconds. See session.py.

local GENERATIONS, LOG, SECRETS = KEYS[1], KEYS[2], KEYS[3]
local DAY, LONGEST_LOG, MOST_GENERATIONS = 86400000, 10000, 100000
-- By how much the clock may go back unnoticed, and how exactly it is remembered how far it was.
local EVEN, NOTED = 1000000, 100000
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])

local born, said, seen = unpack(redis.call('HMGET', GENERATIONS, 'born', 'log', 'clock'))
local count, latest = tonumber(said or '0'), tonumber(seen or '0')
local went_back = not count or (born == ARGV[3] and count < tonumber(ARGV[4])) or not latest or now < latest - EVEN
if went_back or redis.call('HLEN', GENERATIONS) > MOST_GENERATIONS then
    redis.call('DEL', GENERATIONS)
    born, latest = false, 0
end
if now > latest + NOTED then
    redis.call('HSET', GENERATIONS, 'clock', string.format('%.0f', now))
end
if not born then
    born = string.format('%.0f', now) .. '-' .. ARGV[2]
    redis.call('HSET', GENERATIONS, 'born', born)
end
redis.call('PEXPIRE', GENERATIONS, DAY)

local function generation(name)
    return redis.call('HGET', GENERATIONS, name) or '0'
end

-- Under what an answer of a kind stands: 'metadata' falls with every write about its model, 'files' with those only that
-- may change its files. Answers about any model fall with every write at all, but for those about none ('files').
local function standing(kind, model)
    if model ~= '' then
        return table.concat({born, generation('all:' .. kind), generation(model .. ':' .. kind)}, ':')
    elseif kind == 'metadata' then
        return born .. ':' .. generation('every')
    end
    return born
end

local function log(kind, text, more)
    local number = redis.call('HINCRBY', GENERATIONS, 'log', 1)
    redis.call('XADD', LOG, 'MAXLEN', '~', LONGEST_LOG, '*', 'number', number, 'kind', kind, 'text', text, 'more', more)
    redis.call('PEXPIRE', LOG, DAY)
end

local operations = {}

-- An answer, or the lead in fetching it, or the name of the flight that is under way.
function operations.take(model, flight, awaited, distrusted, lease_ms)
    local ENTRY, LEASE, RESULT = KEYS[4], KEYS[5], KEYS[6]
    local entry = redis.call('HMGET', ENTRY, 'sealed', 'kind', 'standing')
    if entry[1] then
        if distrusted == '' and entry[3] == standing(entry[2], model) then
            return {'entry', entry[1], now}
        end
        redis.call('DEL', ENTRY)
    end
    if awaited ~= '' and distrusted == '' then
        local result = redis.call('GET', RESULT)
        if result then
            return {'result', result, now}
        end
    end
    local current = standing('metadata', model)
    local lease = redis.call('HMGET', LEASE, 'flight', 'standing')
    if lease[1] and lease[1] ~= flight and lease[2] == current then
        redis.call('HSET', LEASE, 'awaited', 1)
        return {'busy', lease[1], now}
    end
    redis.call('DEL', LEASE)
    redis.call('HSET', LEASE, 'flight', flight, 'standing', current)
    redis.call('PEXPIRE', LEASE, lease_ms)
    return {'lead', current, now}
end

-- The end of a flight. What cannot be kept is for those who waited for it; an empty text is a flight given up.
function operations.land(model, flight, name, began, kind, ttl_ms, sealed, result_ms)
    local ENTRY, LEASE, RESULT = KEYS[4], KEYS[5], KEYS[6]
    local kept = tonumber(ttl_ms) > 0 and began == standing('metadata', model)
    if kept then
        redis.call('HSET', ENTRY, 'sealed', sealed, 'kind', kind, 'standing', standing(kind, model))
        redis.call('PEXPIRE', ENTRY, ttl_ms)
    end
    local lease = redis.call('HMGET', LEASE, 'flight', 'awaited')
    local own = lease[1] == flight
    if own then
        redis.call('DEL', LEASE)
    end
    -- Those who wait for a flight whose lease was taken over meanwhile look for its result too.
    if not own or lease[2] then
        if not kept and sealed ~= '' then
            redis.call('SET', RESULT, sealed, 'PX', result_ms)
        end
        log('landed', name, flight)
    end
end

-- Writes: of each what to tell, 'files' or nothing, how many models, and these: keyed hashes, or 'all'.
function operations.write()
    local position = 5
    while ARGV[position] do
        local sealed, files, models = ARGV[position], ARGV[position + 1], tonumber(ARGV[position + 2])
        redis.call('HINCRBY', GENERATIONS, 'every', 1)
        for index = position + 3, position + 2 + models do
            redis.call('HINCRBY', GENERATIONS, ARGV[index] .. ':metadata', 1)
            if files == 'files' then
                redis.call('HINCRBY', GENERATIONS, ARGV[index] .. ':files', 1)
            end
        end
        log('write', sealed, '')
        position = position + 3 + models
    end
    return {born, generation('log')}
end

function operations.discard()
    redis.call('DEL', KEYS[4])
end

-- A sign of life: the leases of this many own flights, which come first, are renewed; of others is said which are not
-- what is waited for any more.
function operations.attend(fingerprint, after, number, lease_ms, memory_ms, leads)
    redis.call('ZREMRANGEBYSCORE', SECRETS, now, '+inf') -- seen in the future: the clock went back
    redis.call('ZADD', SECRETS, now, fingerprint)
    redis.call('ZREMRANGEBYSCORE', SECRETS, '-inf', now - memory_ms * 1000)
    redis.call('PEXPIRE', SECRETS, DAY)
    local free = {}
    for index = 1, #ARGV - 10 do
        local lease = KEYS[3 + index]
        local held = redis.call('HGET', lease, 'flight') == ARGV[10 + index]
        if index > tonumber(leads) then
            if not held then
                free[#free + 1] = index
            end
        elseif held then
            redis.call('PEXPIRE', lease, lease_ms)
        end
    end
    local newest = redis.call('XREVRANGE', LOG, '+', '-', 'COUNT', 1)
    local newest_id = newest[1] and newest[1][1] or '0-0'
    local current = generation('log')
    -- More was said than this member heard, and nothing that it would read comes after what it heard.
    local lost = current ~= number and not redis.call('XREAD', 'COUNT', 1, 'STREAMS', LOG, after)
    return {born, current, newest_id, lost and 1 or 0, free, redis.call('ZCARD', SECRETS) - 1}
end

return operations[ARGV[1]](unpack(ARGV, 5, 13))
