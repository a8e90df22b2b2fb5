"""What a flow run leaves on itself for those who ask later: labels, which come with the run wherever it is asked for.

A run's message is for people, and its result is kept nowhere; `flows.launch` reads these.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from prefect.context import FlowRunContext

from flows.launch import CHECKSUM_LABEL, TIME
from tasks.artifacts import board
from tasks.reports import PipelineReport, SessionReport
from trackers.names import ProcessingPipelines, ProcessingStatus


def leave_word(report: Any) -> None:
    """Have the present run say whether the raw data has been verified, where its report is one that knows."""
    context, present = FlowRunContext.get(), board()
    words = checksum_words(report)
    if words and context is not None and present is not None:
        if (context.parameters or {}).get("regenerate"):
            words = "not verified (it was written anew)"
        present.label(CHECKSUM_LABEL, f"{words} {datetime.now(UTC).strftime(TIME)}")


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
