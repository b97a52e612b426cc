-- More recipients than any mail has: the message is refused, the session goes on.
dofile("common/peer.lua")

mt.set_timeout(60)
local conn = peer()
local to = {}
for n = 1, 100001 do to[n] = "<u" .. n .. "@example.net>" end
headers(conn, {}, "<info@example.com>", to)
eom(conn, "QID1")
check("it is refused", mt.eom_check(conn, MT_SMTPREPLY, "554", "5.5.3", "Too many recipients in one message"))
check("not stamped", not mt.eom_check(conn, MT_HDRINSERT))

table.remove(to)
headers(conn, {}, "<info@example.com>", to)
eom(conn, "QID2")
stamped(conn, "QID2")

-- One twice, one that is none, and one with parameters.
headers(conn, {}, "<info@example.com>", { "<a@example.net>", "<a@example.net>", "", "<>", "nonsense" })
step(conn, "rcptto", "<b@example.net>", "NOTIFY=NEVER", "ORCPT=rfc822;b@example.net")
eom(conn, "QID3")
stamped(conn, "QID3")
mt.disconnect(conn)
