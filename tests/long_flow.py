"""A pipeline flow whose jobs are shell commands: `python -m tests.long_flow ROOT COMMAND [COMMAND …]`.

Options before ROOT: `--server FILE`, a description; `--project NAME`; `--animal NAME`. `--then` between commands
begins a new stage.

It is the checksum pipeline by name, since every session is eligible for that one. It prints what became of it as JSON.
Words of its own: `raise` puts a fault into the following of jobs, `drop` cancels the flow without anybody asking.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
from pathlib import Path

import yaml

from flows.pipeline import pipeline, pipeline_flow
from tasks import jobs
from tasks.compute_server import ComputeServer
from tasks.reports import PipelineReport
from tests.conftest import SESSION
from trackers.errors import SessionflowError
from trackers.graph import Job, Resources, Stage
from trackers.names import ProcessingPipelines


@pipeline_flow(name="long", run_name="long {animal}")
async def long(
    commands: list[list[str]], server: ComputeServer, project: str = "Project", animal: str = "305"
) -> PipelineReport:
    """Run stages of shell commands, those of a stage at the same time."""
    async with pipeline(
        ProcessingPipelines.CHECKSUM,
        *(server, project, animal, SESSION),
        settings={"regenerate": False},
        reprocess=False,
        keep_job_logs=False,
        requested_by="a test",
    ) as run:
        jobs = [Job(f"job-{n}", ("bash", "-c", c), Resources()) for n, c in enumerate(itertools.chain(*commands))]
        left = iter(jobs)
        return await run(
            *(Stage(f"work-{n}", tuple(itertools.islice(left, len(stage)))) for n, stage in enumerate(commands))
        )


def all_run(view: jobs.View) -> bool:
    return all(job["state"] == "RUNNING" for job in view["jobs"])


def stages_of(words: list[str]) -> list[list[str]]:
    stages: list[list[str]] = [[]]
    for word in words:
        if word == "--then":
            stages.append([])
        elif word not in ("raise", "drop"):
            stages[-1].append(word)
    return stages


async def main(arguments: argparse.Namespace) -> int:
    root, words = arguments.root, arguments.words
    if arguments.server:
        server = ComputeServer(**yaml.safe_load(arguments.server.read_text()))
    else:
        server = ComputeServer(storage_root=str(root / "storage"), working_root=str(root / "working"))
    flows: list[asyncio.Future[PipelineReport]] = []
    if "drop" in words:
        jobs.OBSERVER.set(lambda view: flows[0].cancel() if all_run(view) else None)
    if "raise" in words:
        jobs.Submitted.change = failing_change  # type: ignore[method-assign]
    flows.append(asyncio.ensure_future(long(stages_of(words), server, arguments.project, arguments.animal)))
    try:
        report = await flows[0]
    except SessionflowError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))
        return error.exit_code
    found = {job.name: {"state": job.state, "attempt": job.attempts, "reason": job.reason} for job in report.jobs}
    print(json.dumps({"status": report.status, "reason": report.reason, "ran": report.ran, "jobs": found}))
    return 0 if report.succeeded else 1


async def failing_change(submitted: jobs.Submitted) -> None:
    if submitted.view["pipeline"] == "CHECKSUM" and all_run(submitted.view):
        raise RuntimeError("a fault of our own")
    await real_change(submitted)


real_change = jobs.Submitted.change

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", type=Path)
    parser.add_argument("--project", default="Project")
    parser.add_argument("--animal", default="305")
    parser.add_argument("root", type=Path)
    parser.add_argument("words", nargs=argparse.REMAINDER)
    sys.exit(asyncio.run(main(parser.parse_args())))
