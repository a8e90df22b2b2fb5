"""What manager and server side must agree on before they exchange anything."""

PROTOCOL = 1
LINE_BYTES = 64 * 1024 * 1024  # the longest answer: a status table of thousands of sessions is one line
