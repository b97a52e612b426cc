-- What the scripts share: a peer as Postfix is one, and words that fail loudly.

EOM = string.byte("E")
ID = "^%x%x%x%x%x%x%x%x%-%x%x%x%x%-7%x%x%x%-%x%x%x%x%-%x%x%x%x%x%x%x%x%x%x%x%x$"

-- What Postfix 3.7 offers.
STEPS = 0x1fffff
ACTIONS = 0x1ff

function fail(what)
  mt.echo("failed: " .. what)
  error(what, 3)
end

function check(what, holds)
  if not holds then fail(what) end
end

-- A step that must be taken; where it is answered, by "go on".
function step(conn, name, ...)
  local said = mt[name](conn, ...)
  if said ~= nil then fail(name .. ": " .. tostring(said)) end
  local reply = mt.getreply(conn)
  if reply ~= SMFIR_CONTINUE then fail(name .. " was answered by " .. string.char(reply)) end
end

-- A connection that has agreed on what is offered: as Postfix does it, where nothing else is said.
function agreed(at, steps, actions)
  local conn = mt.connect(at or socket)
  check("a connection", conn ~= nil)
  local said = mt.negotiate(conn, 6, steps or STEPS, actions or ACTIONS)
  if said ~= nil then fail("negotiate: " .. said) end
  return conn
end

-- The same, after CONNECT.
function peer(at, ip)
  local conn = agreed(at)
  step(conn, "conninfo", "client.example.net", ip or "192.0.2.1")
  return conn
end

-- The envelope and the headers ({ name, value } each) of a message.
function headers(conn, list, from, to)
  step(conn, "mailfrom", from or "<info@example.com>")
  for _, recipient in ipairs(to or { "<user@example.net>" }) do step(conn, "rcptto", recipient) end
  for _, header in ipairs(list) do step(conn, "header", header[1], header[2]) end
end

-- The end of a message, of which Postfix tells the queue id; the reply to it.
function eom(conn, queue_id)
  if queue_id then mt.macro(conn, EOM, "i", queue_id) end
  local said = mt.eom(conn)
  if said ~= nil then fail("eom: " .. said) end
  return mt.getreply(conn)
end

-- The id of a message that was stamped, with this queue id and these further tags.
function stamped(conn, queue_id, more)
  check("it goes on", mt.getreply(conn) == SMFIR_CONTINUE)
  local id = mt.getheader(conn, "X-Correlation-ID", 0)
  check("an id", id ~= nil)
  local tags = "correlation_id=" .. id
  if queue_id then tags = "queue_id=" .. queue_id .. ", " .. tags end
  if more then tags = tags .. ", " .. more end
  check("the tags " .. tostring(mt.getheader(conn, "X-SES-MESSAGE-TAGS", 0)) .. ", not " .. tags,
    mt.eom_check(conn, MT_HDRINSERT, "X-SES-MESSAGE-TAGS", tags, 1))
  check("below Received", mt.eom_check(conn, MT_HDRINSERT, "X-Correlation-ID", id, 1))
  check("one of each",
    mt.getheader(conn, "X-Correlation-ID", 1) == nil and mt.getheader(conn, "X-SES-MESSAGE-TAGS", 1) == nil)
  check("nothing else", not mt.eom_check(conn, MT_HDRADD) and not mt.eom_check(conn, MT_BODYCHANGE))
  return id
end
