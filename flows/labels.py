"""What a flow run leaves on itself for those who ask later: tags to filter by, and labels, which programs read.

A run's message is for people, and its result is kept nowhere; `flows.launch` reads the labels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from prefect import tags
from prefect.context import FlowRunContext, TagsContext

from flows.launch import CHECKSUM_LABEL, TIME
from tasks.artifacts import board
from tasks.reports import PipelineReport, SessionReport
from trackers.names import ProcessingPipelines, ProcessingStatus

LOG_LABEL = "sessionflow.log"
IN_PROGRESS = "InProgress"
"""Name of the state in which a run ends that found somebody else at work, within a run that goes on without it."""
CUT_OFF = "CutOff"
"""Name of the state, of the type Crashed, in which a run ends that died within a run that goes on, with a new one."""
TAGGED = ("project", "animal")  # parameters whose values are tags


@contextlib.contextmanager
def tagged(parameters: Mapping[str, Any]) -> Iterator[None]:
    """Give the flow run that begins in the block its project and animal as tags."""
    with tags(*_tags(parameters)):
        yield


@contextlib.contextmanager
def tagged_run() -> Iterator[None]:
    """See that the present run has its tags, whoever started it, and keep them from its task runs.

    Prefect asks for a place under a concurrency limit for every tag of every task run, each time a request.
    """
    context, present = FlowRunContext.get(), board()
    if context is None or context.flow_run is None:
        yield
        return
    own = _tags(context.parameters or {})
    if own - set(context.flow_run.tags) and present is not None:  # started from the UI, by schedule or over the API
        present.tag(sorted({*context.flow_run.tags, *own}))
    with TagsContext(current_tags=TagsContext.get().current_tags - own):
        yield


def _tags(parameters: Mapping[str, Any]) -> set[str]:
    return {str(parameters[name]) for name in TAGGED if parameters.get(name)}


def leave_word(report: Any) -> None:
    """Have the present run say whether the raw data has been verified, and where the log of its failure is."""
    context, present = FlowRunContext.get(), board()
    words = checksum_words(report)
    if words and context is not None and present is not None:
        if (context.parameters or {}).get("regenerate"):
            words = "not verified (it was written anew)"
        present.label(CHECKSUM_LABEL, f"{words} {datetime.now(UTC).strftime(TIME)}")
    if (log := log_of(report)) and present is not None:
        present.label(LOG_LABEL, log)


def log_of(report: Any) -> str:
    """Return where the log of the first job is that failed; empty where none did."""
    reports = report.pipelines if isinstance(report, SessionReport) else (report,)
    failed = [each for each in reports if isinstance(each, PipelineReport) and not each.succeeded]
    return next((job.log for each in failed for job in each.jobs if job.reason and job.log), "")


def checksum_words(report: Any) -> str:
    """Return "verified", or "not verified" and why; nothing where a report does not know."""
    if isinstance(report, SessionReport):
        of_checksum = report.of(ProcessingPipelines.CHECKSUM)
        if of_checksum is None:
            return f"not verified ({report.reason or 'it did not run'})"
        report = of_checksum
    if not isinstance(report, PipelineReport) or report.pipeline is not ProcessingPipelines.CHECKSUM:
        return ""
    if report.status is ProcessingStatus.SUCCEEDED:
        return "verified"
    return f"not verified ({report.reason or 'it did not run'})".replace("\n", " ")
