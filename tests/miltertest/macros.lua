-- The queue id: where it is missing, comes early, is empty or is none, nobody else names one, and none is left over from
-- the message before.
dofile("common/peer.lua")

local conn = peer()
headers(conn, {})
eom(conn, "FIRST")
stamped(conn, "FIRST")

headers(conn, { { "X-SES-MESSAGE-TAGS", "queue_id=forged, a=b" } })
eom(conn)
stamped(conn, nil, "a=b")

-- At MAIL, as Postfix tells it of local mail where it is not asked to leave that away.
mt.macro(conn, SMFIC_MAIL, "i", "EARLY", "{mail_addr}", "info@example.com")
headers(conn, {})
eom(conn)
stamped(conn, "EARLY")

-- Braces, other macros, many of them.
headers(conn, {})
mt.macro(conn, EOM, "{client_addr}", "192.0.2.9", "i", "BRACED", "{tls_version}", "TLSv1.3")
eom(conn)
stamped(conn, "BRACED")

for _, odd in ipairs({ "", "a b", "a, b=c", "a\r\nBcc: x@y", string.rep("a", 65), "gr\195\188n" }) do
  headers(conn, {})
  eom(conn, odd)
  stamped(conn, nil)
end
mt.disconnect(conn)
