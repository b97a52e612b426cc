-- A peer that lets nothing be changed is of no use: the connection is closed, and Postfix applies its default action.
dofile("common/peer.lua")

for _, actions in ipairs({ 0, SMFIF_ADDHDRS, SMFIF_ADDHDRS + SMFIF_CHGHDRS, ACTIONS - SMFIF_CHGHDRS }) do
  local conn = mt.connect(socket)
  check("it is told so", mt.negotiate(conn, 6, STEPS, actions) ~= nil)
  mt.disconnect(conn, false)
end

-- Version 1 of the protocol is from before all that is needed here.
local conn = mt.connect(socket)
check("it is too old", mt.negotiate(conn, 1, 0, ACTIONS) ~= nil)
mt.disconnect(conn, false)
