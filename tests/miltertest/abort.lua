-- Messages that are broken off, in each of their stages and more than once: the next one begins afresh.
dofile("common/peer.lua")

local conn = peer()
mt.abort(conn)
local parts = {
  function() step(conn, "mailfrom", "<other@example.com>") end,
  function() step(conn, "rcptto", "<other@example.net>") end,
  function() step(conn, "header", "X-Correlation-ID", "forged") end,
  function() step(conn, "header", "X-SES-MESSAGE-TAGS", "a=b") end,
}
for last = 1, #parts do
  for n = 1, last do parts[n]() end
  if last % 2 == 0 then mt.macro(conn, EOM, "i", "STALE") end
  for _ = 1, last do mt.abort(conn) end
  headers(conn, { { "Subject", "x" } })
  eom(conn, "QID" .. last)
  stamped(conn, "QID" .. last)
  check("nothing is deleted", not mt.eom_check(conn, MT_HDRDELETE))
end
-- After the end, where there is nothing to break off.
mt.abort(conn)
headers(conn, {})
eom(conn)
stamped(conn, nil)
mt.disconnect(conn)
