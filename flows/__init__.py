"""Prefect flows: one module per pipeline, the flows that compose them, and the `sessionflow` command."""

import os

# Prefect reads these when it is imported. A lab's network is often closed, and its data is nobody's telemetry.
# The rest is for the embedded server: it writes events in batches, so that SQLite is not locked when a flow run
# is created, which the client answers with pauses of seconds (measured: the demo in 12 s instead of 33 s).
PREFECT_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # on a busy computer 20 s are not enough
    # a server that is restarted is waited for, 2, 4, 8 … s between two tries: nine minutes
    "PREFECT_CLIENT_MAX_RETRIES": "8",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "500",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "500",
    # Every 20 s it would read each run within a run that has not ended, and the run around it: with hundreds at once
    # a quarter of what the server does. Our runs see their own cancel; this is for those whose process has gone.
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_LOOP_SECONDS": "300",
}
for _name, _value in PREFECT_SETTINGS.items():
    os.environ.setdefault(_name, _value)
