"""A try of suite2p's settings: cells looked for again on registered movies, beside the result, shown on the page."""

from __future__ import annotations

import json
from typing import Any

from flows.eligibility import usable
from flows.pipeline import pipeline, pipeline_flow
from flows.report import page
from flows.suite2p import PLANE
from tasks.compute_server import ComputeServer
from tasks.reports import PipelineReport
from trackers.errors import BadInputError, NotEligibleError
from trackers.graph import Job, Stage
from trackers.names import ProcessingPipelines, validate_name
from trackers.settings import checked_overrides
from trackers.suite2p_settings import SUITE2P

NOT_REPEATED = ("fs", "torch_device", "io.", "registration.", "run.")


@pipeline_flow(name="try-suite2p", run_name="try suite2p {project}/{animal}/{session}")
async def try_suite2p(
    project: str,
    animal: str,
    session: str,
    settings: dict[str, Any],
    server: ComputeServer | None = None,
    name: str = "",
    keep_job_logs: bool = False,
    requested_by: str = "",
) -> PipelineReport:
    """Look for the cells of all planes with other settings, and make the session's page, which shows both results.

    Registration is not repeated, and suite2p's result, its record and its tracker stay as they are: a try is part of
    the session's page, and runs as that pipeline.

    Args:
        project: The project's name.
        animal: The animal's name or number.
        session: The session's name, its UTC time.
        settings: What is other than in the settings that the result was made with, nested or by dotted names.
        server: Where the data lies and the jobs run; none: this computer.
        name: The try's; an earlier one of that name is replaced. Empty: made of the settings.
        keep_job_logs: Keep the jobs' logs after a success.
        requested_by: Who asks; shown with the lock and in the records.
    """
    changes = _checked(settings)
    name = validate_name(name or named(changes), "try")
    async with pipeline(
        ProcessingPipelines.REPORT,
        *(server, project, animal, session),
        settings={"dataset": "", "try": {"name": name, "settings": changes}},
        reprocess=True,
        keep_job_logs=keep_job_logs,
        requested_by=requested_by,
    ) as run:
        if not usable(ProcessingPipelines.SUITE2P, run.facts):
            raise NotEligibleError(f"Nothing can be tried on {run.facts['target']}: run suite2p first.")
        words = ("--name", name, "--settings", json.dumps(changes, sort_keys=True))
        jobs = [
            Job(
                f"try-plane-{number}",
                run.program("suite2p_try", "--plane", str(number), *words),
                PLANE,
                environment="suite2p",
            )
            for number in range(run.facts["planes"])
        ]
        return await run(Stage("try", tuple(jobs)), page(run))


def named(changes: dict[str, Any]) -> str:
    """Return a name for a try of these settings: `threshold_scaling-0.8`."""
    words = "+".join(f"{name.rpartition('.')[2]}-{value}" for name, value in sorted(changes.items()))
    return "".join(c if c.isalnum() or c in "_-.+" else "_" for c in words)[:100]


def _checked(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the changes by dotted name.

    Raises:
        BadInputError: there are none, suite2p does not know one, or it is one of what is not done again.
    """
    changes = checked_overrides(settings, SUITE2P)
    if not changes:
        raise BadInputError("A try needs a setting that is other than the result's. Nothing was done.")
    if kept := [name for name in changes if name.startswith(NOT_REPEATED)]:
        raise BadInputError(
            f"{', '.join(kept)}: a try looks for cells on the movie as it is registered, and cannot change this. "
            "Nothing was done. Run suite2p itself with it."
        )
    return changes
