-- Writes what relays share, each thing only where what stands is still what was read, and tells the stream. What to
-- write was decided before: nothing is joined here.
-- KEYS: stream, then the hash of each. ARGV: who tells, the stream's length, the field of a name in the stream, then for each: name, what
-- stood ('': nothing), what is to stand ('': nothing, and not told). Returns the stream's last id (nil: nothing was told), and which had changed.
local told, changed = false, {}
for i = 4, #ARGV, 3 do
  local hash, name, old, new = KEYS[(i + 2) / 3], ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if (redis.call('HGET', hash, name) or '') ~= old then
    changed[#changed + 1] = name
  elseif new == '' then
    redis.call('HDEL', hash, name)
  else
    -- told first: what stands and was not told would never be
    told = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', ARGV[3], name, 'r', new, 'o', ARGV[1])
    redis.call('HSET', hash, name, new)
  end
end
return {told, changed}
