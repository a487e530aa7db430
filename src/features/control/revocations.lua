-- Keeps revocations in a sorted set: users, and the unix second before which the tokens of each are refused. The empty
-- user stands for all.
-- KEYS: the set.
-- ARGV: the lowest second that is needed; the second for all users, 0 for none; seconds for which the set is needed after
--       this call, 0 for good; the first and the last place of the page; then a second and a user for each change.
-- Answers: the page, the latest second first, each user before its second.
for place = 6, #ARGV, 2 do
  redis.call('ZADD', KEYS[1], 'GT', ARGV[place], ARGV[place + 1])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[1])
if ARGV[2] ~= '0' then redis.call('ZADD', KEYS[1], 'GT', ARGV[2], '') end
if ARGV[3] == '0' then redis.call('PERSIST', KEYS[1]) else redis.call('EXPIRE', KEYS[1], ARGV[3]) end
return redis.call('ZREVRANGE', KEYS[1], ARGV[4], ARGV[5], 'WITHSCORES')
