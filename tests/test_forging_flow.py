"""`sessionflow forge`: sessions into a dataset, and what keeps one out of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
import yaml

from tests.environments import environment
from tests.forging_session import LICK, PROJECT, RUN, SESSION, mark_done, plant
from tests.prefect_server import PrefectServer
from tests.test_cli import sessionflow
from trackers.layout import SessionPaths
from trackers.lock import SessionLock
from trackers.names import ProcessingPipelines as P

SECOND = "2025-08-27-18-30-15-123456"
MADE = (P.BEHAVIOR, P.VIDEO)


class Forge:
    """A project of two sessions, and the command on it."""

    def __init__(self, root: Path, prefect: PrefectServer) -> None:
        self.root, self.prefect = root, prefect
        self.experiment, self.training = plant(root), plant(root, RUN, session=SECOND)
        mark_done(self.experiment, *MADE, P.SUITE2P)
        mark_done(self.training, *MADE)
        self.dataset = root / "datasets" / PROJECT / "learning"
        description = {
            "storage_root": str(root / "storage"),
            "working_root": str(root / "working"),
            "datasets_root": str(root / "datasets"),
            "environments": {"forging": {"python": str(environment("forging"))}},
        }
        self.description = root / "server.yaml"
        self.description.write_text(yaml.safe_dump(description))

    def __call__(self, *words: str, species: str = "Mus musculus") -> tuple[int, str]:
        """Run the command; return its exit code and what it said."""
        options = [
            "--project",
            PROJECT,
            "--server",
            str(self.description),
            *(["--species", species] if species else []),
        ]
        done = sessionflow("forge", "learning", *options, *words, environment=self.prefect.environment)
        return done.returncode, done.stdout + done.stderr

    def index(self) -> list[tuple[str, str]]:
        """Return session and clock of every row of the index."""
        return pl.read_ipc(self.dataset / "index.feather").select("session", "clock").rows()


@pytest.fixture
def forge(tmp_path: Path, prefect: PrefectServer) -> Forge:
    return Forge(tmp_path, prefect)


def free(paths: SessionPaths) -> bool:
    return SessionLock(paths.lock).read().free


def test_all_sessions_whose_pipelines_are_done_are_forged_once(forge: Forge) -> None:
    code, said = forge()
    assert code == 0, said
    assert forge.index() == [(SESSION, "imaging volumes"), (SECOND, "every 100 ms")]
    assert f"{PROJECT}/305/{SESSION}: camera_data: neither pose nor motion of the right camera is there" in said
    assert free(forge.experiment)
    assert free(forge.training)
    record = json.loads((forge.dataset / "results/FORGING.json").read_text())
    made = {output["path"] for output in record["outputs"]}
    assert {f"305/{SESSION}.nwb", f"305/{SECOND}.feather", "index.feather", "dataset.json"} <= made
    assert record["versions"]["pynwb"]
    code, said = forge()
    assert code == 0, said
    assert "done already" in said


@pytest.mark.slow
def test_animals_whose_names_look_alike_to_a_scheduler_are_forged_side_by_side(forge: Forge) -> None:
    alike = ("Ä1", "Ö1", "a 1", "A-1", f"{'long ' * 12}a", f"{'long ' * 12}b")
    for animal in alike:
        mark_done(plant(forge.root, LICK, animal), *MADE)
    code, said = forge("--animals", *alike)
    assert code == 0, said
    rows = pl.read_ipc(forge.dataset / "index.feather").select("animal", "session").rows()
    assert rows == [(animal, SESSION) for animal in sorted(alike)]


def test_what_must_be_done_before_is_said_of_every_session(forge: Forge) -> None:
    forge.experiment.tracker(P.SUITE2P).unlink()
    forge.training.tracker(P.BEHAVIOR).unlink()
    code, said = forge("--sessions", f"305/{SESSION}", f"305/{SECOND}")
    assert code == 2
    assert "run suite2p first" in said
    assert "run behavior first" in said
    assert not (forge.dataset / "index.feather").exists()


@pytest.mark.slow
def test_a_required_pass_of_quality_control_is_asked_of_every_session(forge: Forge) -> None:
    named = ("--sessions", f"305/{SESSION}", f"305/{SECOND}", "--require-qc")
    code, said = forge(*named)
    assert code == 2
    assert said.count("it has no quality control yet: run its report first") == 2
    for paths, verdict in ((forge.experiment, "fail"), (forge.training, "pass")):
        (paths.processed_data / "report").mkdir()
        checks = {"checks": [{"name": "bleached", "verdict": verdict}]}
        (paths.processed_data / "report/qc.json").write_text(json.dumps(checks))
    code, said = forge(*named)
    assert code == 2
    assert f"{PROJECT}/305/{SESSION}: quality control says no: bleached" in said
    assert SECOND not in said
    code, said = forge("--require-qc")
    assert code == 0, said
    left_out = f"305/{SESSION}: quality control says no: bleached"
    assert f"left out: {left_out}" in said
    assert json.loads((forge.dataset / "dataset.json").read_text())["left_out"] == [left_out]
    overruled = {"bleached": {"verdict": "pass", "reason": "only at the end", "by": "ada"}}
    (forge.experiment.tracking_data / "verdicts.json").write_text(json.dumps(overruled))
    code, said = forge(*named)
    assert code == 0, said


def test_where_nothing_can_be_forged_the_reason_of_each_session_is_said(forge: Forge) -> None:
    forge.experiment.tracker(P.SUITE2P).unlink()
    forge.training.tracker(P.BEHAVIOR).unlink()
    code, said = forge()
    assert code == 2
    assert f"No session of {PROJECT} can be forged: 305/{SESSION}: run suite2p first" in said
    assert f"305/{SECOND}: run behavior first. Nothing was done." in said


def test_without_a_species_nothing_is_done_and_the_file_to_write_is_named(forge: Forge) -> None:
    code, said = forge("--sessions", f"305/{SECOND}", species="")
    assert code == 2
    assert f"Write it to {forge.root}/storage/{PROJECT}/settings/project.yaml" in said
    assert not forge.dataset.exists()
    (forge.root / f"storage/{PROJECT}/settings").mkdir()
    (forge.root / f"storage/{PROJECT}/settings/project.yaml").write_text("forging:\n  species: Mus musculus\n")
    code, said = forge("--sessions", f"305/{SECOND}", species="")
    assert code == 0, said


@pytest.mark.slow
def test_an_archived_session_is_forged_from_its_archive(forge: Forge) -> None:
    shutil.move(forge.training.processed_data, forge.training.archived_data)
    shutil.rmtree(forge.training.source_data)
    forge.training.tracker(P.PREPARATION).unlink()
    code, said = forge("--sessions", f"305/{SECOND}")
    assert code == 0, said


def test_a_name_that_is_no_session_is_refused(forge: Forge) -> None:
    code, said = forge("--sessions", SECOND)
    assert code == 2
    assert "write ANIMAL/SESSION" in said


@pytest.mark.slow
def test_a_file_that_was_purged_since_is_named_with_the_command_that_makes_it_again(forge: Forge) -> None:
    purged = forge.experiment.processed_data / "mesoscope_data/plane0/spks.npy"
    output = {"path": "processed_data/mesoscope_data/plane0/spks.npy", "size": purged.stat().st_size, "xxh3_128": "0"}
    record = forge.experiment.tracking_data / "results" / "SUITE2P.json"
    record.parent.mkdir(exist_ok=True)
    record.write_text(json.dumps({"ended": "2025-09-01T00:00:00+00:00", "outputs": [output], "submission": ""}))
    purged.unlink()
    code, said = forge("--sessions", f"305/{SESSION}")
    assert code == 1
    assert "mesoscope_data/plane0/spks.npy" in said
    assert "sessionflow run suite2p" in said
