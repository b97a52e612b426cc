-- As Postfix offers it: what is not needed is not sent, and nothing before the end of a message is answered.
dofile("common/peer.lua")

for _, at in ipairs({ socket, other }) do
  local conn = agreed(at)
  for name, option in pairs({ NOHELO = SMFIP_NOHELO, NODATA = SMFIP_NODATA, NOEOH = SMFIP_NOEOH, NOBODY = SMFIP_NOBODY,
    NOUNKNOWN = SMFIP_NOUNKNOWN, NR_CONN = SMFIP_NR_CONN, NR_MAIL = SMFIP_NR_MAIL, NR_RCPT = SMFIP_NR_RCPT,
    NR_HDR = SMFIP_NR_HDR }) do
    check(name .. " is asked for", mt.test_option(conn, option))
  end
  for name, option in pairs({ NOCONNECT = SMFIP_NOCONNECT, NOMAIL = SMFIP_NOMAIL, NORCPT = SMFIP_NORCPT,
    NOHDRS = SMFIP_NOHDRS, LEADSPC = SMFIP_HDR_LEADSPC }) do
    check(name .. " is not asked for", not mt.test_option(conn, option))
  end
  for name, action in pairs({ ADDHDRS = SMFIF_ADDHDRS, CHGHDRS = SMFIF_CHGHDRS, DELRCPT = SMFIF_DELRCPT }) do
    check(name .. " is asked for", mt.test_action(conn, action))
  end
  check("the body stays", not mt.test_action(conn, SMFIF_CHGBODY) and not mt.test_action(conn, SMFIF_ADDRCPT))
  -- Only local mail is held, and only its bounces get a sender.
  check("quarantine", mt.test_action(conn, SMFIF_QUARANTINE) == (at == other))
  check("sender", mt.test_action(conn, SMFIF_CHGFROM) == (at == other))
  step(conn, "conninfo", "client.example.net", "192.0.2.1")
  headers(conn, { { "Subject", "x" } })
  eom(conn, "4ZabcD1Yxz1")
  check("a new id", string.match(stamped(conn, "4ZabcD1Yxz1"), ID))
  mt.disconnect(conn)
end
