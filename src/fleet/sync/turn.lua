-- Takes, keeps, or gives back the turn. KEYS: the turn. ARGV: who asks, for how many milliseconds ('0': given back). Returns
-- whether it is, or was, theirs.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
elseif ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return 1
