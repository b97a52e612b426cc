-- Commands out of order: what makes no sense is passed by, and the next message is as any other.
dofile("common/peer.lua")

local conn = peer()
-- MAIL twice: the second begins anew.
step(conn, "mailfrom", "<one@example.com>")
step(conn, "rcptto", "<one@example.net>")
step(conn, "header", "X-Correlation-ID", "forged")
headers(conn, {})
eom(conn, "QID1")
stamped(conn, "QID1")
check("nothing of the first is left", not mt.eom_check(conn, MT_HDRDELETE))

-- A header and a recipient behind the end.
step(conn, "header", "X-Correlation-ID", "late")
step(conn, "rcptto", "<late@example.net>")
headers(conn, {})
eom(conn, "QID2")
stamped(conn, "QID2")
check("nothing late is left", not mt.eom_check(conn, MT_HDRDELETE))

-- A recipient behind the headers, and CONNECT in the middle.
headers(conn, { { "X-Correlation-ID", "forged" } })
step(conn, "rcptto", "<late@example.net>")
step(conn, "conninfo", "client.example.net", "192.0.2.2")
headers(conn, {})
eom(conn, "QID3")
stamped(conn, "QID3")

-- A second end has nothing that it ends: nothing is said to it, and nothing lost.
mt.set_timeout(1)
check("nothing is said", mt.eom(conn) ~= nil)
mt.set_timeout(10)
headers(conn, {})
eom(conn, "QID4")
stamped(conn, "QID4")
mt.disconnect(conn)
