"""What a single call of the server side takes from its start to its end, against an interpreter that does nothing."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
from pathlib import Path

from trackers.names import TrackerFileNames

REPEATS = 11  # taken in turns
GOAL_SECONDS = 0.15
COLUMNS = ("processor time of", "ours", "bare interpreter", "more", "goal")


def rows(folder: Path) -> list[tuple[str, ...]]:
    """Measure and return the table's rows: what, ours, bare interpreter, the difference, the goal for that."""
    project = folder / "project"
    project.mkdir()
    (project / TrackerFileNames.MANIFEST).touch()
    arguments = json.dumps({"site": {"storage": str(folder)}, "project": project.name, "pipeline": "MANIFEST"})
    found = []
    for call in ("hello", "tracker_show"):
        ours, bare = [], []
        for _ in range(REPEATS):
            ours.append(processor_seconds("-P", "-m", "trackers", call, arguments))
            bare.append(processor_seconds("-P", "-c", "pass"))
        mine, floor = statistics.median(ours), statistics.median(bare)
        figures = [f"{seconds:.3f} s" for seconds in (mine, floor, mine - floor)]
        found.append((f"a single call, {call}", *figures, f"≤ {GOAL_SECONDS} s"))
    return found


def processor_seconds(*words: str) -> float:
    """Return the user and system time of one run of this interpreter, seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)
