-- Claims events, body by body: all keys of a body or none.
-- KEYS: the keys of all bodies, one body after the other. ARGV: whose claim, for how many milliseconds, then how many
-- keys each body has. Returns a number a key: 0 ours now, 1 done by somebody, 2 in another's hands.
local answer, first = {}, 1
for body = 3, #ARGV do
  local last, held = first + ARGV[body] - 1, false
  for n = first, last do
    local value = redis.call('GET', KEYS[n])
    answer[n] = value == '1' and 1 or 0
    held = held or (value and value ~= '1' and value ~= ARGV[1])
  end
  for n = first, last do
    if held then
      answer[n] = 2
    elseif answer[n] == 0 then
      redis.call('SET', KEYS[n], ARGV[1], 'PX', ARGV[2])
    end
  end
  first = last + 1
end
return answer
