"""Prefect tasks, transports and the client of the server side."""
