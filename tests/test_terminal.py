"""What people see: tables that say everything in a narrow terminal too, and plain lines where there is none."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from flows.terminal import report_table, status_table
from tasks.reports import PipelineReport
from trackers.names import ProcessingPipelines, ProcessingStatus

SESSION = "demo/305/2025-08-27-23-35-15-123456"
INCOMPLETE = "the session is incomplete: raw_data has no telomere.bin"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def row(**changed: Any) -> dict[str, Any]:
    nothing = {"status": "", "ended": ""}
    names = ("CHECKSUM", "PREPARATION", "BEHAVIOR", "SUITE2P", "VIDEO", "ARCHIVING")
    return {
        "animal": "305",
        "session": SESSION.rsplit("/", maxsplit=1)[-1],
        "session_type": "run training",
        "problem": "",
        "complete": True,
        "archived": False,
        "notes": "Ran well [left side].",
        "pipelines": {name: dict(nothing) for name in names},
        **changed,
    }


@pytest.fixture(params=[50, 80, 200])
def columns(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("COLUMNS", str(request.param))
    return int(request.param)


def words(text: str) -> str:
    return " ".join(text.split())


def test_every_reason_is_said_whole_however_narrow_the_terminal_is(columns: int) -> None:
    reports = [
        PipelineReport(pipeline, SESSION, None, ran=False, reason=INCOMPLETE)
        for pipeline in (ProcessingPipelines.CHECKSUM, ProcessingPipelines.PREPARATION)
    ]
    shown = report_table(reports)
    assert SESSION in shown
    assert "…" not in shown
    assert "telomere.bin" in shown
    assert "as above" in shown
    assert all(len(line) <= columns for line in shown.splitlines())


def test_a_status_table_cuts_no_word_and_no_note(columns: int) -> None:
    facts = row()
    facts["pipelines"]["CHECKSUM"] = {"status": "failed", "ended": "2025-09-01T10:00:00.000+00:00"}
    shown = status_table("demo", [facts, row(problem="session_data.yaml is missing")], notes=True)
    assert "…" not in shown
    for expected in ("2025-08-27-23-35-15-123456", "failed", "2025-09-01", "Ran", "[left", "session_data.yaml"):
        assert expected in words(shown)


def test_a_pipeline_whose_tracker_was_reset_shows_nothing_of_its_last_run(columns: int) -> None:
    facts = row()
    facts["pipelines"]["PREPARATION"]["ended"] = "2025-09-01T10:00:00.000+00:00"
    assert "2025-09-01" not in status_table("demo", [facts], notes=False)


def test_a_failure_is_one_line_where_there_is_no_terminal_and_has_whole_paths_in_one(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "/a/volume/with/a/path/that/is/longer/than/the/terminal/is/wide/errors.log"
    failed = PipelineReport(
        ProcessingPipelines.CHECKSUM, SESSION, ProcessingStatus.FAILED, ran=True, reason=f"exit code 1; log: {path}"
    )
    assert report_table([failed]).splitlines()[-1] == failed.sentence
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert path in report_table([failed])
