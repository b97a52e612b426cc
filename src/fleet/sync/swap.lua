-- Writes what relays share, each thing only where what stands is still what was read, and tells the stream. What to
-- write was decided before: nothing is joined here.
-- KEYS: hash, stream. ARGV: who tells, the stream's length, the field of a name in the stream, then for each: name, what
-- stood ('': nothing), what is to stand ('': nothing, and not told). Returns the stream's last id (nil: nothing was told), and which had changed.
local told, changed = false, {}
for i = 4, #ARGV, 3 do
  local name, old, new = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if (redis.call('HGET', KEYS[1], name) or '') ~= old then
    changed[#changed + 1] = name
  elseif new == '' then
    redis.call('HDEL', KEYS[1], name)
  else
    redis.call('HSET', KEYS[1], name, new)
    told = redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', ARGV[3], name, 'r', new, 'o', ARGV[1])
  end
end
return {told, changed}
