-- Forged headers, however they are written: each instance goes, by its number among those of its name.
-- gatepost: ses_configuration_set = "relay-events"
dofile("common/peer.lua")

local conn = peer()
headers(conn, {
  { "X-Correlation-ID", "forged" },
  { "x-correlation-id", "lower" },
  { "X-CORRELATION-ID ", "blank before the colon" },
  { "X-Correlation-Id\t", "tab before the colon" },
  { "Subject", "x" },
  { "X-SES-MESSAGE-TAGS", "campaign=spring,\n\tqueue_id=forged" },
  { "x-ses-message-tags", "correlation_id=forged, kind=a, Campaign=again" },
  { "X-SES-CONFIGURATION-SET", "other" },
  { "X-Ses-Configuration-Set", "another" },
  { "X-SES-SOURCE-ARN", "arn" },
  { "x-ses-return-path-arn", "arn" },
  { "X-SES", "mine" },
  { "X-Correlation-ID2", "mine" },
})
eom(conn, "QID")
stamped(conn, "QID", "campaign=spring, kind=a")
check("the set", mt.eom_check(conn, MT_HDRINSERT, "X-SES-CONFIGURATION-SET", "relay-events", 1))
for _, gone in ipairs({
  { "X-Correlation-ID", 1 }, { "x-correlation-id", 2 }, { "X-CORRELATION-ID", 3 }, { "X-Correlation-Id", 4 },
  { "X-SES-MESSAGE-TAGS", 1 }, { "x-ses-message-tags", 2 },
  { "X-SES-CONFIGURATION-SET", 1 }, { "X-Ses-Configuration-Set", 2 },
  { "X-SES-SOURCE-ARN", 1 }, { "x-ses-return-path-arn", 1 },
}) do
  check(gone[1] .. " " .. gone[2] .. " goes", mt.eom_check(conn, MT_HDRDELETE, gone[1], gone[2]))
end
for _, stays in ipairs({ "Subject", "X-SES", "X-Correlation-ID2" }) do
  check(stays .. " stays", not mt.eom_check(conn, MT_HDRCHANGE, stays))
end

-- Values that are empty, names and values that are long, or hold what no header may.
headers(conn, {
  { "X-Correlation-ID", "" }, { "X-SES-MESSAGE-TAGS", "" }, { "X-SES-", "" },
  { "X-SES-MESSAGE-TAGS", "=, ,a=, =b, a b=c, a=b c, a=b\r\nBcc: x@y, \255=x, fine=1" },
  { "X-SES-MESSAGE-TAGS", "long=" .. string.rep("x", 257) },
  { "X-SES-MESSAGE-TAGS", "full=" .. string.rep("x", 256) },
  { string.rep("n", 900), "x" }, { "Subject", string.rep("v", 900) },
})
eom(conn, "QID")
stamped(conn, "QID", "fine=1, full=" .. string.rep("x", 256))
mt.disconnect(conn)
