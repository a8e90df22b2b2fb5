"""A worker program as sl-shared-assets 5.1.0's are: it drives the tracker itself, in place, and miscounts.

`python -m tests.worker TRACKER MANAGER JOBS [fail | torn]`. Its loader does not read the counts back, and its `stop`
writes none that is not the last: with a process for each job, the second stop says complete, and the third job starts
anew.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import filelock
import yaml

FRESH = {
    "file_path": None,
    "_complete": False,
    "_encountered_error": False,
    "_running": False,
    "_manager_id": -1,
    "_lock_path": None,
    "_job_count": 1,
    "_completed_jobs": 0,
}


def main() -> None:
    path, manager_id, jobs, *words = sys.argv[1:]
    tracker = Path(path)
    lock = filelock.FileLock(f"{path}.lock", timeout=10)
    with lock:
        state = read(tracker)
        if state["_running"] and state["_manager_id"] != int(manager_id):
            sys.exit("another manager runs it")
        if not state["_running"]:
            write(tracker, {**FRESH, "_running": True, "_manager_id": int(manager_id), "_job_count": int(jobs)})
    time.sleep(0.3)
    with lock:
        state = read(tracker)
        if "torn" in words:  # it is killed while it writes
            tracker.write_text("")
            time.sleep(1)
            os.kill(os.getpid(), signal.SIGKILL)
        if "fail" in words:
            write(tracker, {**state, "_running": False, "_manager_id": -1, "_encountered_error": True})
            sys.exit("it went wrong")
        if state["_completed_jobs"] + 1 >= state["_job_count"]:
            write(tracker, {**state, "_running": False, "_manager_id": -1, "_complete": True})


def read(tracker: Path) -> dict[str, object]:
    state = yaml.safe_load(tracker.read_text())
    return {**state, "_job_count": 1, "_completed_jobs": 0}  # the counts are not restored


def write(tracker: Path, state: dict[str, object]) -> None:
    tracker.write_text(yaml.dump(state, explicit_start=True, explicit_end=True, sort_keys=False))


if __name__ == "__main__":
    main()
