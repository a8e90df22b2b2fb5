"""Sessions that were taken out of processing: by whom, seen everywhere, also broken ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import SESSION, Side
from trackers.exclusions import FILE


def file(side: Side) -> Path:
    return side.root / "storage" / "Project" / "305" / SESSION / "tracking_data" / FILE


def test_who_excluded_a_session_when_and_why_is_kept_and_shown_until_it_is_included(side: Side) -> None:
    assert side.get("describe")["excluded"] == ""
    words = side.get("exclude", reason=" the laser\n was off. ", requested_by="bea")["excluded"]
    assert words.startswith("by bea (unverified), as user ")
    assert words.endswith(" UTC: the laser was off")
    assert side.get("describe")["excluded"] == words
    assert [row["excluded"] for row in side.get("status")] == [words]
    text = file(side).read_text()
    assert side.get("describe")["include"] == f"sessionflow include {file(side).parents[1]}"
    assert text.startswith("---\nreason: the laser was off.\nrequested_by: bea\nuser: ")
    assert side.get("include")["was_excluded"] == words
    assert side.get("describe")["excluded"] == ""
    assert side.get("include")["was_excluded"] == ""


def test_a_second_reason_replaces_the_first(side: Side) -> None:
    side.get("exclude", reason="dark", requested_by="")
    words = side.get("exclude", reason="too bright", requested_by="ada")["excluded"]
    assert "ada" in words
    assert side.get("describe")["excluded"].endswith(": too bright")


def test_a_session_without_a_reason_or_that_does_not_exist_is_refused(side: Side) -> None:
    for arguments, words in (
        ({"reason": " "}, "no reason was given"),
        ({"reason": "x", "animal": "999"}, "There is no session Project/999"),
        ({"reason": "x", "project": "../etc"}, "cannot name a project"),
    ):
        error = side.ask("exclude", **arguments)["error"]
        assert (error["exit_code"], words in error["message"]) == (2, True), error
    assert not file(side).parent.exists()


def test_a_broken_session_can_be_excluded(side: Side) -> None:
    (file(side).parents[1] / "raw_data" / "session_data.yaml").unlink()
    side.get("exclude", reason="lost")
    (row,) = side.get("status")
    assert "has no session_data.yaml" in row["problem"]
    assert row["excluded"].endswith(": lost")


@pytest.mark.parametrize("content", ["", "reason: x\n", "[1, 2]", "{"])
def test_a_file_that_cannot_be_read_excludes_as_well_and_says_which(side: Side, content: str) -> None:
    file(side).parent.mkdir()
    file(side).write_text(content)
    words = side.get("describe")["excluded"]
    assert words.startswith("by somebody")
    assert str(file(side)) in words
    assert side.get("include")["was_excluded"] == words
    assert not file(side).exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_said(side: Side) -> None:
    file(side).parent.mkdir(mode=0o555)
    assert side.ask("exclude", reason="x")["error"]["exit_code"] == 1
