"""The command: help with examples, exit codes, and clear words for bad input that leave everything untouched."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import SESSION, make_session
from tests.daemon import wait_until
from tests.prefect_server import REPOSITORY, PrefectServer
from trackers.lock import SessionLock
from trackers.tracker import ProcessingTracker

COMMANDS: tuple[str, ...] = (
    "demo",
    "run",
    "process",
    "status",
    "lock",
    "tracker",
    "cancel",
    "server",
    "sweep",
    "forge",
)
COMMANDS += ("process-project", "exclude", "include", "where", "forge")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_session(tmp_path / "storage")
    (tmp_path / "working").mkdir()
    return tmp_path


def sessionflow(
    *words: str, environment: dict[str, str] | None = None, answer: str | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *words],
        env={**(environment or os.environ), "COLUMNS": "200"},
        input=answer or "",
        capture_output=True,
        text=True,
        check=False,
    )


def roots(root: Path) -> list[str]:
    return ["--storage", str(root / "storage"), "--working", str(root / "working")]


def contents(directory: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in sorted(directory.rglob("*"))
        if not path.name.endswith(".lock")
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples_and_exit_codes(command: str) -> None:
    shown = sessionflow(command, "--help")
    assert shown.returncode == 0
    assert f"sessionflow {command}" in shown.stdout
    assert "examples:" in shown.stdout
    assert "exit codes: 0 success" in shown.stdout


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"--project": "Unknown"}, "no project 'Unknown'"),
        ({"--animal": "999"}, "no animal '999'"),
        ({"--session": "2020-01-01-00-00-00-000000"}, "no session '2020-01-01"),
        ({"--session": "yesterday"}, "UTC time"),
        ({"--project": "../../etc"}, "cannot name a project"),
        ({"--animal": "305\n306"}, "cannot name an animal"),
        ({"--animal": "$(reboot)"}, "cannot name an animal"),
        ({"--animal": "it's"}, "cannot name an animal"),
        ({"--project": '"quoted"'}, "cannot name a project"),
        ({"--animal": "-rf"}, "begins with a dash"),
        ({"--project": "a\udcffb"}, "cannot name a project"),
        ({"--storage": "/a\udcffb"}, "no text in UTF-8"),
        ({"--storage": "/does/not/exist"}, "no directory /does/not/exist"),
    ],
)
def test_bad_input_is_said_in_one_sentence_and_touches_nothing(
    root: Path, prefect: PrefectServer, changed: dict[str, str], words: str
) -> None:
    given = {
        "--project": "Project",
        "--animal": "305",
        "--session": SESSION,
        "--storage": str(root / "storage"),
        "--working": str(root / "working"),
        **changed,
    }
    before = contents(root)
    refused = sessionflow(
        "process", *(f"{name}={value}" for name, value in given.items()), environment=prefect.environment
    )
    assert refused.returncode == 2, refused.stderr
    assert words in refused.stderr
    assert "Traceback" not in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert contents(root) == before


@pytest.mark.parametrize("command", [["process"], ["run", "checksum"], ["run", "manifest"]])
def test_an_impossible_name_is_refused_before_prefect_is_asked_for_anything(root: Path, command: list[str]) -> None:
    nobody = {"PREFECT_API_URL": "http://127.0.0.1:1/api"}
    names = [
        "--project",
        "../Project",
        *(["--animal", "305", "--session", SESSION] if "manifest" not in command else []),
    ]
    refused = sessionflow(*command, *roots(root), *names, environment=nobody)
    assert refused.returncode == 2, refused.stderr
    assert "cannot name a project" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("fault", ["missing", "two", "wrong animal", "binary", "corrupt tracker"])
def test_a_session_that_is_not_as_it_must_be_is_refused_and_left_alone(
    root: Path, prefect: PrefectServer, fault: str
) -> None:
    session = root / "storage" / "Project" / "305" / SESSION
    data = session / "raw_data" / "session_data.yaml"
    if fault == "missing":
        data.unlink()
    elif fault == "two":
        (session / "session_data.yaml").write_text(data.read_text())
    elif fault == "wrong animal":
        data.write_text(data.read_text().replace("'305'", "'306'"))
    elif fault == "binary":
        data.write_bytes(bytes(range(256)))
    else:
        (session / "tracking_data").mkdir()
        (session / "tracking_data" / "checksum_resolution_tracker.yaml").write_text("- a list\n")
    before = contents(root)
    names = ["--project", "Project", "--animal", "305", "--session", SESSION]
    refused = sessionflow("run", "checksum", *roots(root), *names, environment=prefect.environment)
    assert refused.returncode == 2, refused.stderr
    assert ("tracker" if fault == "corrupt tracker" else "session_data.yaml") in refused.stderr
    assert contents(root) == before


@pytest.mark.slow
def test_spaces_and_letters_of_any_script_work_from_end_to_end(tmp_path: Path, prefect: PrefectServer) -> None:
    root = tmp_path / "a volume with spaces & ümlauts"
    raw_data = make_session(root / "storage", "Über project", "マウス 7") / "raw_data"
    (root / "working").mkdir()
    names = ["--project", "Über project", "--animal", "マウス 7", "--session", SESSION]
    for words in (["checksum", "--regenerate"], ["preparation"], ["archiving"]):
        done = sessionflow("run", *words, *roots(root), *names, environment=prefect.environment)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (raw_data / "ax_checksum.txt").exists()
    shown = sessionflow("status", "Über project", *roots(root))
    assert "マウス 7" in shown.stdout


def test_who_gives_up_at_a_question_is_told_of_no_jobs_that_have_ended(root: Path) -> None:
    SessionLock(root / "storage" / "Project" / "305" / SESSION / "tracking_data" / "session_lock.yaml").acquire(7)
    session = str(root / "storage" / "Project" / "305" / SESSION)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-m", "flows.cli", "lock", "release", session])
    said = b""
    with contextlib.suppress(OSError):  # as Linux says that the other side has gone
        while True:
            # Python loses a Ctrl-C between the question and its waiting for the answer; a person presses again.
            if select.select([terminal], [], [], 1)[0]:
                said += os.read(terminal, 1000)
            elif said.endswith(b"[y/N] "):
                os.write(terminal, b"\x03")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    assert said.rstrip().endswith(b"sessionflow: ended on request"), said


def test_a_command_that_is_told_to_end_says_what_has_become_of_its_jobs(root: Path, prefect: PrefectServer) -> None:
    begun = root / "begun"
    commands = {"checksum": {"words": ["bash", "-c", f"touch '{begun}'; sleep 1000"]}}
    volumes = {"storage_root": str(root / "storage"), "working_root": str(root / "working")}
    (root / "server.yaml").write_text(yaml.safe_dump({"name": "here", **volumes, "commands": commands}))
    names = ["--project", "Project", "--animal", "305", "--session", SESSION]
    command = [sys.executable, "-m", "flows.cli", "run", "checksum", "--server", str(root / "server.yaml"), *names]
    process = subprocess.Popen(command, env=prefect.environment, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    assert wait_until(begun.exists, 40)
    process.terminate()
    said = process.communicate(timeout=30)[1]
    assert process.returncode == -signal.SIGTERM
    assert said.splitlines()[-1] == "sessionflow: ended on request; its jobs have ended and the lock is free"


def test_a_failing_pipeline_is_exit_code_1_with_the_reason(root: Path, prefect: PrefectServer) -> None:
    names = ["--project", "Project", "--animal", "305", "--session", SESSION]
    failed = sessionflow("process", *roots(root), *names, environment=prefect.environment)
    assert failed.returncode == 1
    assert "ax_checksum.txt is missing" in failed.stdout
    assert "run checksum first" in failed.stdout
    page = sessionflow("status", "--why", f"Project/305/{SESSION}", *roots(root))
    assert "checksum/0001 failed" in page.stdout
    table = sessionflow("status", "Project", *roots(root), "--notes")
    assert "failed" in table.stdout


def test_a_locked_session_is_exit_code_3_and_says_who_has_it(root: Path, prefect: PrefectServer) -> None:
    session = root / "storage" / "Project" / "305" / SESSION
    (session / "tracking_data").mkdir()
    SessionLock(session / "tracking_data" / "session_lock.yaml").acquire(4711)
    names = ["--project", "Project", "--animal", "305", "--session", SESSION]
    refused = sessionflow("run", "checksum", *roots(root), *names, environment=prefect.environment)
    assert refused.returncode == 3
    assert "4711" in refused.stderr
    assert "Its process" in refused.stderr or "its process" in refused.stderr
    assert refused.stderr.endswith(f"If that manager is gone for good: sessionflow lock release {session}\n")


@pytest.mark.parametrize("content", [None, b"", b"\0\1\2", b"- a list\n", b"_manager_id: a string\n"])
def test_a_lock_is_released_after_a_confirmation_only_corrupt_ones_too(root: Path, content: bytes | None) -> None:
    session = root / "storage" / "Project" / "305" / SESSION
    (session / "tracking_data").mkdir()
    path = session / "tracking_data" / "session_lock.yaml"
    SessionLock(path).acquire(4711)
    if content is not None:
        path.write_bytes(content)
    before = path.read_bytes()
    shown = sessionflow("lock", "show", str(session))
    assert shown.returncode == 0
    if content is None:
        assert f"Project/305/{SESSION} is locked by manager 4711, " in shown.stdout
    else:
        assert shown.stdout.startswith(f"Project/305/{SESSION}: {path} cannot be read: ")
        assert shown.stdout.endswith(f"sessionflow lock release {session}\n")
    refused = sessionflow("lock", "release", str(session))
    assert refused.returncode == 2
    assert path.read_bytes() == before
    released = sessionflow("lock", "release", f"Project/305/{SESSION}", *roots(root), "--yes")
    assert released.returncode == 0, released.stderr
    assert "taken from" in released.stdout
    assert SessionLock(path).read().free


@pytest.mark.parametrize("content", [None, b"", b"\0\1\2", b"- a list\n", b"_running: perhaps\n"])
def test_a_tracker_is_reset_after_a_confirmation_only_corrupt_ones_too(root: Path, content: bytes | None) -> None:
    session = root / "storage" / "Project" / "305" / SESSION
    (session / "tracking_data").mkdir()
    path = session / "tracking_data" / "behavior_processing_tracker.yaml"
    ProcessingTracker(path).start(4711)
    if content is not None:
        path.write_bytes(content)
    shown = sessionflow("tracker", "show", str(session), "behavior")
    assert shown.returncode == 0
    assert shown.stdout.count(str(path)) == 1
    assert sessionflow("tracker", "reset", str(session), "behavior").returncode == 2
    done = sessionflow("tracker", "reset", str(session), "behavior", "--yes")
    assert done.returncode == 0, done.stderr
    assert not ProcessingTracker(path).is_running
    if content is None:
        assert "4711" in done.stdout


def test_the_server_side_answers_single_calls_and_loads_nothing_heavy(root: Path) -> None:
    arguments = {"site": {"storage": str(root / "storage")}, "project": "Project"}
    command = [sys.executable, "-P", "-X", "importtime", "-m", "trackers", "status", json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["result"][0]["session"] == SESSION
    imported = {line.rsplit("|", maxsplit=1)[-1].strip() for line in done.stderr.splitlines() if "|" in line}
    assert not {"prefect", "paramiko", "numpy", "polars", "rich", "pydantic"} & imported
    parts_of_the_start = {
        "concurrent.futures",
        "importlib.metadata",
        "filelock",
        "hashlib",
    }  # that only some calls need
    assert not parts_of_the_start & imported


@pytest.mark.slow
def test_a_run_is_refused_where_a_second_description_lies_deep_in_the_session(
    root: Path, prefect: PrefectServer
) -> None:
    session = root / "storage" / "Project" / "305" / SESSION
    (session / "raw_data" / "a" / "b" / "c").mkdir(parents=True)
    second = session / "raw_data" / "a" / "b" / "c" / "session_data.yaml"
    second.write_bytes((session / "raw_data" / "session_data.yaml").read_bytes())
    before = contents(root)
    for words in (("process",), ("run", "checksum")):
        names = ["--project", "Project", "--animal", "305", "--session", SESSION]
        refused = sessionflow(*words, *roots(root), *names, environment=prefect.environment)
        assert refused.returncode == 2
        assert str(second) in refused.stderr
    assert contents(root) == before


@pytest.mark.parametrize("pipeline", ["multiday", "forging"])
def test_a_session_has_no_tracker_of_a_datasets_pipeline(root: Path, pipeline: str) -> None:
    refused = sessionflow("tracker", "show", f"Project/305/{SESSION}", pipeline, *roots(root))
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr.endswith(f"does not work on Project/305/{SESSION}. Nothing was done.\n")
