"""Makespan of a project's sessions on a real cluster, against the same jobs given to sbatch and Prefect's own share."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.runs import Bench, bench, server_of
from tests.prefect_server import REPOSITORY
from tests.trivial_project import JOBS, TrivialProject
from trackers.names import ProcessingPipelines, SessionTypes

COLUMNS = ("sessions", "jobs", "flow runs", "floor", "Prefect's own", "ours", "ours / (floor + own)", "memory", "lost")
GOAL = 1.1
_STAGES = {ProcessingPipelines.BEHAVIOR: (7,), ProcessingPipelines.SUITE2P: (1, 1, 1)}  # others: one job


def rows(sessions: list[int]) -> Iterator[tuple[str, ...]]:
    """Measure projects of so many sessions; yield a row of the table with `COLUMNS` for each."""
    with bench() as on:
        for count in sessions:
            project = TrivialProject(on.folder / f"project-{count}", count)
            floor = _floor(on, project)
            null, ours = _flows(on, project, "null"), _flows(on, project)
            own, seconds = float(null["seconds"]), float(ours["seconds"])
            yield (
                *(str(count), str(project.jobs), str(project.flow_runs.total())),
                *(f"{floor:.0f} s", f"{own:.0f} s", f"{seconds:.0f} s"),
                f"{seconds / (floor + own):.2f} (≤ {GOAL})",
                f"{ours['megabytes']:.0f} MB",
                str(count - ours["standings"].get("succeeded", 0)),
            )


def _floor(on: Bench, project: TrivialProject) -> float:
    """Give the same jobs to sbatch, stage after stage of each session; return the seconds to the end of the last."""
    script = on.folder / "floor.sh"
    script.write_text(f"#!/bin/sh\n{project.root / 'python'} jobs.nothing\n")
    began = time.perf_counter()
    for kind in project.kinds:
        before: list[str] = []
        for jobs in _stages(kind):
            before = on.submitted(script, jobs, before)
    on.wait_until_none_is_left()
    seconds = time.perf_counter() - began
    (project.root / "trace").unlink()
    return seconds


def _stages(kind: SessionTypes) -> Iterator[int]:
    for pipeline in JOBS[kind]:
        yield from _STAGES.get(pipeline, (1,))


def _flows(on: Bench, project: TrivialProject, *words: str) -> dict[str, Any]:
    description = Path(project.root) / "server.json"
    description.write_text(server_of(on.cluster, project.root, **project.server).model_dump_json())
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.project_run", str(description), str(project.sessions), *words],
        env={**on.prefect.environment, "PREFECT_LOGGING_LEVEL": "ERROR"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "null" not in words:
        told = [project.jobs - len(set(project.trace())), len(project.trace()) - project.jobs, project.unfinished()[:5]]
        if told != [0, 0, []]:
            sys.stderr.write(f"{project.sessions} sessions: jobs lost, run twice, and what is not done: {told}\n")
    return said
