"""Sessions with planted cells: what the pipelines' own readers find in them is what the truth says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from jobs.behavior import SOURCES, extract
from jobs.checksum import verify
from jobs.forging_frames import Imaging, volume_clock
from jobs.generate import DemoProject
from jobs.generate_animal import behave
from jobs.generate_defects import SINCE, Defect
from jobs.generate_imaging import PHYSICS, SIZES, write_imaging
from jobs.generate_movie import marker
from jobs.generate_science import TRUTH, generate_science
from trackers.errors import BadInputError
from trackers.layout import SessionPaths, Volumes
from trackers.mesoscope import read_mesoscope
from trackers.session import load_session

tifffile = pytest.importorskip("tifffile")
cv2 = pytest.importorskip("cv2")
pytestmark = pytest.mark.timeout(300)
DRIFT_PPM = 50.0


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DemoProject]:
    storage = tmp_path_factory.mktemp("storage")
    return storage, generate_science(storage, rois=2, days=1, drift_ppm=DRIFT_PPM, defects=["frames_dropped"])


def recording(project: tuple[Path, DemoProject], number: int) -> tuple[SessionPaths, dict[str, Any]]:
    storage, made = project
    session = made.sessions[number]
    truth = storage / "demo" / TRUTH / session.animal / f"{session.session}.npz"
    return SessionPaths(Volumes(storage, storage), "demo", session.animal, session.session), dict(np.load(truth))


def tables(paths: SessionPaths) -> dict[str, pl.DataFrame]:
    data = load_session(paths)
    return {name: table for source in SOURCES for name, table in extract(paths, data, source)[0].items()}


def test_the_logs_hold_the_true_distance_licks_rewards_and_clocks(project: tuple[Path, DemoProject]) -> None:
    paths, truth = recording(project, 0)
    paths.tracking_data.mkdir()
    verify(paths)
    found = tables(paths)
    encoder, licks, valve = (found[f"behavior_data/{name}_data"] for name in ("encoder", "lick", "valve"))
    assert encoder["time_us"].to_list() == truth["distance_time_us"].tolist()
    assert np.abs(encoder["traveled_distance_cm"].to_numpy() - truth["distance_cm"]).max() < 1e-6
    assert licks.filter(pl.col("lick_state") == 1)["time_us"].to_list() == truth["lick_time_us"].tolist()
    water = valve.filter(pl.col("dispensed_water_volume_uL").diff() > 0)["time_us"]
    assert water.to_list() == truth["reward_time_us"].tolist()
    assert len(truth["reward_time_us"]) > 0
    frames = found["camera_data/left_camera_timestamps"]["frame_time_us"]
    assert frames.to_list() == truth["camera_time_us"].tolist()
    assert found["behavior_data/trial_data"].height >= 120


def test_each_volume_has_its_pulse_although_the_mesoscope_s_clock_drifts(project: tuple[Path, DemoProject]) -> None:
    paths, truth = recording(project, 0)
    form = read_mesoscope(paths.raw_data / "mesoscope_data" / "ops.json")
    movie = tifffile.imread(paths.raw_data / "mesoscope_data" / "mesoscope_000001.tiff")
    assert (form.planes, len(movie), movie.shape[1]) == (4, 300 * form.nplanes, form.height)
    clock = volume_clock(tables(paths)["behavior_data/mesoscope_frame_data"], Imaging(300, form.fs, form.nplanes))
    assert clock.times.tolist() == truth["frame_time_us"].tolist()
    assert clock.times[-1] - clock.times[0] == pytest.approx(299 / form.fs * 1e6 * (1 + DRIFT_PPM * 1e-6), abs=10)


def test_volumes_that_were_dropped_have_a_pulse_and_no_frame(project: tuple[Path, DemoProject]) -> None:
    paths, truth = recording(project, 1)
    movie = tifffile.imread(paths.raw_data / "mesoscope_data" / "mesoscope_000001.tiff")
    pulses = tables(paths)["behavior_data/mesoscope_frame_data"].filter(pl.col("ttl_state") == 1)["time_us"].to_list()
    assert len(movie) // 2 == len(truth["frame_time_us"]) == truth["traces"].shape[1] < len(pulses) == 300
    assert set(truth["frame_time_us"].tolist()) < set(pulses)
    assert list(truth["defects"]) == ["frames_dropped"]


def test_the_marker_is_where_the_truth_says(project: tuple[Path, DemoProject]) -> None:
    paths, truth = recording(project, 0)
    movie = cv2.VideoCapture(str(paths.raw_data / "camera_data" / f"{paths.session}_face_camera.mp4"))
    off = []
    for x, y in zip(truth["marker_x"], truth["marker_y"], strict=True):
        read, frame = movie.read()
        assert read
        rows, columns = np.nonzero(frame[..., 0] > 160)
        off.append(np.hypot(columns.mean() - x, rows.mean() - y))
    assert not movie.read()[0]
    assert np.median(off) < 0.5


def test_it_is_written_once_and_not_again_otherwise(project: tuple[Path, DemoProject]) -> None:
    storage, made = project
    same = {"rois": 2, "days": 1, "drift_ppm": DRIFT_PPM, "defects": ["frames_dropped"]}
    assert [s.session for s in generate_science(storage, **same).sessions] == [s.session for s in made.sessions]
    with pytest.raises(BadInputError, match="generated otherwise"):
        generate_science(storage, **{**same, "physics": "B"})
    with pytest.raises(BadInputError, match="known defects are moved_out_of_plane"):
        generate_science(storage, "other", defects=["broken"])


def imaging(folder: Path, defect: Defect | None) -> tuple[Any, dict[str, Any]]:
    folder.mkdir()
    truth = write_imaging(folder, SIZES["ci"], PHYSICS["A"], 1, 0, (defect,) if defect else ())
    return tifffile.imread(folder / "mesoscope_000001.tiff").astype(float), truth


def test_defects_of_the_movie_are_what_their_names_say(tmp_path: Path) -> None:
    good, truth = imaging(tmp_path / "good", None)
    bleached, _ = imaging(tmp_path / "bleached", Defect.BLEACHED)
    saturated, _ = imaging(tmp_path / "saturated", Defect.SATURATED)
    empty, none = imaging(tmp_path / "empty", Defect.NO_CELLS)
    sunk, _ = imaging(tmp_path / "sunk", Defect.MOVED_OUT_OF_PLANE)
    assert bleached[-20:].mean() < 0.4 * bleached[:20].mean()
    assert (saturated == saturated.max()).mean() > 0.02
    assert (good == good.max()).mean() < 1e-4
    assert (len(none["cell"]), none["traces"].shape, len(truth["cell"])) == (0, (0, 300), 60)
    assert empty.std() < good.std()
    before, after, well = sunk[:200:2].mean(0), sunk[-160::2].mean(0), good[-160::2].mean(0)
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] < 0.5
    assert np.corrcoef(before.ravel(), well.ravel())[0, 1] > 0.9


def test_defects_of_behavior_are_what_their_names_say() -> None:
    def behaved(*defects: Defect) -> Any:
        return behave(60.0, 500, 10.0, 0.0, np.random.default_rng(1), defects)

    since = SINCE * 60e6
    assert behaved(Defect.CAMERA_STOPPED).cameras[51][-1] < since < behaved(Defect.CAMERA_STOPPED).cameras[62][-1]
    slipped = behaved(Defect.TREADMILL_SLIPPED)
    assert slipped.pulse_time[-1] < since + 1e5
    assert slipped.distance[-1] > slipped.wheel_distance[-1] + 50
    stuck = [m for m in behaved(Defect.LICK_SENSOR_STUCK).sources()[152] if m[0] > since and m[1][1] == 4]
    assert len(stuck) > 100
    assert all(int.from_bytes(payload[-2:], "little") > 1000 for _, payload in stuck)
    for source in behaved().sources().values():
        times = [time for time, _ in source]
        assert len(set(times)) == len(times)


def test_the_marker_moves_as_far_as_the_animal_runs() -> None:
    x, y = marker(np.arange(0, 100, 0.1))
    assert np.hypot(np.diff(x), np.diff(y)) == pytest.approx(0.3, abs=0.001)
