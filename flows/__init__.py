"""Prefect flows: one module per pipeline, the flows that compose them, and the `sessionflow` command."""

import os

# Prefect reads these when it is imported; a lab's network is often closed, and its data is nobody's telemetry
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
