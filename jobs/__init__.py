"""The programs that jobs run on the server."""
