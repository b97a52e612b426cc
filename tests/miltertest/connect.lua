-- Where clients come from: each family is taken, and trusted as it is listed.
-- gatepost: trusted_networks = ["192.0.2.0/24", "2001:db8::/32"]
dofile("common/peer.lua")

local clients = {
  { "192.0.2.1", true }, { "198.51.100.1", false },
  { "2001:db8::1", true }, { "2001:db9::1", false },
  -- An IPv4 address as IPv6 spells it is the same address.
  { "::ffff:192.0.2.1", true }, { "::ffff:198.51.100.1", false },
  -- No address at all.
  { "unspec", false },
}
for _, client in ipairs(clients) do
  local conn = peer(socket, client[1])
  headers(conn, { { "X-Correlation-ID", "order-1" }, { "X-SES-OTHER", "x" } })
  eom(conn, "QID")
  local id = stamped(conn, "QID")
  check(client[1] .. " keeps its id: " .. id, (id == "order-1") == client[2])
  check(client[1] .. " keeps its headers", mt.eom_check(conn, MT_HDRDELETE, "X-SES-OTHER") == not client[2])
  mt.disconnect(conn)
end

-- Without CONNECT there is no client, and so no trust.
local conn = agreed()
mt.macro(conn, SMFIC_CONNECT, "j", "relay.example.com")
mt.abort(conn)
headers(conn, { { "X-Correlation-ID", "order-1" } })
eom(conn, "QID")
check("nobody is trusted", stamped(conn, "QID") ~= "order-1")
mt.disconnect(conn)
