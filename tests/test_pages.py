"""What people read of a run: pure functions from views and reports to Markdown and tables."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from tasks.pages import duration, jobs_page, jobs_progress, key_of, plain, session_page
from tasks.reports import PipelineReport, SessionReport
from trackers.names import ProcessingPipelines, ProcessingStatus

TARGET = "Project/305/2025-08-26-18-30-15-123456"
REPORT = PipelineReport(ProcessingPipelines.SUITE2P, TARGET, ProcessingStatus.FAILED, ran=True, seconds=90)


def job(name: str, state: str, **more: Any) -> dict[str, Any]:
    usage = {"node": "", "queued_seconds": None, "ran_seconds": None, "cpu_seconds": None, "memory_gb": None}
    ended = state not in ("PENDING", "RUNNING")
    known = {
        "name": name,
        "stage": "planes",
        "state": state,
        "id": "12",
        "attempt": 1,
        "reason": "",
        "earlier": [],
        "over": ended,
        "ended": "now" if ended else "",
        "blocked": False,
        "progress": "",
        "tail": [],
        "errors": f"/data/0001/jobs/{name}/1/errors.log",
        "usage": usage,
        "resources": {"cpus": 4, "memory_gb": 8.0, "minutes": 120},
    }
    return {**known, **more, "usage": {**usage, **more.get("usage", {})}}


def view(*jobs: dict[str, Any], status: str = "open") -> dict[str, Any]:
    return {"target": TARGET, "pipeline": "SUITE2P", "status": status, "jobs": list(jobs)}


@pytest.mark.parametrize("target", [TARGET, "Prójekt x/ä/s", "a/b-c", "A b"])
def test_a_key_is_of_lower_case_letters_digits_and_dashes(target: str) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", key_of(target, "SUITE2P"))


def test_different_targets_have_different_keys() -> None:
    targets = ["a-b/c", "a/b-c", "A/b-c", "a/b_c", "ä/b-c"]
    assert len({key_of(target, "SUITE2P") for target in targets}) == len(targets)
    assert key_of(TARGET, "SUITE2P") == key_of(TARGET, "SUITE2P")


def test_progress_says_how_many_jobs_have_ended_and_why_the_others_wait() -> None:
    progress = jobs_progress(
        view(job("a", "COMPLETED"), job("b", "RUNNING", progress="40 %"), job("c", "PENDING", reason="free nodes"))
    )
    assert progress.share == pytest.approx(1 / 3)
    assert "1 of 3 jobs have ended; stage **planes**" in progress.words
    assert "| planes | b | 12 | running | 40 % |" in progress.words
    assert "| planes | c | 12 | pending | free nodes |" in progress.words


def test_progress_of_a_thousand_jobs_is_short() -> None:
    progress = jobs_progress(view(*(job(f"j{n}", "PENDING") for n in range(1000))))
    assert len(progress.words.splitlines()) < 30
    assert "980 more" in progress.words


def test_a_page_begins_with_the_reason_and_the_last_lines_of_stderr() -> None:
    failed = job("b", "FAILED", reason="exit code 3", tail=["| **not** ```markup```", "ValueError"])
    text = jobs_page(view(job("a", "COMPLETED"), failed, status="failed"), REPORT, keep_logs=False).text
    assert text.startswith("**b FAILED**, job 12: exit code 3")
    assert "````\n| **not** ```markup```\nValueError\n````" in text


def test_a_page_says_what_a_job_used_of_what_it_asked_for() -> None:
    usage = {"node": "n7", "queued_seconds": 5.0, "ran_seconds": 3600.0, "cpu_seconds": 7200.0, "memory_gb": 2.0}
    page = jobs_page(view(job("a", "COMPLETED", usage=usage)), REPORT, keep_logs=False).artifact()
    assert page["type"] == "table"
    assert json.loads(page["data"]) == [
        {
            "job": "planes: a",
            "state": "COMPLETED",
            "Slurm id": "12",
            "node": "n7",
            "queued": "5 s",
            "ran": "1 h of 2 h",
            "CPU": "2.0 of 4 cores",
            "memory": "2 of 8 GB",
            "log": "not kept",
        }
    ]
    unmeasured = jobs_page(view(job("a", "COMPLETED", usage={**usage, "memory_gb": None})), REPORT, keep_logs=False)
    assert unmeasured.rows[0]["memory"] == "? of 8 GB"


def test_a_page_keeps_jobs_that_never_started_apart_from_those_that_failed() -> None:
    never = job("c", "CANCELLED", reason="DependencyNeverSatisfied")
    text = jobs_page(view(job("b", "FAILED"), never, status="failed"), REPORT, keep_logs=False).text
    assert "Never started: c." in text
    assert "c CANCELLED" not in text


def test_a_page_lists_earlier_attempts() -> None:
    again = job("b", "COMPLETED", attempt=2, earlier=["attempt 1 OUT_OF_MEMORY: 8 GB were not enough"])
    page = jobs_page(view(again, status="succeeded"), REPORT, keep_logs=True)
    assert page.rows[0]["state"] == "COMPLETED (attempt 2)"
    assert "- b: attempt 1 OUT_OF_MEMORY: 8 GB were not enough" in page.text
    assert page.rows[0]["log"] == "errors.log"
    assert "The logs are on the server, in `/data/0001/jobs/b/1`." in page.text


def test_a_sessions_page_links_to_the_runs_and_says_why() -> None:
    skipped = PipelineReport(ProcessingPipelines.VIDEO, TARGET, None, ran=False, reason="not | prepared")
    report = PipelineReport(ProcessingPipelines.CHECKSUM, TARGET, ProcessingStatus.SUCCEEDED, ran=True, flow_run_id="x")
    page = session_page(SessionReport(TARGET, (report, skipped)))
    assert "[checksum resolution](/runs/flow-run/x)" in page.text
    assert r"| skipped |  | not \| prepared |" in page.text


def test_a_sessions_page_begins_with_what_failed() -> None:
    page = session_page(SessionReport(TARGET, (replace(REPORT, reason="plane-3 FAILED; exit code 3"),)))
    assert page.title.endswith("failed")
    assert page.text.startswith("**single-day suite2p processing failed**: plane-3 FAILED; exit code 3")


def test_words_cannot_be_markup() -> None:
    assert plain("a|b\nOUT_OF_MEMORY /_x_/ <b>") == r"a\|b OUT_OF_MEMORY /\_x\_/ \<b\>"


@pytest.mark.parametrize(
    ("seconds", "words"), [(None, ""), (0.0, "0 s"), (59.0, "59 s"), (90.0, "1.5 min"), (7200.0, "2 h")]
)
def test_durations_are_for_people(seconds: float | None, words: str) -> None:
    assert duration(seconds) == words
