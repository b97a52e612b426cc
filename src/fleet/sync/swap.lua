-- Writes the records of addresses, each only where what stands is still what was read, and tells the stream. What to
-- write was decided before: nothing is merged here.
-- KEYS: entries, changes. ARGV: who tells, the stream's length, then for each: address, what stood ('': nothing), what
-- is to stand ('': nothing; not told). Returns the stream's last id (nil: nothing was told), and which had changed.
local told, changed = false, {}
for i = 3, #ARGV, 3 do
  local address, old, new = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if (redis.call('HGET', KEYS[1], address) or '') ~= old then
    changed[#changed + 1] = address
  elseif new == '' then
    redis.call('HDEL', KEYS[1], address)
  else
    redis.call('HSET', KEYS[1], address, new)
    told = redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', 'a', address, 'r', new, 'o', ARGV[1])
  end
end
return {told, changed}
