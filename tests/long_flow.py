"""A pipeline flow whose jobs are shell commands: `python -m tests.long_flow ROOT COMMAND [COMMAND …]`.

It is the checksum pipeline by name, since every session is eligible for that one. It prints what became of it as JSON.
Words of its own: `raise` puts a fault into the following of jobs, `drop` cancels the flow without anybody asking.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from flows.pipeline import pipeline, pipeline_flow
from tasks import jobs
from tasks.compute_server import ComputeServer
from tasks.reports import PipelineReport
from tests.conftest import SESSION
from trackers.errors import SessionflowError
from trackers.graph import Job, Stage
from trackers.names import ProcessingPipelines


@pipeline_flow(name="long", run_name="long {animal}")
async def long(commands: list[str], server: ComputeServer, animal: str = "305") -> PipelineReport:
    """Run shell commands, all at the same time, as the jobs of one stage."""
    async with pipeline(
        ProcessingPipelines.CHECKSUM,
        *(server, "Project", animal, SESSION),
        settings={"regenerate": False},
        reprocess=False,
        keep_job_logs=False,
        requested_by="a test",
    ) as run:
        return await run(Stage("work", tuple(Job(f"job-{n}", ("bash", "-c", c)) for n, c in enumerate(commands))))


def all_run(view: jobs.View) -> bool:
    return all(job["state"] == "RUNNING" for job in view["jobs"])


async def main(root: Path, words: list[str]) -> int:
    server = ComputeServer(storage_root=str(root / "storage"), working_root=str(root / "working"))
    flows: list[asyncio.Future[PipelineReport]] = []
    if "drop" in words:
        jobs.OBSERVER.set(lambda view: flows[0].cancel() if all_run(view) else None)
    if "raise" in words:
        jobs.Submitted.change = failing_change  # type: ignore[method-assign]
    flows.append(asyncio.ensure_future(long([word for word in words if word not in ("raise", "drop")], server)))
    try:
        report = await flows[0]
    except SessionflowError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))
        return error.exit_code
    print(json.dumps({"status": report.status, "reason": report.reason, "ran": report.ran}))
    return 0 if report.succeeded else 1


async def failing_change(submitted: jobs.Submitted) -> None:
    if submitted.view["pipeline"] == "CHECKSUM" and all_run(submitted.view):
        raise RuntimeError("a fault of our own")
    await real_change(submitted)


real_change = jobs.Submitted.change

if __name__ == "__main__":
    sys.exit(asyncio.run(main(Path(sys.argv[1]), sys.argv[2:])))
