-- More X-SES headers than can be taken out: the message is refused, and the next one is as any other.
dofile("common/peer.lua")

local conn = peer()
local list = {}
for n = 1, 201 do list[n] = { "X-SES-" .. n, "x" } end
headers(conn, list)
eom(conn, "QID1")
check("it is refused", mt.eom_check(conn, MT_SMTPREPLY, "554", "5.7.1", "Too many X-SES headers in the message"))
table.remove(list)
headers(conn, list)
eom(conn, "QID2")
stamped(conn, "QID2")
-- Others may be as many as they like.
for n = 1, 5000 do list[n] = { "X-Other-" .. n, "x" } end
headers(conn, list)
eom(conn, "QID3")
stamped(conn, "QID3")
check("nothing goes", not mt.eom_check(conn, MT_HDRDELETE))
mt.disconnect(conn)
