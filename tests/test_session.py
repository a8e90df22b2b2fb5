"""Loading a session: what is accepted, what is refused in words, and that nothing changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import SESSION, make_session
from tests.test_accounts_and_volumes import as_account, let_others_through, needs_root
from trackers.errors import FileSystemError, SessionDataError
from trackers.layout import SessionPaths, Volumes
from trackers.server import answer
from trackers.session import load_session


def paths_of(root: Path, project: str = "Project", animal: str = "305") -> SessionPaths:
    (root / "working").mkdir(exist_ok=True)
    make_session(root / "storage", project, animal)
    return SessionPaths(Volumes(root / "storage", root / "working"), project, animal, SESSION)


def rewrite(paths: SessionPaths, old: str, new: str) -> None:
    data = paths.raw_data / "session_data.yaml"
    assert old in data.read_text()
    data.write_text(data.read_text().replace(old, new))


def test_what_5_1_0_saves_is_read_null_keys_included(tmp_path: Path) -> None:
    paths = paths_of(tmp_path)
    rewrite(paths, "...", "source_data: null\narchived_data: null\ntracking_data: null\n...")
    assert load_session(paths).animal == "305"


@pytest.mark.parametrize("name", ["Mouse 7", "Žluťoučký+kůň", "マウス"])
def test_names_of_any_script_agree_with_their_file(tmp_path: Path, name: str) -> None:
    assert load_session(paths_of(tmp_path, name, name)).project == name


@pytest.mark.parametrize(
    ("project", "animal", "old", "new"),
    [
        ("None", "305", "project_name: None", "project_name: null"),
        ("Project", "True", "'True'", "yes"),
        ("Project", "305", "'305'", "'306'"),
        ("Project", "305", "'305'", "[305]"),
        ("Project", "305", "run training", "dancing"),
        ("Project", "305", "run training", "[run training]"),
        ("Project", "305", "run training", "!!bool perhaps"),
        ("Project", "305", "mesoscope-vr", "null"),
    ],
)
def test_a_file_that_contradicts_its_place_or_says_nonsense_is_refused(
    tmp_path: Path, project: str, animal: str, old: str, new: str
) -> None:
    paths = paths_of(tmp_path, project, animal)
    rewrite(paths, old, new)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SessionDataError) as error:
        load_session(paths)
    assert str(paths.raw_data / "session_data.yaml") in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("folder", ["raw_data/behavior_data", "raw_data/a/b/c/d", "archived_data/a/b"])
def test_a_second_description_is_refused_wherever_it_lies(tmp_path: Path, folder: str) -> None:
    paths = paths_of(tmp_path)
    second = paths.storage_directory / folder / "session_data.yaml"
    second.parent.mkdir(parents=True)
    second.write_bytes((paths.raw_data / "session_data.yaml").read_bytes())
    with pytest.raises(SessionDataError) as error:
        load_session(paths, thorough=True)
    assert str(second) in str(error.value)
    roots = {"storage": str(paths.volumes.storage), "working": str(paths.volumes.working)}
    asked = {"site": roots, "project": "Project", "animal": "305", "session": SESSION, "thorough": True}
    assert answer({"call": "describe", "arguments": asked})["error"]["exit_code"] == 2


@needs_root
def test_a_folder_that_this_account_may_not_open_is_named_and_does_not_hide_the_other_sessions(tmp_path: Path) -> None:
    paths = paths_of(tmp_path)
    other = paths_of(tmp_path, animal="306")
    let_others_through(tmp_path)
    paths.raw_data.chmod(0o700)
    refusal = as_account(9999, 9999, lambda: load_session(paths))
    assert FileSystemError.__name__ in refusal
    assert f"{paths.raw_data / 'session_data.yaml'} cannot be opened: Permission denied" in refusal

    def ask() -> None:
        roots = {"storage": str(paths.volumes.storage), "working": str(paths.volumes.working)}
        reply = answer({"call": "status", "arguments": {"site": roots, "project": "Project"}})
        rows = {row["animal"]: row["problem"] for row in reply["result"]}
        assert "Permission denied" in rows[paths.animal]
        assert rows[other.animal] == ""

    assert as_account(9999, 9999, ask) == ""


@pytest.mark.parametrize("name", ["behavior_processing_tracker.yaml", "session_lock.yaml"])
def test_a_state_file_that_is_none_is_a_problem_of_its_own_and_not_of_the_session(tmp_path: Path, name: str) -> None:
    paths = paths_of(tmp_path)
    (paths.tracking_data / name).mkdir(parents=True)
    roots = {"storage": str(paths.volumes.storage), "working": str(paths.volumes.working)}
    asked = {"site": roots, "project": "Project", "animal": "305", "session": SESSION}
    facts = answer({"call": "describe", "arguments": asked})["result"]
    said = facts["lock"]["description"] if "lock" in name else facts["pipelines"]["BEHAVIOR"]["problem"]
    assert "Is a directory" in said
