"""The page that is read at night: what failed, with which last words, where its log is, what it used."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

from flows.session_page import history_page
from tasks.words import why
from tests.conftest import SESSION, Side, all_ended, states
from trackers.names import ProcessingPipelines
from trackers.site import Site
from trackers.submission import SubmissionFolder, Usage
from trackers.targets import Target

FAILS = "echo loading; echo 'progress 1/2 files'; echo 'calibration is missing' >&2; echo 'gave up' >&2; exit 3"


def folder_of(side: Side) -> SubmissionFolder:
    target = Target(Site.from_json(side.arguments["site"]), "Project", "305", SESSION)
    return target.submissions(ProcessingPipelines.BEHAVIOR)


def page_of(side: Side) -> list[str]:
    return [line.strip() for line in history_page(side.get("why")).splitlines()]


def test_the_page_has_a_failed_jobs_last_words_and_where_its_logs_are(side: Side) -> None:
    side.take_lock()
    view = side.wait(side.submit([("good", "true"), ("bad", FAILS)], [("later", "true")]), all_ended)
    side.get("finish", pipeline="BEHAVIOR", number=view["number"])
    page = page_of(side)
    failed = page.index("bad: FAILED: exit code 3")
    assert page[failed + 1].startswith(f"on {socket.gethostname()}, ended 20")
    assert "used 0.0 of 60 min" in page[failed + 1]
    assert page[failed + 2 : failed + 5] == ["last words:", "calibration is missing", "gave up"]
    logs = [Path(line.removeprefix("log: ")) for line in page if line.startswith("log: ")]
    assert [log.read_text().splitlines()[0] for log in logs] == ["calibration is missing", "loading"]
    assert page[page.index("good: COMPLETED") + 1] == "bad: FAILED: exit code 3"
    assert page[-1] == "later: CANCELLED: it was never started"


def test_the_page_has_slurms_id_the_node_and_what_was_used_of_what_was_asked_for(side: Side) -> None:
    side.take_lock()
    view = side.wait(side.submit([("bad", "exit 3")]), all_ended)
    side.get("finish", pipeline="BEHAVIOR", number=view["number"])
    folder = folder_of(side)
    submission = folder.read(1)
    usage = Usage("node7", ran_seconds=90.0, memory_gb=0.75)
    folder.save(submission.with_attempt("bad", replace(submission.last("bad"), scheduler_id="4711", usage=usage)))
    (line,) = [line for line in page_of(side) if line.startswith("job 4711 on node7, ended ")]
    assert line.endswith("used 1.5 of 60 min and 0.75 of 1 GB")


def test_a_reason_ends_with_the_jobs_last_words_which_may_end_with_a_command(side: Side) -> None:
    side.take_lock()
    view = side.wait(side.submit([("bad", "echo 'Do: sessionflow cancel X' >&2; exit 3")]), all_ended)
    words = why(view["jobs"][0])
    assert words.endswith("on the server; Do: sessionflow cancel X")
    assert words.startswith("bad FAILED")


def test_the_page_says_where_a_job_runs_and_how_far_it_is(side: Side) -> None:
    side.take_lock()
    view = side.submit([("slow", "echo 'progress 3/7 files'; sleep 60")])
    side.wait(view, lambda v: states(v)["slow"] == "RUNNING" and v["jobs"][0]["progress"] != "")
    page = page_of(side)
    assert f"on {socket.gethostname()}, 3/7 files" in page[page.index("slow: RUNNING") + 1]
    side.get("cancel_all")


def test_the_page_says_what_is_wrong_with_a_lock_file_instead_of_who_holds_it(side: Side) -> None:
    side.take_lock()
    lock = Target(Site.from_json(side.arguments["site"]), "Project", "305", SESSION).paths.lock
    lock.write_bytes(b"[]")
    assert page_of(side)[1].startswith(f"{lock} cannot be read: ")
