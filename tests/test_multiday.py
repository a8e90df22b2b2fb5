"""Multi-day: planted cells are told again on other days, no two are confused, and their activity is extracted."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("scipy")


from flows.multiday import multiday
from jobs.multiday import tracked_plane
from jobs.multiday_registration import register
from jobs.multiday_tracking import track
from tasks.compute_server import ComputeServer
from tests.conftest import SESSION, make_session
from tests.environments import environment
from tests.planted_days import cells_of, plant, score
from tests.prefect_server import REPOSITORY
from trackers.errors import BadInputError, NotEligibleError, SessionDataError
from trackers.layout import SessionPaths, Volumes
from trackers.names import ProcessingPipelines
from trackers.tracker import ProcessingTracker, TrackerState

NAMES = [SESSION, "2025-08-27-18-30-15-123456", "2025-08-28-18-30-15-123456"]


@pytest.mark.parametrize("physics", ["A", "B"])
def test_planted_cells_are_tracked_over_five_days_and_none_is_confused(physics: str) -> None:
    days = plant(11, 5, size=128, cells=20, physics=physics)
    found = score([day.ids for day in days], cells_of([day.plane for day in days]))
    assert found["detected"] > 3
    assert found["tracked"] >= 0.95 * found["detected"]
    assert found["wrong"] == 0


def test_the_same_days_give_the_same_cells() -> None:
    days = plant(4, 3)
    assert cells_of([day.plane for day in days]) == cells_of([day.plane for day in days])


def test_rotation_shift_and_warp_are_found_to_a_fraction_of_a_pixel() -> None:
    from scipy import ndimage

    days = plant(5, 3, size=192, cells=40)
    found = register([day.plane.image for day in days])
    places = [
        np.stack([ndimage.map_coordinates(b, r.positions, order=1, mode="nearest") for b in day.base])
        for day, r in zip(days, found, strict=True)
    ]
    inner = (slice(None), slice(20, -20), slice(20, -20))
    for place in (places[0], places[2]):
        assert np.median(np.hypot(*(place - places[1])[inner])) < 0.5


def test_a_day_that_shows_other_tissue_tracks_nothing_and_says_why() -> None:
    days = [*plant(6, 2), plant(60, 1)[0]]
    rows, masks = tracked_plane([d.plane for d in days], register([d.plane.image for d in days]), 0)
    assert {row["status"] for row in rows[2] if row["detected"]} == {"uncertain"}
    assert "resembles the other days' too little" in rows[2][0]["reason"]
    assert all(mask["npix"] == 0 for mask in masks[2])
    assert sum(row["status"] == "tracked" for row in rows[0]) > 5


def test_a_mask_that_covers_two_cells_stays_unmatched_and_says_which() -> None:
    frame = np.zeros((3, 40, 40), np.float32)
    frame[0, 5:15, 5:15] = frame[1, 5:15, 15:25] = frame[2, 5:15, 5:25] = 1

    def day(*which: int) -> Any:
        from scipy import sparse

        return sparse.csr_array(frame[list(which)].reshape(len(which), -1))

    found = track([day(0, 1), day(0, 1), day(2)])
    assert [mask.cell for mask in found[0]] == [mask.cell for mask in found[1]] == [0, 1]
    assert found[2][0].status == "uncertain"
    assert "cell 0 by 0.50, cell 1 by 0.50" in found[2][0].reason


@pytest.mark.parametrize("width", [7, 9])
def test_of_two_masks_on_one_day_that_fit_alike_none_is_taken_and_the_other_days_are_tracked(width: int) -> None:
    from scipy import sparse

    frame = np.zeros((3, 40, 40), np.float32)
    frame[0, 5:15, 5:15], frame[1, 5:15, 5 : 5 + width], frame[2, 5:15, 15 - width : 15] = 1, 1, 1
    days = [frame[[0]], frame[[0]], frame[1:]]
    found = track([sparse.csr_array(masks.reshape(len(masks), -1)) for masks in days])
    assert [mask.status for mask in found[2]] == ["uncertain"] * 2
    assert [mask.cell for masks in found[:2] for mask in masks] == [0, 0]


def test_a_cell_that_the_rim_of_one_days_field_cuts_off_is_compared_where_both_days_show_it() -> None:
    from scipy import sparse

    frame, shown = np.zeros((2, 40, 40), np.float32), np.ones((2, 40, 40), bool)
    frame[0, 5:15, 5:15], frame[1, 5:15, 13:15], shown[1, :, :13] = 1, 1, False
    days = [sparse.csr_array(mask.reshape(1, -1)) for mask in frame]
    assert [masks[0].status for masks in track(days)] == ["uncertain"] * 2
    assert [masks[0].cell for masks in track(days, list(shown.reshape(2, -1)))] == [0, 0]


@pytest.fixture
def lab(tmp_path: Path) -> ComputeServer:
    """Three sessions on one volume, as they are when suite2p has succeeded."""
    for name in NAMES:
        session = make_session(tmp_path, session=name, kind="mesoscope experiment")
        for pipeline in ("CHECKSUM", "PREPARATION", "SUITE2P"):
            path = SessionPaths(Volumes(tmp_path, tmp_path), "Project", "305", name).tracker(
                ProcessingPipelines[pipeline]
            )
            path.parent.mkdir(exist_ok=True)
            ProcessingTracker(path).set_state(TrackerState(complete=True))
        assert session.is_dir()
    return ComputeServer(storage_root=str(tmp_path), datasets_root=str(tmp_path / "datasets"))


def planes(root: Path) -> list[Path]:
    return [root / "Project" / "305" / name / "processed_data" / "mesoscope_data" / "plane0" for name in NAMES]


async def run(server: ComputeServer, **options: Any) -> Any:
    return await multiday("Project", "305", NAMES, "learning", server=server, requested_by="ada", **options)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_three_days_of_movies_from_suite2p_to_traces_of_the_same_cells(
    lab: ComputeServer, tmp_path: Path
) -> None:
    import polars as pl

    python = environment("suite2p")
    words = [str(python), "-m", "tests.planted_days", *map(str, planes(tmp_path))]
    subprocess.run(words, cwd=REPOSITORY, check=True, capture_output=True)  # noqa: ASYNC221
    server = lab.model_copy(update={"environments": {"suite2p": {"python": str(python)}}})
    server = ComputeServer(**server.model_dump())
    report = await run(server)
    assert report.succeeded, report.sentence
    folder = tmp_path / "datasets" / "Project" / "learning" / "305"
    table = pl.read_ipc(folder / "cells.feather")
    cells = table.filter(pl.col("cell").is_not_null())
    assert cells["cell"].n_unique() >= 6
    assert cells.height == 3 * cells["cell"].n_unique()
    for name, plane in zip(NAMES, planes(tmp_path), strict=True):
        traces = np.load(folder / name / "plane0" / "F.npy")
        assert traces.shape == (cells["cell"].n_unique(), 300)
        day = cells.filter((pl.col("session") == name) & (pl.col("status") == "tracked")).sort("cell")
        own = np.load(plane / "F.npy")
        alike = [np.corrcoef(traces[row["cell"]], own[row["roi"]])[0, 1] for row in day.iter_rows(named=True)]
        assert np.median(alike) > 0.95
    before = {path: path.read_bytes() for path in folder.rglob("*.*") if path.suffix in (".npy", ".npz", ".feather")}
    assert not (await run(server)).ran
    assert (await run(server, reprocess=True)).succeeded
    assert {path: path.read_bytes() for path in before} == before
    assert (folder / "previous" / "cells.feather").read_bytes() == before[folder / "cells.feather"]
    assert not list(tmp_path.rglob("*lock_holder.yaml"))  # noqa: ASYNC240


async def test_a_session_without_suite2p_is_refused_by_name_and_nothing_is_made(
    lab: ComputeServer, tmp_path: Path
) -> None:
    paths = SessionPaths(Volumes(tmp_path, tmp_path), "Project", "305", NAMES[1])
    paths.tracker(ProcessingPipelines.SUITE2P).unlink()
    with pytest.raises(NotEligibleError, match=f"{NAMES[1]}: run suite2p first"):
        await run(lab)
    assert not (tmp_path / "datasets").exists()


async def test_a_single_day_is_refused_also_where_it_is_named_twice(lab: ComputeServer, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=f"only {NAMES[0]} is named. Nothing was done. Name two sessions or more"):
        await multiday("Project", "305", [NAMES[0]] * 2, "learning", server=lab)
    assert not (tmp_path / "datasets").exists()


def test_cells_that_people_drew_are_taken_and_traces_that_were_cut_off_are_not(
    lab: ComputeServer, tmp_path: Path
) -> None:
    import json

    from jobs.multiday_planes import plane_folders

    paths = SessionPaths(Volumes(tmp_path, tmp_path), "Project", "305", NAMES[0])
    plane = planes(tmp_path)[0]
    plane.mkdir(parents=True)
    names = ("F.npy", "iscell.npy", "stat.npy")
    outputs = [{"path": f"processed_data/mesoscope_data/{plane.name}/{name}", "size": 3} for name in names]
    (paths.tracking_data / "results").mkdir()
    (paths.tracking_data / "results" / "SUITE2P.json").write_text(
        json.dumps({"outputs": outputs, "ended": "2026-01-01"})
    )
    for name in names:
        (plane / name).write_bytes(b"more")  # suite2p's window writes them anew for a cell that was drawn
    assert plane_folders(paths) == [plane]
    (plane / "stat.npy").write_bytes(b"abc")
    with pytest.raises(SessionDataError, match=r"F\.npy is gone, or is not the file that suite2p wrote"):
        plane_folders(paths)


def test_output_that_was_purged_is_noticed(lab: ComputeServer, tmp_path: Path) -> None:
    import json

    from jobs.multiday_planes import plane_folders

    paths = SessionPaths(Volumes(tmp_path, tmp_path), "Project", "305", NAMES[0])
    planes(tmp_path)[0].mkdir(parents=True)
    outputs = [{"path": "processed_data/mesoscope_data/plane0/data.bin", "size": 7}]
    (paths.tracking_data / "results").mkdir()
    (paths.tracking_data / "results" / "SUITE2P.json").write_text(
        json.dumps({"outputs": outputs, "ended": "2026-01-01"})
    )
    with pytest.raises(SessionDataError, match=r"data\.bin is gone.*Was the volume purged"):
        plane_folders(paths)
