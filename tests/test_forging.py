"""Forged sessions: valid NWB, every value traced to its source, and the same bytes whenever they are forged."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import xxhash
import yaml

from tests.environments import environment
from tests.forging_session import EXPERIMENT, LICK, PROJECT, RUN, SESSION, SURGERY, plant, plant_multiday
from trackers.layout import DatasetPaths, SessionPaths
from trackers.lock import SessionLock

MANAGER = 7
SETTINGS = {"species": "Mus musculus", "institution": "Example University"}
Program = Callable[..., "subprocess.CompletedProcess[str]"]
READ = """
import json, sys
from pynwb import NWBHDF5IO
with NWBHDF5IO(sys.argv[1], "r") as io:
    file = io.read()
    subject = {key: str(value) for key, value in file.subject.fields.items()}
    more = {name: getattr(file, name) for name in ("lab", "institution", "session_id", "notes", "identifier")}
    series = [*file.processing["behavior"].data_interfaces.values(), file.processing["ophys"]["Fluorescence"]["plane0"]]
    rates = {each.name: each.rate for each in series if getattr(each, "data", None) is not None}
    places = [plane.location for plane in file.imaging_planes.values()]
    more |= {"subject": subject, "start": str(file.session_start_time)}
    print(json.dumps({"places": places, "rates": rates, **more}))
"""


def locked(paths: SessionPaths, dataset: DatasetPaths) -> None:
    """Take the locks that the job wants its manager to have."""
    dataset.directory.mkdir(parents=True, exist_ok=True)
    for lock in (paths.lock, dataset.lock):
        SessionLock(lock).acquire(MANAGER)


def forge(
    paths: SessionPaths, dataset: DatasetPaths, *words: str, settings: dict[str, Any] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the job's program on one session."""
    roots = [f"--{name}={path}" for name, path in (("storage", paths.volumes.storage), ("datasets", dataset.root))]
    command = [*roots, f"--working={paths.volumes.working}", f"--project={PROJECT}", f"--dataset={dataset.dataset}"]
    command += ["--manager-id", str(MANAGER), "--sessions", f"{paths.animal}/{paths.session}", *words]
    command += ["--settings", json.dumps(SETTINGS if settings is None else settings)]
    return in_environment("-P", "-m", "jobs.forging", *command)


def in_environment(*words: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parents[1])
    variables = {**os.environ, "PYTHONPATH": root}
    return subprocess.run(
        [str(environment("forging")), *words], env=variables, cwd=root, capture_output=True, text=True, check=False
    )


@pytest.fixture
def dataset(tmp_path: Path) -> DatasetPaths:
    environment("forging")
    return DatasetPaths(tmp_path / "datasets", PROJECT, "learning")


@pytest.mark.parametrize("kind", [EXPERIMENT, RUN, LICK])
def test_every_value_of_a_valid_file_is_traced_back_to_its_source(
    tmp_path: Path, dataset: DatasetPaths, kind: str
) -> None:
    paths = plant(tmp_path, kind)
    locked(paths, dataset)
    made = forge(paths, dataset)  # which validates and inspects it, or fails
    assert made.returncode == 0, made.stderr
    nwb = str(dataset.directory / f"305/{SESSION}.nwb")
    traced = json.loads(in_environment("-m", "tests.forging_trace", nwb, str(paths.processed_data)).stdout)
    assert traced["wrong"] == []
    assert traced["untraced"] == []
    assert traced["values"] > 5_000


def test_identities_across_days_are_those_of_multi_day_processing(tmp_path: Path, dataset: DatasetPaths) -> None:
    paths = plant(tmp_path)
    locked(paths, dataset)
    plant_multiday(dataset.directory / "305")
    made = forge(paths, dataset)
    assert made.returncode == 0, made.stderr
    nwb = str(dataset.directory / f"305/{SESSION}.nwb")
    traced = json.loads(in_environment("-m", "tests.forging_trace", nwb, str(paths.processed_data)).stdout)
    assert (traced["wrong"], traced["untraced"]) == ([], [])
    cells = pl.read_ipc(dataset.directory / f"305/{SESSION}_cells.feather")
    assert cells.filter(pl.col("multiday_cell").is_not_null()).select("plane", "roi", "multiday_cell").rows() == [
        (0, 1, 0),
        (1, 4, 0),
    ]
    summary = json.loads((dataset.directory / f"305/{SESSION}.json").read_text())
    assert summary["multiday_cells"] == [[0, 0], [0, 1], [1, 0]]
    table = pl.read_ipc(dataset.directory / f"305/{SESSION}.feather")
    assert table["multiday_deconvolved"].to_numpy().shape == (250, 3)


def record_multiday(paths: SessionPaths, dataset: DatasetPaths) -> Path:
    """Write multi-day's output of an animal with its record; return its folder."""
    folder = dataset.directory / paths.animal
    plant_multiday(folder)
    outputs = [
        {"path": str(path.relative_to(folder)), "xxh3_128": xxhash.xxh3_128_hexdigest(path.read_bytes())}
        for path in sorted(folder.rglob("*.*"))
    ]
    record = {"outputs": outputs, "settings": {"sessions": [f"{paths.animal}/{paths.session}", "305/another"]}}
    (folder / "results").mkdir()
    (folder / "results/MULTIDAY.json").write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize("name", ["cells.feather", f"{SESSION}/plane0/F.npy"])
def test_tracked_cells_that_were_purged_or_damaged_since_are_named_with_the_command_that_makes_them_again(
    tmp_path: Path, dataset: DatasetPaths, name: str
) -> None:
    paths = plant(tmp_path)
    locked(paths, dataset)
    path = record_multiday(paths, dataset) / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert f"1 have other contents: '{name}'" in forge(paths, dataset).stderr
    path.unlink()
    refused = forge(paths, dataset)
    assert refused.returncode != 0
    assert f"1 are missing: '{name}'" in refused.stderr
    assert "sessionflow run multiday --project" in refused.stderr
    assert not (dataset.directory / f"305/{SESSION}.nwb").exists()
    path.write_bytes(whole)
    assert forge(paths, dataset).returncode == 0


def test_the_subject_and_the_session_are_those_of_the_descriptions(tmp_path: Path, dataset: DatasetPaths) -> None:
    paths = plant(tmp_path)
    locked(paths, dataset)
    assert forge(paths, dataset).returncode == 0
    read = json.loads(in_environment("-c", READ, str(dataset.directory / f"305/{SESSION}.nwb")).stdout)
    assert read["start"] == "2025-08-26 18:30:15.123456+00:00"
    assert (read["session_id"], read["notes"], read["institution"]) == (SESSION, "Ran well.", "Example University")
    assert read["places"] == ["CA1", "CA1"]
    assert read["rates"]["running_speed"] == 20.0  # a regular clock
    assert read["rates"]["plane0"] is None  # the mesoscope's is not
    expected = {"subject_id": "305", "species": "Mus musculus", "sex": "F", "genotype": "WT"}
    expected |= {"age": "P237D", "weight": "0.0214 kg", "date_of_birth": "2025-01-01 00:00:00.000001+00:00"}
    assert {key: read["subject"][key] for key in expected} == expected


@pytest.mark.parametrize(
    ("born", "words"),
    [
        (None, "is not there"),
        ("early in 2025", "is 'early in 2025', which is no time"),
        (1795689600000000, "is 2026-11-26, after the session"),
    ],
)
def test_a_session_whose_animal_has_no_date_of_birth_is_forged_without_an_age_and_says_so(
    tmp_path: Path, dataset: DatasetPaths, born: object, words: str
) -> None:
    paths = plant(tmp_path)
    locked(paths, dataset)
    subject = {**SURGERY["subject"], "date_of_birth_us": born}
    (paths.raw_data / "surgery_metadata.yaml").write_text(yaml.safe_dump({**SURGERY, "subject": subject}))
    made = forge(paths, dataset)
    assert made.returncode == 0, made.stderr
    read = json.loads(in_environment("-c", READ, str(dataset.directory / f"305/{SESSION}.nwb")).stdout)
    assert read["subject"]["age"] == "P0D/"  # any: the inspector takes no file without one
    assert "date_of_birth" not in read["subject"]
    said = f"the animal's date of birth (subject.date_of_birth_us of surgery_metadata.yaml) {words}: its age is unknown"
    assert said in json.loads((dataset.directory / f"305/{SESSION}.json").read_text())["missing"]
    assert said in made.stdout


def test_a_session_without_any_description_but_its_type_is_forged_and_lists_them(
    tmp_path: Path, dataset: DatasetPaths
) -> None:
    paths = plant(tmp_path, RUN)
    locked(paths, dataset)
    names = ("surgery_metadata", "session_descriptor", "hardware_state")
    for name in names:
        (paths.raw_data / f"{name}.yaml").unlink()
    made = forge(paths, dataset)
    assert made.returncode == 0, made.stderr
    missing = json.loads((dataset.directory / f"305/{SESSION}.json").read_text())["missing"]
    assert {f"raw_data/{name}.yaml is not there" for name in names} <= set(missing)


def test_tables_of_hardware_that_was_not_used_are_not_missed(tmp_path: Path, dataset: DatasetPaths) -> None:
    paths = plant(tmp_path, LICK)
    locked(paths, dataset)
    assert forge(paths, dataset).returncode == 0
    missing = json.loads((dataset.directory / f"305/{SESSION}.json").read_text())["missing"]
    assert not [words for words in missing if words.startswith("behavior_data/")]


def test_forged_twice_all_files_are_the_same_bytes(tmp_path: Path, dataset: DatasetPaths) -> None:
    paths, again = plant(tmp_path), DatasetPaths(tmp_path / "elsewhere", PROJECT, "learning")
    locked(paths, dataset)
    again.directory.mkdir(parents=True)
    SessionLock(again.lock).acquire(MANAGER)
    for place in (dataset, again):
        for words in ([], ["--index"]):
            made = forge(paths, place, *words)
            assert made.returncode == 0, made.stderr
    names = [f"305/{SESSION}{end}" for end in (".nwb", ".feather", "_cells.feather", ".json")]
    for name in (*names, "index.feather", "dataset.json"):
        assert (dataset.directory / name).read_bytes() == (again.directory / name).read_bytes(), name


def test_the_index_has_a_row_for_each_session_and_lists_what_is_missing(tmp_path: Path, dataset: DatasetPaths) -> None:
    paths = plant(tmp_path)
    locked(paths, dataset)
    assert forge(paths, dataset).returncode == 0
    assert forge(paths, dataset, "--index").returncode == 0
    (row,) = pl.read_ipc(dataset.directory / "index.feather").rows(named=True)
    assert (row["animal"], row["session"], row["type"], row["clock"]) == ("305", SESSION, EXPERIMENT, "imaging volumes")
    assert (row["planes"], row["rois"], row["cells"], row["trials"], row["licks"]) == (2, 15, 9, 3, 75)
    assert "camera_data: neither pose nor motion of the right camera is there" in row["missing"]
    described = json.loads((dataset.directory / "dataset.json").read_text())
    assert described["settings"]["species"] == "Mus musculus"
    assert described["sessions"][0]["missing"] == row["missing"]


def test_files_of_a_session_that_is_no_part_of_the_dataset_any_more_are_named_and_stay(
    tmp_path: Path, dataset: DatasetPaths
) -> None:
    paths = plant(tmp_path, LICK)
    locked(paths, dataset)
    assert forge(paths, dataset).returncode == 0
    earlier = dataset.directory / "306/2025-08-27-18-30-15-123456.nwb"
    earlier.parent.mkdir()
    earlier.touch()
    made = forge(paths, dataset, "--index")
    assert made.returncode == 0, made.stderr
    assert "no part of the dataset any more, though its folder still holds them: '306/" in made.stdout
    assert earlier.exists()
    assert len(pl.read_ipc(dataset.directory / "index.feather")) == 1


def test_cells_that_people_curated_are_the_accepted_ones(tmp_path: Path, dataset: DatasetPaths) -> None:
    paths = plant(tmp_path)
    locked(paths, dataset)
    curated = paths.processed_data / "mesoscope_data/plane0/iscell.npy"
    iscell = np.load(curated)
    iscell[:, 0] = [0, 0, 0, 0, 0, 0, 1]
    np.save(curated, iscell)
    assert forge(paths, dataset).returncode == 0
    cells = pl.read_ipc(dataset.directory / f"305/{SESSION}_cells.feather")
    assert cells.filter(pl.col("plane") == 0)["roi"].to_list() == [6]
    assert pl.read_ipc(dataset.directory / f"305/{SESSION}.feather")["fluorescence"].to_numpy().shape == (250, 6)


def test_frames_that_do_not_fit_their_pulses_are_refused_and_nothing_is_written(
    tmp_path: Path, dataset: DatasetPaths
) -> None:
    paths = plant(tmp_path)
    locked(paths, dataset)
    table = paths.processed_data / "behavior_data/mesoscope_frame_data.feather"
    pl.read_ipc(table)[:-4].write_ipc(table)
    made = forge(paths, dataset)
    assert made.returncode == 1
    assert f"{PROJECT}/305/{SESSION}: the mesoscope sent 248 pulses" in made.stderr
    assert f"sessionflow exclude {paths.storage_directory} --reason" in made.stderr
    assert not (dataset.directory / "305").exists()
    told = forge(paths, dataset, settings={**SETTINGS, "unclear_frames": "from start"})
    assert told.returncode == 0, told.stderr
    assert len(pl.read_ipc(dataset.directory / f"305/{SESSION}.feather")) == 248
    assert "2 volumes have no time" in told.stdout


def test_a_job_whose_manager_lacks_a_lock_changes_nothing(tmp_path: Path, dataset: DatasetPaths) -> None:
    paths = plant(tmp_path)
    dataset.directory.mkdir(parents=True)
    SessionLock(dataset.lock).acquire(MANAGER)
    made = forge(paths, dataset)
    assert made.returncode != 0
    assert not (dataset.directory / "305").exists()
