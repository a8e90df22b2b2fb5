"""One pipeline on one target: its jobs handed over, followed to their end, and reported."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from prefect.settings import PREFECT_API_URL

from flows.eligibility import Facts, usable
from flows.pipeline_flow import manifest_later, this_flow_run
from tasks.artifacts import board
from tasks.compute_server import ComputeServer
from tasks.interruption import Interruption
from tasks.jobs import Submitted, end_jobs, finish, follow, submit
from tasks.lease import Lease, give_back
from tasks.outcome import carried_out, result_of
from tasks.pages import jobs_page, jobs_progress, never_started
from tasks.reports import JobReport, PipelineReport
from tasks.words import why
from trackers.graph import MANAGER_ID, PYTHON, Graph, Job, Resources, Stage
from trackers.names import ProcessingPipelines, ProcessingStatus
from trackers.processes import ProcessIdentity
from trackers.publication import PUBLISH

_STATUS = {
    "succeeded": ProcessingStatus.SUCCEEDED,
    "failed": ProcessingStatus.FAILED,
    "aborted": ProcessingStatus.ABORTED,
    "open": ProcessingStatus.RUNNING,
}


@dataclass
class Run:
    """One pipeline on one target, as a flow's body sees it; called with the stages, it runs them.

    Attributes:
        facts: what the server side described, read after the lock was taken; empty for a project. Of a dataset,
            `sessions` are the facts of each, by name.
        skipped: why nothing is to be done, as the report to return; None where something is.
    """

    pipeline: ProcessingPipelines
    server: ComputeServer
    target: dict[str, str]
    settings: dict[str, Any]
    reprocess: bool
    keep_job_logs: bool
    requested_by: str
    discard_curation: bool = False
    facts: Facts = field(default_factory=dict)
    skipped: PipelineReport | None = None
    lease: Lease | None = None

    def program(self, name: str, *arguments: str) -> tuple[str, ...]:
        """Return the command of one of our job programs on this target."""
        named = [word for key, value in self.target.items() for word in (f"--{key}", value)]
        roots = ["--storage", self.server.storage, "--working", self.server.working]
        if "datasets" in self.facts:
            roots += ["--datasets", self.facts["datasets"]]
        return (PYTHON, "-P", "-m", f"jobs.{name}", *roots, *named, "--manager-id", MANAGER_ID, *arguments)

    @property
    def beside(self) -> bool:
        """Whether the result is to be made beside one that is there, until it is whole.

        A lab's own programs know of no other place than the result's.
        """
        own = self.server.has_own(self.pipeline.name.lower())
        return "session" in self.target and usable(self.pipeline, self.facts) and not own

    def publication(self, *arguments: str) -> Stage:
        """Return the stage that puts a result in place which was made beside."""
        program = self.program("publication", *arguments)
        return Stage(PUBLISH, (Job(PUBLISH, program, Resources(memory_gb=1, minutes=20)),))

    async def __call__(self, *stages: Stage) -> PipelineReport:
        """Hand all stages over at once, follow every job to its end, and report.

        Raises:
            SubmissionError: jobs of other settings still run; nothing was submitted.
        """
        if self.skipped is not None or self.lease is None:
            assert self.skipped is not None  # noqa: S101 - without a lease there is a reason
            return self.skipped
        started = time.monotonic()
        request = self._request()
        graph = self.server.with_resources(self.pipeline.name.lower(), Graph(stages))
        submitting = asyncio.ensure_future(carried_out(submit, self.lease, request, graph))
        try:
            view = await self._followed(await asyncio.shield(submitting))
        except asyncio.CancelledError:
            interruption = Interruption.current()
            if interruption is None or not interruption.reason:
                await asyncio.wait([submitting])  # it must not stop half-way
                self.lease.abandon = "something other than a person cancelled the flow run; its jobs run on"
            else:
                await end_jobs(self.lease, request["request_id"], submitting)
                await give_back(self.lease)  # now: the runs around this one report to Prefect first, which may hang
                await asyncio.wait([submitting])
            raise
        except Exception:
            if await end_jobs(self.lease):
                self._changed_the_project()
            raise
        report = self._report(view, time.monotonic() - started)
        kept = self.keep_job_logs
        if (present := board()) is not None:
            present.finish(lambda: jobs_progress(view), lambda: jobs_page(view, report, keep_logs=kept))
        return report

    def _request(self) -> dict[str, Any]:
        return {
            "request_id": secrets.token_hex(8),
            "pipeline": self.pipeline.name,
            "settings": self.settings,
            "reprocess": self.reprocess,
            "discard_curation": self.discard_curation,
            "requested_by": self.requested_by,
            "flow_run_id": this_flow_run().flow_run_id,
            "prefect_api": PREFECT_API_URL.value() or "",
            "process": asdict(ProcessIdentity.of_this_process()),
        }

    async def _followed(self, view: dict[str, Any]) -> dict[str, Any]:
        assert self.lease is not None  # noqa: S101 - see __call__
        self._changed_the_project()
        async with Submitted(self.lease, view) as submitted:
            await asyncio.gather(*(_follow(submitted, job["stage"], job["name"]) for job in view["jobs"]))
            closed: dict[str, Any] = await carried_out(finish, submitted, self.keep_job_logs)
        return closed

    def _changed_the_project(self) -> None:
        """Have the manifest regenerated; a run that was refused changed nothing of what it shows."""
        if self.pipeline is not ProcessingPipelines.MANIFEST:
            manifest_later(self.target["project"], self.server)

    def _report(self, view: dict[str, Any], seconds: float) -> PipelineReport:
        failed = [job for job in view["jobs"] if job["state"] != "COMPLETED"]
        unpublished = any(job["name"] == PUBLISH and never_started(job) for job in failed)
        reasons = [why(job) for job in [j for j in failed if not never_started(j)] or failed]
        reasons += ["a result that was there before is in place as it was"] if unpublished else []
        return PipelineReport(
            self.pipeline,
            view["target"],
            _STATUS[view["status"]],
            ran=True,
            reason="; ".join(reasons),
            seconds=seconds,
            jobs=tuple(
                JobReport(
                    job["name"],
                    job["stage"],
                    job["state"],
                    job["attempt"],
                    why(job) if job in failed else "",
                    job["errors"],
                )
                for job in view["jobs"]
            ),
            notes=tuple(view.get("notes", ())),
            flow_run_id=this_flow_run().flow_run_id,
        )


async def _follow(submitted: Submitted, stage: str, job: str) -> None:
    """Follow a job; its stage is the tag and the prefix under which Prefect groups it.

    Raises:
        Exception: it could not be followed; how the job itself ended stands in the submission.
    """
    named: Any = follow.with_options(task_run_name=f"{stage}: {job}")  # its tag: see JobRun
    state = await named(submitted, job, return_state=True)
    if not state.is_completed() and not submitted.over(job):
        await result_of(state)
