"""A pipeline's settings: which file wins, and what is said of one that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SESSION, make_session
from trackers import known_settings
from trackers.errors import BadInputError
from trackers.layout import SessionPaths, Volumes
from trackers.names import ProcessingPipelines
from trackers.settings import DEFAULT, SECTIONS, THIS_RUN, Known, Setting, resolve, settings_files
from trackers.suite2p_settings import SUITE2P

KNOWN = {
    "tau": Known(1.0, (float,)),
    "run.nonrigid": Known(True, (bool,)),
    "detection.algorithm": Known("sparsery", (str,), ("sparsery", "sourcery")),
    "detection.diameter": Known(None, (int, type(None))),
}


@pytest.fixture
def paths(tmp_path: Path) -> SessionPaths:
    make_session(tmp_path)
    return SessionPaths(Volumes(tmp_path, tmp_path), "Project", "305", SESSION)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def resolved(paths: SessionPaths, **overrides: Any) -> dict[str, Setting]:
    return resolve(settings_files(paths), ProcessingPipelines.SUITE2P, KNOWN, overrides)


def test_without_files_every_value_is_the_default(paths: SessionPaths) -> None:
    assert {name: (s.value, s.source) for name, s in resolved(paths).items()} == {
        name: (known.default, DEFAULT) for name, known in KNOWN.items()
    }


def test_session_beats_animal_beats_project_beats_server_and_this_run_beats_all(paths: SessionPaths) -> None:
    for number, file in enumerate(settings_files(paths), start=2):
        write(file, f"suite2p:\n  tau: {number}\n")
        assert resolved(paths)["tau"] == Setting(number, f"{file}:2")
    assert resolved(paths, tau=9.0)["tau"] == Setting(9.0, THIS_RUN)


def test_a_stronger_file_replaces_single_values_of_a_weaker_one(paths: SessionPaths) -> None:
    server, project, *_ = settings_files(paths)
    write(server, "suite2p:\n  detection:\n    algorithm: sourcery\n    diameter: 8\n")
    write(project, "suite2p:\n  detection: {diameter: 12}\nvideo:\n")
    found = resolved(paths)
    assert found["detection.algorithm"] == Setting("sourcery", f"{server}:3")
    assert found["detection.diameter"] == Setting(12, f"{project}:2")


def test_the_pipelines_that_may_have_settings_in_files_are_those_that_have_some() -> None:
    assert {pipeline.name.lower() for pipeline in known_settings.KNOWN} == set(SECTIONS)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("diameter", ["a", "b"], "must be a list of 2 numbers, each at least 1"),
        ("diameter", [12], "must be a list of 2 numbers, each at least 1"),
        ("diameter", [12, 0], "must be a list of 2 numbers, each at least 1"),
        ("diameter", [12, float("inf")], "must be a list of 2 numbers, each at least 1"),
        ("registration.block_size", [True, 64], "must be a list of 2 whole numbers, each at least 1"),
        ("registration.block_size", [64, 0], "must be a list of 2 whole numbers, each at least 1"),
        ("detection.block_size", [64.5, 64], "must be a list of 2 whole numbers, each at least 1"),
        ("registration.upsample_meanImg", [2], "must be a list of 2 numbers, each at least 1"),
        ("diameter", [6, 6.5], ""),
        ("registration.upsample_meanImg", None, ""),
    ],
)
def test_a_list_is_refused_before_suite2p_meets_it(name: str, value: Any, words: str) -> None:
    assert SUITE2P[name].problem(value) == words


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (
            "suite2p:\n  detection:\n    algoritm: sourcery\n",
            3,
            r"no setting 'detection.algoritm'.*detection.algorithm",
        ),
        ("suite2p:\n  diameter: 8\n", 2, r"no setting 'diameter'.*detection.diameter"),
        ("suite2p:\n  detection: {algorithm: cellpose}\n", 2, "must be one of 'sparsery', 'sourcery'"),
        ("suite2p:\n  tau: true\n", 2, "must be float, and is True"),
        ("suite2p:\n  tau: 1\n  tau: 2\n", 3, "'tau' stands twice"),
        ("suite2p:\n  run:\n    nonrigid: 1\n", 3, "must be bool"),
        ("suite2p:\n  detection: {diameter: 8}\n  detection.diameter: 9\n", 3, "'detection.diameter' stands twice"),
        ("suite2pp:\n  tau: 1\n", 1, "no pipeline's name"),
        ("video:\n  components: 5\n", 1, "only suite2p and forging have settings in files, not video"),
        ("suite2p: [1]\n", 1, "names with values"),
        ("suite2p:\n  tau: [1\n", 3, "no YAML"),
        ("suite2p: &all\n  detection: *all\n", 1, "no YAML: found unconstructable recursive node"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(paths: SessionPaths, text: str, line: int, words: str) -> None:
    file = settings_files(paths)[1]
    write(file, text)
    with pytest.raises(BadInputError, match=words) as caught:
        resolved(paths)
    assert str(caught.value).startswith(f"{file}:{line}: ")
    assert str(caught.value).endswith("Nothing was started.")


def test_a_wrong_override_is_refused_like_a_wrong_file(paths: SessionPaths) -> None:
    with pytest.raises(BadInputError, match=r"this run: there is no setting 'tua'.*tau"):
        resolved(paths, tua=1.0)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("detection.sparsery_settings.spatial_scale", 5, "at most 4"),
        ("tau", -0.1, "at least 0"),
        ("fs", float("nan"), "at least 0.01"),
        ("torch_device", "banana", "must be one of 'cuda', 'cpu', 'mps', 'cuda:0'"),
        ("detection.algorithm", "watershed", "must be one of 'sparsery', 'sourcery', 'cellpose'"),
    ],
)
def test_suite2ps_own_limits_hold(paths: SessionPaths, name: str, value: Any, words: str) -> None:
    with pytest.raises(BadInputError, match=words):
        resolve(settings_files(paths), ProcessingPipelines.SUITE2P, SUITE2P, {name: value})


def test_suite2ps_own_defaults_are_allowed() -> None:
    assert {name: known.problem(known.default) for name, known in SUITE2P.items() if known.problem(known.default)} == {}
