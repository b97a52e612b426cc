-- Local mail, as cleanup(8) tells it: addresses without brackets, all decided at the end, nobody refused before.
dofile("common/peer.lua")

local conn = peer(other, "127.0.0.1")
headers(conn, {}, "info@example.com", { "user@example.net" })
eom(conn, "QID1")
stamped(conn, "QID1")
check("not held", not mt.eom_check(conn, MT_QUARANTINE))

-- Unlisted: stamped, and held.
headers(conn, {}, "other@example.com", { "user@example.net" })
eom(conn, "QID2")
stamped(conn, "QID2")
check("held", mt.eom_check(conn, MT_QUARANTINE))

-- The null sender always passes.
headers(conn, { { "From", "MAILER-DAEMON" } }, "<>", { "user@example.net" })
eom(conn, "QID3")
stamped(conn, "QID3")
check("not held", not mt.eom_check(conn, MT_QUARANTINE))
mt.disconnect(conn)
