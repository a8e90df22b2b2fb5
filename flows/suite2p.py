"""Single-day suite2p: cells and their activity from the mesoscope's movie, every plane by itself."""

from __future__ import annotations

import json
from typing import Any

from flows.pipeline import pipeline, pipeline_flow
from tasks.compute_server import ComputeServer
from tasks.reports import PipelineReport
from trackers.errors import BadInputError
from trackers.graph import Job, Resources, Stage
from trackers.names import ProcessingPipelines
from trackers.publication import NEXT
from trackers.settings import checked_overrides
from trackers.suite2p_settings import SUITE2P

BINARIZE = Resources(cpus=1, memory_gb=10, minutes=180)
PLANE = Resources(cpus=30, memory_gb=80, minutes=180)
COMBINE = Resources(cpus=1, memory_gb=30, minutes=180)


@pipeline_flow(name="suite2p", run_name="suite2p {project}/{animal}/{session}")
async def suite2p(
    project: str,
    animal: str,
    session: str,
    server: ComputeServer | None = None,
    planes: int | None = None,
    plane: int | None = None,
    settings: dict[str, Any] | None = None,
    reprocess: bool = False,
    discard_curation: bool = False,
    keep_job_logs: bool = False,
    requested_by: str = "",
) -> PipelineReport:
    """Find cells and extract their activity: the tiffs into binaries, every plane in parallel, all planes combined.

    A run that failed is continued: only the planes that failed, and what comes after them, run again. Where there is a
    result, the new one is made beside it and takes its place once it is whole; the one before is kept.

    Args:
        project: The project's name.
        animal: The animal's name or number.
        session: The session's name, its UTC time.
        server: Where the data lies and the jobs run; none: this computer.
        planes: How many planes there must be, ROIs times z-planes; none: as many as the recording's ops.json says.
        plane: This plane only, from 0, also where it has succeeded before: its cells are looked for again, and all
            planes are combined anew.
        settings: Changes to suite2p's settings for this run, nested or by dotted names; stronger than every file's.
        reprocess: Run also where it has succeeded before.
        discard_curation: Also where people have edited the result since.
        keep_job_logs: Keep the jobs' logs after a success.
        requested_by: Who asks; shown with the lock and in the records.
    """
    changes = checked_overrides(settings or {}, SUITE2P)
    async with pipeline(
        ProcessingPipelines.SUITE2P,
        *(server, project, animal, session),
        settings={"planes": planes, **({} if plane is None else {"plane": plane})},
        overrides=changes,
        reprocess=reprocess or plane is not None,
        discard_curation=discard_curation,
        keep_job_logs=keep_job_logs,
        requested_by=requested_by,
    ) as run:
        if run.skipped is not None:
            return run.skipped
        chosen = _chosen(run.facts["planes"], planes, plane)
        beside = run.beside and plane is None
        words = ("--settings", json.dumps(run.settings["settings"], sort_keys=True))
        words = (*(("--into", NEXT) if beside else ()), *words)

        def program(stage: str, *more: str) -> tuple[str, ...]:
            return run.program("suite2p", "--stage", stage, *words, *more)

        binarize = Job("binarize", program("binarize"), BINARIZE, environment="suite2p")
        each = [Job(f"plane-{n}", program("plane", "--plane", str(n)), PLANE, environment="suite2p") for n in chosen]
        combine = Job("combine", program("combine"), COMBINE, environment="suite2p")
        return await run(
            *([Stage("binarize", (binarize,))] if plane is None else []),
            Stage("planes", tuple(each)),
            Stage("combine", (combine,)),
            *([run.publication("--pipeline", run.pipeline.name)] if beside else []),
        )


def _chosen(recorded: int, expected: int | None, plane: int | None) -> range:
    """Return the planes to process.

    Raises:
        BadInputError: the recording has another number of planes, or not that plane.
    """
    if expected not in (None, recorded):
        raise BadInputError(
            f"The recording's ops.json speaks of {recorded} planes, not of {expected}. Nothing was done."
        )
    if plane is None:
        return range(recorded)
    if not 0 <= plane < recorded:
        raise BadInputError(f"There is no plane {plane}: the recording has 0 to {recorded - 1}. Nothing was done.")
    return range(plane, plane + 1)
