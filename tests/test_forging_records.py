"""What is forged is what was recorded: a purged file stops it, a damaged one too, and people's curation is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xxhash

from jobs.forging_records import records_of, verify
from tests.forging_session import plant
from trackers.errors import JobFailedError, SessionDataError
from trackers.layout import SessionPaths

FOLDERS = {"BEHAVIOR": "behavior_data", "SUITE2P": "mesoscope_data", "VIDEO": "camera_data"}


@pytest.fixture
def paths(tmp_path: Path) -> SessionPaths:
    """A session with the result records of its pipelines."""
    found = plant(tmp_path)
    results = found.tracking_data / "results"
    results.mkdir(parents=True)
    for pipeline, folder in FOLDERS.items():
        outputs = [
            {"path": f"processed_data/{p.relative_to(found.processed_data)}", "xxh3_128": xxhash.xxh3_128_hexdigest(c)}
            for p in sorted((found.processed_data / folder).rglob("*.*"))
            for c in [p.read_bytes()]
        ]
        record = {"pipeline": pipeline, "ended": "2025-09-01T12:00:00+00:00", "outputs": outputs}
        (results / f"{pipeline}.json").write_text(json.dumps(record))
    return found


def test_what_is_as_recorded_needs_no_words(paths: SessionPaths) -> None:
    assert verify(paths, records_of(paths)) == []


def test_it_is_verified_where_it_was_archived(paths: SessionPaths) -> None:
    paths.processed_data.rename(paths.archived_data)
    assert verify(paths, records_of(paths)) == []


@pytest.mark.parametrize("name", ["behavior_data/lick_data.feather", "mesoscope_data/plane1/iscell.npy"])
def test_a_file_that_was_purged_is_named_with_the_command_that_makes_it_again(paths: SessionPaths, name: str) -> None:
    (paths.processed_data / name).unlink()
    pipeline = "behavior" if name.startswith("behavior") else "suite2p"
    with pytest.raises(JobFailedError, match=f"1 are missing: '{name}'.*sessionflow run {pipeline} .*--reprocess"):
        verify(paths, records_of(paths))


def test_a_file_with_other_contents_is_named(paths: SessionPaths) -> None:
    path = paths.processed_data / "camera_data/face_camera_motion.feather"
    path.write_bytes(path.read_bytes() + b"x")
    command = "sessionflow run video .*--reprocess --discard-curation"
    with pytest.raises(JobFailedError, match=f"1 have other contents: .*face_camera_motion.*{command}"):
        verify(paths, records_of(paths))


def test_cells_that_people_curated_are_taken_and_said(paths: SessionPaths) -> None:
    path = paths.processed_data / "mesoscope_data/plane0/iscell.npy"
    np.save(path, 1 - np.load(path))
    assert verify(paths, records_of(paths)) == [
        "curated by people since suite2p wrote it: 'mesoscope_data/plane0/iscell.npy'"
    ]


def test_without_a_record_nothing_is_verified_and_that_is_said(paths: SessionPaths) -> None:
    (paths.tracking_data / "results/VIDEO.json").unlink()
    assert verify(paths, records_of(paths)) == ["not verified, because there is no record of it: video"]


def test_a_record_that_cannot_be_read_stops_it(paths: SessionPaths) -> None:
    (paths.tracking_data / "results/VIDEO.json").write_text("{")
    with pytest.raises(SessionDataError, match=r"VIDEO.json is no result record"):
        records_of(paths)
