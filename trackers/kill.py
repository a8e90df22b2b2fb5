"""Ending every process of a job, found by the key in its environment, wherever it has hidden itself."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection
from pathlib import Path

KEY_VARIABLE = "SESSIONFLOW_JOB_KEY"


def processes_of(keys: Collection[str]) -> dict[int, str]:
    """Return the pids, with their keys, of this account's processes whose environment carries one of `keys`."""
    wanted = {f"{KEY_VARIABLE}={key}".encode(): key for key in keys}
    found = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError):  # it has ended, or is another account's
            variables = Path("/proc", entry.name, "environ").read_bytes().split(b"\0")
            for variable in variables:
                if variable in wanted:
                    found[int(entry.name)] = wanted[variable]
    return found


def end_processes(keys: Collection[str], grace_seconds: float) -> bool:
    """Ask the jobs' scripts to end (they forward it), and kill whatever is left after `grace_seconds`.

    Returns:
        whether no process of them is left.
    """
    _signal(_scripts(processes_of(keys)), signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    while processes := processes_of(keys):
        if time.monotonic() >= deadline:
            _signal(processes, signal.SIGKILL)
            break
        time.sleep(0.05)
    deadline = time.monotonic() + 2.0
    while processes_of(keys):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True


def _scripts(processes: dict[int, str]) -> list[int]:
    """Return the script of each job, the leader of its process session; all processes of jobs that have lost theirs."""
    leaders: dict[str, int] = {}
    for pid, key in processes.items():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == pid:
                leaders[key] = min(pid, leaders.get(key, pid))
    return [*leaders.values(), *(pid for pid, key in processes.items() if key not in leaders)]


def _signal(pids: Collection[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
