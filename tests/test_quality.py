"""Quality control over all sessions of a project, and a person's word on it: by the command, as people use it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.forging_session import PROJECT, RUN, SESSION, plant
from trackers.layout import SessionPaths
from trackers.quality import quality_objection

SECOND = "2025-08-27-18-30-15-123456"
NAMED = f"{PROJECT}/305/{SESSION}"


class Lab:
    """Two sessions, of which the first has a report, and the command on them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.first, self.second = plant(root), plant(root, RUN, session=SECOND)
        write_checks(self.first, bleached="fail", no_cells="pass")

    def __call__(self, *words: str) -> tuple[int, str]:
        roots = ("--storage", str(self.root / "storage"), "--working", str(self.root / "working"))
        command = [sys.executable, "-P", "-m", "flows.cli", "qc", *words, *roots, "--requested-by", "ann"]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "COLUMNS": "160"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        return done.returncode, done.stdout + done.stderr


def write_checks(paths: SessionPaths, **verdicts: str) -> None:
    """Write a session's qc.json."""
    (paths.processed_data / "report").mkdir(exist_ok=True)
    limits = {
        "title": "…",
        "value": 0.4,
        "threshold": 0.25,
        "least": False,
        "unit": "lost",
        "words": "from begin to end",
    }
    checks: list[dict[str, Any]] = [{"name": name, "verdict": verdict, **limits} for name, verdict in verdicts.items()]
    (paths.processed_data / "report/qc.json").write_text(json.dumps({"checks": checks, "missing": []}))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_the_table_shows_every_session_with_what_failed_in_words(lab: Lab) -> None:
    code, said = lab(PROJECT)
    assert code == 0, said
    line = next(line for line in said.splitlines() if SESSION in line)
    assert line.split()[2:] == ["fail", "pass"]
    assert f"305/{SESSION}, bleached: 0.4 lost, from begin to end (passes ≤ 0.25)" in said
    assert f"305/{SECOND}: no report yet" in said


def test_a_person_overrules_a_verdict_with_a_reason_that_everybody_sees(lab: Lab) -> None:
    code, said = lab("overrule", NAMED, "bleached", "--reason", "only at the end")
    assert code == 0, said
    assert "sessionflow run report" in said
    written = json.loads((lab.first.tracking_data / "verdicts.json").read_text())["bleached"]
    assert (written["verdict"], written["reason"], written["by"]) == ("pass", "only at the end", "ann")
    assert written["user"]
    assert written["since"]
    _, said = lab(PROJECT)
    assert "pass*" in said
    assert "Pass, says ann" in said
    assert "only at the end. Measured as fail" in said
    assert quality_objection(lab.first) == ""


def test_a_verdict_is_overruled_to_fail_as_well(lab: Lab) -> None:
    code, said = lab("overrule", NAMED, "no_cells", "--verdict", "fail", "--reason", "those are vessels")
    assert code == 0, said
    assert quality_objection(lab.first) == "quality control says no: bleached, no_cells"


def test_a_session_of_which_nothing_could_be_checked_does_not_pass_until_a_person_says_so(lab: Lab) -> None:
    write_checks(lab.first, camera_stopped="unknown", frames_dropped="unknown")
    assert quality_objection(lab.first) == "quality control could check nothing of it: see its report"
    code, said = lab("overrule", NAMED, "camera_stopped", "--reason", "there was none")
    assert code == 0, said
    assert quality_objection(lab.first) == ""


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("overrule", NAMED, "bleached"), "No reason was given"),
        (("overrule", NAMED, "bleeched", "--reason", "x"), "has no check 'bleeched'; it has bleached, no_cells"),
        (("overrule", f"{PROJECT}/305/{SECOND}", "bleached", "--reason", "x"), "run its report first"),
        (("overrule", f"{PROJECT}/306/{SESSION}", "bleached", "--reason", "x"), "There is no session"),
        (("overrule", NAMED), "Say: overrule SESSION CHECK"),
        (("another",), "There is no project"),
    ],
)
def test_what_cannot_be_overruled_is_refused_and_nothing_is_written(
    lab: Lab, words: tuple[str, ...], answer: str
) -> None:
    code, said = lab(*words)
    assert code == 2, said
    assert answer in said
    assert not (lab.first.tracking_data / "verdicts.json").exists()


def test_a_file_that_cannot_be_read_is_a_problem_of_its_session_only(lab: Lab) -> None:
    (lab.first.processed_data / "report/qc.json").write_text("{")
    code, said = lab(PROJECT)
    assert code == 0
    assert "its quality control cannot be read" in said
    assert "no report yet" in said
