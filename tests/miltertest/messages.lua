-- Several messages in one session: each has its own ids, and nothing of one is left in the next.
dofile("common/peer.lua")

local conn = peer()
local ids = {}
for n = 1, 50 do
  local list = {}
  if n % 2 == 1 then list = { { "X-SES-MESSAGE-TAGS", "n=" .. n }, { "X-Correlation-ID", "forged" } } end
  headers(conn, list)
  eom(conn, "QID" .. n)
  local id = stamped(conn, "QID" .. n, n % 2 == 1 and "n=" .. n or nil)
  check("an id of its own", ids[id] == nil)
  ids[id] = true
  check("what is there goes", mt.eom_check(conn, MT_HDRDELETE) == (n % 2 == 1))
end
mt.disconnect(conn)
