-- Charges all enforced limits of a question, or none; observed ones beside them. What src/meters/ledger.rs does to
-- the tables of one relay, by the clock of the store.
--
-- KEYS: the counter of each charge; the same one may come twice.
-- ARGV: for each charge the time in which one cell comes back, the burst, how many cells, and 1 where it is enforced.
-- Returns what is to be said, in threes: the charge (from 0), one of the codes below, and how long to wait.
--
-- Time is in sixteenths of a microsecond since 2025-01-01, so that every sum is a whole number that a double holds
-- exactly, until 2042. A counter is the time at which its key is idle again, negative where the key was warned about;
-- it expires then.
local LATER, NEVER, WOULD_LATER, WOULD_NEVER, WARNED = 0, 1, 2, 3, 4

local time = redis.call('TIME')
local now = ((time[1] - 1735689600) * 1000000 + time[2]) * 16

local said = {}
local function say(charge, code, wait)
  local n = #said
  said[n + 1], said[n + 2], said[n + 3] = charge - 1, code, wait
end

local accounts = {}
for i, key in ipairs(KEYS) do
  if not accounts[key] then
    local stored = tonumber(redis.call('GET', key)) or 0
    local window = ARGV[4 * i - 3] * ARGV[4 * i - 2]
    -- Further ahead than the burst: the rate was changed, or the clock set back.
    local tat = math.min(math.abs(stored), now + window)
    local warned = stored < 0 and (tat - now) * 100 > window * 60
    accounts[key] = { stored = stored, old = warned and -tat or tat, tat = tat, warned = warned }
  end
end

local refused = false
for i, key in ipairs(KEYS) do
  local account = accounts[key]
  local period, burst, n = tonumber(ARGV[4 * i - 3]), tonumber(ARGV[4 * i - 2]), tonumber(ARGV[4 * i - 1])
  local enforced = ARGV[4 * i] == '1'
  local window = period * burst
  local ahead = math.min(math.max(account.tat - now, 0), window) + n * period
  if n <= burst and ahead <= window then
    account.tat = now + ahead
    if not account.warned and ahead * 100 > window * 80 then
      account.warned = true
      say(i, WARNED, 0)
    end
  elseif enforced then
    refused = true
    say(i, n > burst and NEVER or LATER, ahead - window)
    break
  else
    say(i, n > burst and WOULD_NEVER or WOULD_LATER, ahead - window)
  end
end

for key, account in pairs(accounts) do
  local new = refused and account.old or account.warned and -account.tat or account.tat
  local left = math.abs(new) - now
  if new ~= account.stored and left > 0 then
    redis.call('SET', key, string.format('%.0f', new), 'PX', math.ceil(left / 16000))
  end
end

return said
