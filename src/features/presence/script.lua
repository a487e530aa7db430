-- One call of a node: it is alive, these users came and went there, and somebody must clear up behind the dead.
-- KEYS: users and on how many nodes each is; nodes and when each was alive; calls of each; users of this one.
-- ARGV: node, incarnation, number of the call, ms of silence after which a node is dead, most users cleared up,
--       'stream' or 'channel', its name, entries a stream keeps; then '+' or '-' before each user.
--       Or 'members', the name in the keys, 0; then users are members of topics ('room.7 42'), each topic has a set of
--       them, and a channel tells of the topics whose sets change.
-- Answers: 1, or 0 where Redis knows nothing of this incarnation or not all; online and offline events; 1 if more
-- users wait to be cleared up.
local here, nodes, calls, own = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local node, incarnation, number = ARGV[1], ARGV[2], tonumber(ARGV[3])
local kind, target, entries = ARGV[6], ARGV[7], ARGV[8]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local at = string.format('%.0f', now)
local told = { online = 0, offline = 0 }
local changed = {}

local function emit(event, sub, users, where)
  if kind == 'members' then
    local topic, user = string.match(sub, '^(%S+) (.*)$')
    if not changed[topic] then redis.call('PUBLISH', 'oneloop:{' .. target .. '}', topic) end
    changed[topic] = true
    local set = 'oneloop:{' .. target .. '}:in:' .. topic
    if event == 'online' then redis.call('ZADD', set, at, user) else redis.call('ZREM', set, user) end
  elseif kind == 'stream' then
    redis.call('XADD', target, 'MAXLEN', '~', entries, '*',
      'event', event, 'sub', sub, 'users', users, 'node', where, 'at', at)
  else
    redis.call('PUBLISH', target, '{"event":"' .. event .. '","sub":' .. cjson.encode(sub) ..
      ',"users":' .. users .. ',"node":"' .. where .. '","at":' .. at .. '}')
  end
  told[event] = told[event] + 1
end

-- An event comes before what it tells is noted: if it is refused, so is the call, and the next one tells it.
local function came(sub)
  if redis.call('SISMEMBER', own, sub) == 1 then return end
  if not redis.call('HGET', here, sub) then emit('online', sub, redis.call('HLEN', here) + 1, node) end
  redis.call('HINCRBY', here, sub, 1)
  redis.call('SADD', own, sub)
end

local function left(set, sub, where)
  if redis.call('SISMEMBER', set, sub) == 0 then return end
  local count = tonumber(redis.call('HGET', here, sub) or 0)
  if count == 1 then emit('offline', sub, redis.call('HLEN', here) - 1, where) end
  if count > 1 then redis.call('HINCRBY', here, sub, -1) else redis.call('HDEL', here, sub) end
  redis.call('SREM', set, sub)
end

-- A node that is cleared up has the score 0: it is not taken back.
local last = tonumber(redis.call('HGET', calls, incarnation) or 0)
local score = redis.call('ZSCORE', nodes, incarnation)
if score == '0' or number > last + 1 then return { 0, 0, 0, 0 } end

-- Nodes call every 5 s. Nobody was heard for longer, or the clock was set: Redis was away, all have their time again.
local latest = redis.call('ZREVRANGE', nodes, 0, 0, 'WITHSCORES')
if latest[2] and math.abs(now - latest[2]) > 7000 then
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', nodes, 1, '+inf', 'LIMIT', 0, 1000)) do
    redis.call('ZADD', nodes, now, other)
  end
end
redis.call('ZADD', nodes, now, incarnation)

if number == 1 then
  -- What this user of Redis may not do shows before anything is counted.
  redis.call('SADD', own, '')
  redis.call('SREM', own, '')
  redis.call('HINCRBY', here, '', 1)
  redis.call('HDEL', here, '')
end
-- What was executed is not executed again, nor what comes late.
if number > last then
  for place = 9, #ARGV do
    local sub = string.sub(ARGV[place], 2)
    if string.sub(ARGV[place], 1, 1) == '+' then came(sub) else left(own, sub, node) end
  end
  redis.call('HSET', calls, incarnation, number)
end

local dead = redis.call('ZRANGEBYSCORE', nodes, '-inf', now - ARGV[4], 'LIMIT', 0, 1)[1]
if not dead then return { 1, told.online, told.offline, 0 } end
redis.call('ZADD', nodes, 0, dead)
local set = here .. ':' .. dead
local where = string.match(dead, '^[^.]*')
for _, sub in ipairs(redis.call('SRANDMEMBER', set, ARGV[5])) do left(set, sub, where) end
if redis.call('SCARD', set) == 0 then
  redis.call('ZREM', nodes, dead)
  redis.call('HDEL', calls, dead)
end
return { 1, told.online, told.offline, 1 }
