-- Peers that leave, with and without a word, in each stage; others are served meanwhile.
dofile("common/peer.lua")

local stays = peer()
headers(stays, { { "X-Correlation-ID", "forged" } })
for _, polite in ipairs({ true, false }) do
  local stages = {
    function(conn) end,
    function(conn) mt.negotiate(conn, 6, STEPS, ACTIONS) end,
    function(conn) step(conn, "conninfo", "client.example.net", "192.0.2.1") end,
    function(conn) step(conn, "mailfrom", "<info@example.com>") end,
    function(conn) step(conn, "rcptto", "<user@example.net>") end,
    function(conn) step(conn, "header", "Subject", "x") end,
    function(conn) eom(conn, "QID") end,
  }
  for last = 1, #stages do
    local conn = mt.connect(socket)
    for n = 1, last do stages[n](conn) end
    mt.disconnect(conn, polite)
  end
end
eom(stays, "QID")
stamped(stays, "QID")
check("the forged one goes", mt.eom_check(stays, MT_HDRDELETE, "X-Correlation-ID", 1))
mt.disconnect(stays)
