"""Settings as flows and people see them: what a run is told, and where every value comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from flows.eligibility import settings_of, settings_problem
from tests.conftest import SESSION, make_session
from trackers.facts import describe
from trackers.known_settings import project_settings
from trackers.layout import Volumes
from trackers.names import ProcessingPipelines as P
from trackers.site import Site
from trackers.targets import Target


@pytest.fixture
def target(tmp_path: Path) -> Target:
    make_session(tmp_path, kind="mesoscope experiment")
    return Target(Site(Volumes(tmp_path, tmp_path)), "Project", "305", SESSION)


def write(target: Target, text: str, name: str = "Project/settings/project.yaml") -> Path:
    path = target.site.volumes.storage / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def shown(target: Target, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["settings", target.name, "--storage", str(target.site.volumes.storage), *words])
    out = capsys.readouterr()
    return int(ended.value.code or 0), out.out + out.err


def test_a_run_is_told_what_differs_from_suite2p_and_an_option_of_the_run_wins(target: Target) -> None:
    write(target, "suite2p:\n  tau: 1.0\n  detection:\n    threshold_scaling: 0.8\n")
    facts: dict[str, Any] = describe(target)
    assert settings_of(P.SUITE2P, facts, {"planes": None}) == {
        "planes": None,
        "settings": {"detection.threshold_scaling": 0.8},
    }
    own = settings_of(P.SUITE2P, facts, {}, {"detection.threshold_scaling": 1.2})
    assert own["settings"] == {"detection.threshold_scaling": 1.2} == own["this_run"]


def test_a_wrong_file_is_an_objection_in_words_that_names_its_line(target: Target) -> None:
    path = write(target, "suite2p:\n  detection:\n    threshold: 0.8\n")
    problem = settings_problem(P.SUITE2P, describe(target))
    assert problem.startswith(f"{path}:3: there is no setting 'detection.threshold'")


def test_people_are_shown_every_value_and_where_it_comes_from(
    target: Target, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(target, "suite2p:\n  tau: 0.7\nforging:\n  species: Mus musculus\n")
    code, said = shown(target, capsys, "--set", "detection.threshold_scaling=0.8")
    assert code == 0, said
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in said.splitlines() if line.startswith("  ")}
    assert lines["tau"] == f"0.7 {path}:2"
    assert lines["detection.threshold_scaling"] == "0.8 this run"
    assert lines["registration.nonrigid"] == "true default"
    assert lines["species"] == f'"Mus musculus" {path}:4'


def test_a_wrong_value_is_said_and_is_bad_input(target: Target, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = shown(target, capsys, "--set", "tau=fast")
    assert code == 2
    assert "this run: tau must be float, and is 'fast'. Nothing was started." in said


def test_forging_reads_its_section_beside_the_other_pipelines(target: Target) -> None:
    path = write(target, "suite2p: {tau: 0.7}\nforging: {species: Mus musculus}\n")
    assert project_settings(target.project_paths, P.FORGING)["species"].source == f"{path}:2"
