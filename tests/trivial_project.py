"""A project of many sessions whose jobs do nothing, and its run: `python -m tests.trivial_project SERVER [OPTIONS]`.

SERVER is a file with the description of the server, OPTIONS the flow's as JSON. The run prints as JSON how the
sessions stand, and the most memory that it took.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shlex
import sys
import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from flows.behavior import SOURCES
from flows.process_project import process_project
from tasks.compute_server import ComputeServer
from tests.conftest import make_session
from tests.prefect_server import REPOSITORY
from trackers.names import ProcessingPipelines, SessionTypes
from trackers.site import Site
from trackers.targets import Target

PROJECT, ANIMAL = "Project", "305"
FIRST = datetime(2025, 8, 26, 18, 30, 15, 123456)
KINDS = tuple(SessionTypes)
ENVIRONMENTS = ("core", "behavior", "suite2p", "video")
_TRAINED = {
    ProcessingPipelines.CHECKSUM: 1,
    ProcessingPipelines.PREPARATION: 1,
    ProcessingPipelines.BEHAVIOR: 7,
    ProcessingPipelines.VIDEO: 1,
}
JOBS = {  # of every pipeline that a session of a type has; a recording has one plane and one camera
    SessionTypes.LICK_TRAINING: _TRAINED,
    SessionTypes.RUN_TRAINING: _TRAINED,
    SessionTypes.MESOSCOPE_EXPERIMENT: {**_TRAINED, ProcessingPipelines.SUITE2P: 3},
    SessionTypes.WINDOW_CHECKING: {ProcessingPipelines.CHECKSUM: 1},
}
assert len(SOURCES) == _TRAINED[ProcessingPipelines.BEHAVIOR]


@dataclass
class TrivialProject:
    """Sessions of all types in turn on one volume, so that what prepares them has nothing to move.

    Every job writes a line to `trace` and ends; only the manifest is the real one.
    """

    root: Path
    sessions: int

    def __post_init__(self) -> None:
        self.names = [(FIRST + timedelta(days=n)).strftime("%Y-%m-%d-%H-%M-%S-%f") for n in range(self.sessions)]
        for name, kind in zip(self.names, self.kinds, strict=True):
            raw_data = make_session(self.root / "data", PROJECT, ANIMAL, name, kind.value) / "raw_data"
            (raw_data / "camera_data").mkdir()
            (raw_data / "camera_data" / "face_camera.mp4").write_bytes(b"\0\0\0\x08ftypisom")
            if kind is SessionTypes.MESOSCOPE_EXPERIMENT:
                (raw_data / "mesoscope_data").mkdir()
                (raw_data / "mesoscope_data" / "ops.json").write_text('{"fs": 10, "nplanes": 1}')
        python, trace = shlex.quote(sys.executable), shlex.quote(str(self.root / "trace"))
        (self.root / "python").write_text(
            f"""#!/bin/sh
export PYTHONPATH={shlex.quote(str(REPOSITORY))}
case "$*" in
*jobs.manifest*) ;;
*jobs.*) echo "$SESSIONFLOW_JOB_KEY" "$*" >> {trace}; exit 0;;
esac
exec {python} "$@"
"""
        )
        (self.root / "python").chmod(0o755)

    @property
    def kinds(self) -> list[SessionTypes]:
        """The sessions' types."""
        return [KINDS[number % len(KINDS)] for number in range(self.sessions)]

    @property
    def flow_runs(self) -> Counter[str]:
        """How many runs of each flow one run of the project makes."""
        pipelines = Counter(pipeline.name.lower() for kind in self.kinds for pipeline in JOBS[kind])
        return pipelines + Counter({"process-session": self.sessions, "process-project": 1, "manifest": 1})

    @property
    def jobs(self) -> int:
        """How many jobs there are, the manifest's apart."""
        return sum(sum(JOBS[kind].values()) for kind in self.kinds)

    @property
    def server(self) -> dict[str, Any]:
        """Parts of the server's description: the volumes, which are one, and jobs that take next to nothing."""
        python, little = {"python": str(self.root / "python")}, {"cpus": 1, "memory_gb": 1}
        return {
            "storage_root": str(self.root / "data"),
            "working_root": str(self.root / "data"),
            "environments": dict.fromkeys(ENVIRONMENTS, python),
            "resources": {pipeline.name.lower(): little for pipeline in ProcessingPipelines},
        }

    def target(self, name: str) -> Target:
        """Return a session as the server side knows it."""
        data = str(self.root / "data")
        return Target(Site.from_json({"storage": data, "working": data}), PROJECT, ANIMAL, name)

    def unfinished(self) -> list[str]:
        """Return what is not as it must be at the end: pipelines that have not succeeded, and locks that are held."""
        found = []
        for name, kind in zip(self.names, self.kinds, strict=True):
            target = self.target(name)
            found += [f"{name} {p}" for p in JOBS[kind] if not target.tracker(p).read().complete]
            found += [] if target.lock.read().free else [f"{name} is locked"]
        return found

    def trace(self) -> list[str]:
        """Return a line for every start of a job."""
        path = self.root / "trace"
        return path.read_text().splitlines() if path.exists() else []


async def main(server: ComputeServer, options: dict[str, Any]) -> dict[str, Any]:
    """Run the project."""
    began = time.perf_counter()
    report = await process_project(PROJECT, server, **options)
    return {
        "seconds": time.perf_counter() - began,
        "standings": Counter(outcome.standing for outcome in report.sessions),
        "words": sorted({outcome.words for outcome in report.sessions})[:5],
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "ERROR")
    described = ComputeServer(**json.loads(Path(sys.argv[1]).read_text()))
    print(json.dumps(asyncio.run(main(described, json.loads(sys.argv[2]) if sys.argv[2:] else {}))))
