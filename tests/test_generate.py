"""The example project: the same bytes for the same seed here, in the lab's formats, with a known truth."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.behavior import SOURCES, extract
from jobs.checksum import verify
from jobs.generate import DemoProject, existing_project, generate_project
from trackers.errors import BadInputError, JobFailedError
from trackers.layout import SessionPaths, Volumes
from trackers.session import Completeness, completeness, load_session


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("storage")
    subprocess.run([sys.executable, "-P", "-m", "jobs.generate", str(root)], check=True, capture_output=True)
    return root


def project(storage: Path) -> DemoProject:
    found = existing_project(storage)
    assert found is not None
    return found


def sessions(storage: Path) -> list[tuple[str, SessionPaths]]:
    volumes = Volumes(storage, storage)
    return [(s.kind, SessionPaths(volumes, "demo", s.animal, s.session)) for s in project(storage).sessions]


def test_two_animals_and_four_sessions_one_incomplete_one_damaged(storage: Path) -> None:
    found = project(storage)
    assert len({s.animal for s in found.sessions}) == 2
    assert sorted(s.kind for s in found.sessions) == ["damaged", "good", "good", "incomplete"]


def test_what_is_wrong_with_a_session_is_what_its_kind_says(storage: Path) -> None:
    for kind, paths in sessions(storage):
        load_session(paths)
        complete = completeness(paths.raw_data) is Completeness.COMPLETE
        assert complete == (kind != "incomplete")
        paths.tracking_data.mkdir(exist_ok=True)
        if kind == "good":
            verify(paths)
        elif kind == "damaged":
            with pytest.raises(JobFailedError, match="face_camera"):
                verify(paths)


def test_the_logs_hold_what_was_planted(storage: Path) -> None:
    for session, (_, paths) in zip(project(storage).sessions, sessions(storage), strict=True):
        tables = {}
        for source in SOURCES:
            tables.update(extract(paths, load_session(paths), source)[0])
        distance = tables["behavior_data/encoder_data"]["traveled_distance_cm"]
        assert distance.to_list()[-1] == pytest.approx(session.truth.distance_cm, abs=1e-5)
        assert tables["behavior_data/lick_data"]["lick_state"].sum() == session.truth.licks
        assert tables["behavior_data/valve_data"]["dispensed_water_volume_uL"].n_unique() - 1 == session.truth.rewards
        assert tables["camera_data/left_camera_timestamps"].height == session.truth.frames["62"]  # type: ignore[index]
        if session.type == "mesoscope experiment":
            assert tables["behavior_data/trial_data"].height == 120


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes(storage: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-P", "-m", "jobs.generate", str(tmp_path)], check=True, capture_output=True)
    files = [path.relative_to(storage) for path in (storage / "demo").rglob("raw_data/**/*") if path.is_file()]
    assert len(files) > 60
    assert [file for file in files if (storage / file).read_bytes() != (tmp_path / file).read_bytes()] == []


def test_it_is_not_written_twice_and_never_over_something_else(storage: Path, tmp_path: Path) -> None:
    before = project(storage)
    assert generate_project(storage) == before
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "mine").touch()
    with pytest.raises(BadInputError, match="no example project"):
        generate_project(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["demo", "mine"]


def _start(storage: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "jobs.generate", str(storage)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_at_once_give_one_project(tmp_path: Path) -> None:
    programs = [_start(tmp_path), _start(tmp_path)]
    said = [program.communicate() for program in programs]
    assert [program.returncode for program in programs] == [0, 0], said
    assert said[0][0].splitlines()[-1] == said[1][0].splitlines()[-1]
    assert {path.name for path in tmp_path.iterdir()} == {"demo", ".demo.generating.lock"}


def test_term_leaves_nothing_half_generated_and_says_so(tmp_path: Path) -> None:
    program = _start(tmp_path)
    while not list(tmp_path.glob(".demo.generating/*/*/raw_data/behavior_data/*")):
        assert program.poll() is None
        time.sleep(0.005)
    program.send_signal(signal.SIGTERM)
    _, errors = program.communicate(timeout=20)
    assert program.returncode == 143
    assert "ended on request (SIGTERM)" in errors.splitlines()  # Python itself may tell of its helpers after that
    assert [path.name for path in tmp_path.iterdir()] == [".demo.generating.lock"]


@pytest.mark.parametrize("text", ["", "[]", '{"sessions": [{}]}'])
def test_a_description_that_is_none_is_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "generated.json").write_text(text)
    with pytest.raises(BadInputError, match="no example project"):
        generate_project(tmp_path)


def test_a_root_that_does_not_exist_and_a_seed_that_is_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no directory"):
        generate_project(tmp_path / "missing" / "root")
    with pytest.raises(BadInputError, match="-1 is no seed"):
        generate_project(tmp_path, seed=-1)
    assert list(tmp_path.iterdir()) == []
