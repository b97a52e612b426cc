-- A peer that cannot go without events and replies, as Postfix before 2.6: each event is answered, nothing is asked for
-- that it did not offer, and messages are stamped all the same.
dofile("common/peer.lua")

local offers = {
  -- No event can be left away.
  { steps = SMFIP_SKIP, actions = 0x3f, all = true },
  -- Protocol 2: those can that Sendmail 8.12 knew.
  { steps = 0x7f, actions = 0x3f },
  -- All events, but not all replies: then all are answered.
  { steps = 0x3ff, actions = ACTIONS },
  { steps = 0x3ff + 0x1000, actions = ACTIONS },
}
for n, offer in ipairs(offers) do
  local conn = agreed(socket, offer.steps, offer.actions)
  for _, reply in ipairs({ SMFIP_NR_CONN, SMFIP_NR_MAIL, SMFIP_NR_RCPT, SMFIP_NR_HDR }) do
    check("every event is answered", not mt.test_option(conn, reply))
  end
  -- step() sees each answer.
  step(conn, "conninfo", "client.example.net", "192.0.2.1")
  if offer.all then
    step(conn, "helo", "client.example.net")
    step(conn, "unknown", "NOOP")
  end
  headers(conn, { { "Subject", "x" }, { "X-Correlation-ID", "forged" } })
  if offer.all then
    check("nothing is left away", not mt.test_option(conn, SMFIP_NOBODY) and not mt.test_option(conn, SMFIP_NOEOH))
    step(conn, "eoh")
    step(conn, "bodystring", "Body\r\n")
    step(conn, "bodyrandom", 100000)
  end
  eom(conn, "QID" .. n)
  stamped(conn, "QID" .. n)
  check("the forged one goes", mt.eom_check(conn, MT_HDRDELETE, "X-Correlation-ID", 1))
  mt.disconnect(conn)
end
