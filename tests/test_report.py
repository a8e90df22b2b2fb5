"""The page of a session and its quality control: planted defects are recognized, and a good session passes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.environments import environment
from tests.forging_session import LICK, RUN, VOLUMES, plant
from trackers.layout import SessionPaths
from trackers.lock import SessionLock
from trackers.quality import quality_objection

SIDE, CELLS = 96, 16
SECONDS, FRAMES_A_SECOND = 60, 20
MANAGER = 7
CACHES = str(Path(tempfile.gettempdir()) / "sessionflow-test-fonts")  # matplotlib lists fonts for seconds, once


def plant_good(root: Path, kind: str = "mesoscope experiment") -> SessionPaths:
    """Write a session that nothing is wrong with: cells, a mouse that runs and rests, cameras that see it."""
    paths = plant(root, kind)
    for number in range(2 if kind != RUN else 0):
        plant_movie(paths.processed_data / f"mesoscope_data/plane{number}", np.random.default_rng(number))
    encoder = pl.read_ipc(paths.processed_data / "behavior_data/encoder_data.feather")
    start = int(encoder["time_us"][0])
    times = start + np.arange(SECONDS * 100) * 10_000
    running = (np.arange(len(times)) // 1000) % 2 == 1
    distance = np.cumsum(np.where(running, 0.25, 0.0))
    write(paths, "behavior_data/encoder_data", time_us=times.astype(np.uint64), traveled_distance_cm=distance)
    clock = start + np.arange(SECONDS * FRAMES_A_SECOND) * (1_000_000 // FRAMES_A_SECOND)
    energy = 1 + 5.0 * ((np.arange(len(clock)) // (10 * FRAMES_A_SECOND)) % 2)
    for camera in ("face", "left", "right"):
        for other in (paths.processed_data / "camera_data").glob(f"{camera}_camera_[mp]o*.feather"):
            other.unlink()
        write(paths, f"camera_data/{camera}_camera_timestamps", frame_time_us=clock.astype(np.uint64))
    frames = np.arange(len(clock), dtype=np.uint32)
    write(paths, "camera_data/face_camera_motion", frame=frames, time_us=clock.astype(np.uint64), motion_energy=energy)
    SessionLock(paths.lock).acquire(MANAGER)
    return paths


def plant_movie(folder: Path, rng: Any) -> None:
    """Write one plane of suite2p's output with the movie that it is of."""
    movie, stat = scene(rng)
    movie.tofile(folder / "data.bin")
    np.save(folder / "stat.npy", np.array(stat, dtype=object))
    np.save(folder / "iscell.npy", np.ones((CELLS, 2)))
    traces = np.array([movie[:, s["ypix"], s["xpix"]].mean(1) for s in stat], np.float32)
    for name, values in (
        ("F", traces),
        ("Fneu", traces * 0 + 100),
        ("spks", np.maximum(np.diff(traces, prepend=0), 0)),
    ):
        np.save(folder / f"{name}.npy", values.astype(np.float32))
    registered = np.load(folder / "reg_outputs.npy", allow_pickle=True).item() | {"meanImg": movie.mean(0)}
    np.save(folder / "reg_outputs.npy", np.array(registered, dtype=object))


def scene(rng: Any) -> tuple[Any, list[dict[str, Any]]]:
    """Return a movie of active cells, int16 (volumes, y, x), and suite2p's description of them."""
    yy, xx = np.mgrid[:SIDE, :SIDE]
    movie = np.full((VOLUMES, SIDE, SIDE), 200.0) + rng.normal(0, 15, (VOLUMES, SIDE, SIDE))
    stat = []
    places = rng.uniform(8, SIDE - 8, (CELLS, 2))
    for y, x in places:
        inside = np.hypot(yy - y, xx - x) < 4
        spikes = (rng.random(VOLUMES) < 0.03).astype(float)
        trace = np.convolve(spikes, np.exp(-np.arange(40) / 8))[:VOLUMES]
        movie[:, inside] += (100 + 250 * trace)[:, None]
        rows, columns = np.nonzero(inside)
        weights = np.ones(len(rows), np.float32)
        stat.append({"ypix": rows, "xpix": columns, "lam": weights, "med": [float(y), float(x)]})
    return movie.astype(np.int16), stat


def write(paths: SessionPaths, name: str, **columns: Any) -> None:
    """Write a feather table below a session's results."""
    pl.DataFrame(columns).write_ipc(paths.processed_data / f"{name}.feather")


def read(paths: SessionPaths, name: str) -> pl.DataFrame:
    """Read a feather table below a session's results."""
    return pl.read_ipc((paths.processed_data / f"{name}.feather").read_bytes())


def report(paths: SessionPaths, *options: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """Run the job program; return the page and the checks of qc.json by name."""
    root = Path(__file__).parent.parent
    names = ("--project", paths.project, "--animal", paths.animal, "--session", paths.session)
    roots = ("--storage", str(paths.volumes.storage), "--working", str(paths.volumes.working))
    command = [str(environment("report")), "-P", "-m", "jobs.report", *roots, *names, "--manager-id", str(MANAGER)]
    done = subprocess.run(
        [*command, *options],
        env={"MPLCONFIGDIR": CACHES, **os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    folder = paths.processed_data / "report"
    checks = json.loads((folder / "qc.json").read_text())["checks"]
    return (folder / "report.html").read_text(), {check["name"]: check for check in checks}


def planes(paths: SessionPaths) -> list[Path]:
    """Return the folders of suite2p's planes."""
    return sorted((paths.processed_data / "mesoscope_data").glob("plane*"))


def change_movies(paths: SessionPaths, change: Callable[[Any], Any]) -> None:
    """Replace what each plane's movie shows."""
    for folder in planes(paths):
        movie = np.fromfile(folder / "data.bin", np.int16).reshape(VOLUMES, SIDE, SIDE)
        change(movie).astype(np.int16).tofile(folder / "data.bin")


def another_depth(movie: Any) -> Any:
    """Return the movie, its last third being of other cells."""
    other = scene(np.random.default_rng(99))[0]
    third = 2 * len(movie) // 3
    return np.concatenate((movie[:third], other[third:]))


def no_cell(paths: SessionPaths) -> None:
    """Let nothing that suite2p found be a cell."""
    for folder in planes(paths):
        np.save(folder / "iscell.npy", np.zeros((CELLS, 2)))


def lose_frames(paths: SessionPaths) -> None:
    """Take out every twentieth frame of a camera."""
    table = read(paths, "camera_data/left_camera_timestamps")
    table.filter(pl.int_range(len(table)) % 20 != 7).write_ipc(
        paths.processed_data / "camera_data/left_camera_timestamps.feather"
    )


def stop_camera(paths: SessionPaths) -> None:
    """Let a camera end halfway."""
    table = read(paths, "camera_data/right_camera_timestamps")
    table.head(len(table) // 2).write_ipc(paths.processed_data / "camera_data/right_camera_timestamps.feather")


def stick(paths: SessionPaths) -> None:
    """Let the lick sensor's last contact never end."""
    table = read(paths, "behavior_data/lick_data")
    half = table.head(len(table) // 2)
    ends = half["lick_state"].to_numpy().nonzero()[0][-1] + 1
    half.head(ends).write_ipc(paths.processed_data / "behavior_data/lick_data.feather")


def slip(paths: SessionPaths) -> None:
    """Let the treadmill stand in the second bout of running."""
    table = read(paths, "behavior_data/encoder_data")
    distance = table["traveled_distance_cm"].to_numpy().copy()
    distance[3000:4000] = distance[2999]
    distance[4000:] -= distance[4000] - distance[3999]
    table.with_columns(traveled_distance_cm=distance).write_ipc(
        paths.processed_data / "behavior_data/encoder_data.feather"
    )


DEFECTS: dict[str, Callable[[SessionPaths], None]] = {
    "moved_out_of_plane": lambda paths: change_movies(paths, another_depth),
    "bleached": lambda paths: change_movies(paths, lambda m: m * np.exp(-np.arange(VOLUMES) / 400)[:, None, None]),
    "saturated": lambda paths: change_movies(paths, lambda m: np.minimum(m, 500)),
    "no_cells": no_cell,
    "frames_dropped": lose_frames,
    "camera_stopped": stop_camera,
    "lick_sensor_stuck": stick,
    "treadmill_slipped": slip,
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_planted_defect_is_recognized_and_nothing_else_is_found(tmp_path: Path, defect: str) -> None:
    paths = plant_good(tmp_path)
    DEFECTS[defect](paths)
    html, checks = report(paths)
    assert {name for name, check in checks.items() if check["verdict"] != "pass"} == {defect}
    assert f"Fails: {checks[defect]['title']}." in html


def test_a_plane_that_only_drifted_sideways_did_not_move_out_of_plane(tmp_path: Path) -> None:
    paths = plant_good(tmp_path)
    change_movies(paths, lambda m: np.stack([np.roll(frame, 6 * at // len(m), 0) for at, frame in enumerate(m)]))
    assert report(paths)[1]["moved_out_of_plane"]["verdict"] == "pass"


def test_a_good_session_passes_every_check(tmp_path: Path) -> None:
    html, checks = report(plant_good(tmp_path))
    assert {name: check["verdict"] for name, check in checks.items()} == dict.fromkeys(DEFECTS, "pass")
    assert "Nothing wrong was found in 8 checks." in html


def test_a_treadmill_that_slips_is_recognized_where_the_animal_only_slowed_down_before(tmp_path: Path) -> None:
    paths = plant_good(tmp_path, RUN)
    table, seen = read(paths, "behavior_data/encoder_data"), read(paths, "camera_data/face_camera_motion")
    second, frame = np.arange(SECONDS * 100) // 100, np.arange(SECONDS * FRAMES_A_SECOND) // FRAMES_A_SECOND
    distance = np.cumsum(np.select([second < 10, second < 20], [0.03, 0.25], 0.0))  # it goes slowly, runs, and runs on
    columns = {"time_us": table["time_us"], "traveled_distance_cm": distance}
    write(paths, "behavior_data/encoder_data", **columns)
    energy = np.where(frame < 10, 1.0, 6.0)
    write(paths, "camera_data/face_camera_motion", **(seen.to_dict(as_series=True) | {"motion_energy": energy}))
    assert report(paths)[1]["treadmill_slipped"]["verdict"] == "fail"


def flat_energy(paths: SessionPaths) -> None:
    """Let the face camera see the same, whatever the animal does."""
    table = read(paths, "camera_data/face_camera_motion")
    write(paths, "camera_data/face_camera_motion", **(table.to_dict() | {"motion_energy": np.ones(len(table))}))


def stand_still(paths: SessionPaths) -> None:
    """Let the treadmill not turn at all."""
    table = read(paths, "behavior_data/encoder_data")
    write(paths, "behavior_data/encoder_data", **(table.to_dict() | {"traveled_distance_cm": np.zeros(len(table))}))


UNTELLING: dict[str, tuple[Callable[[SessionPaths], None], str]] = {
    "a camera that sees no difference": (flat_energy, "the face camera does not tell running from rest"),
    "no camera": (
        lambda paths: (paths.processed_data / "camera_data/face_camera_motion.feather").unlink(),
        "no camera's motion energy is there",
    ),
    "a treadmill that never turned": (stand_still, "it never turned faster than 0 cm/s for 3 s"),
}


@pytest.mark.parametrize("case", UNTELLING)
def test_a_treadmill_that_nothing_can_be_compared_with_is_unknown(tmp_path: Path, case: str) -> None:
    paths = plant_good(tmp_path, RUN)
    change, words = UNTELLING[case]
    change(paths)
    check = report(paths)[1]["treadmill_slipped"]
    assert (check["verdict"], check["value"]) == ("unknown", None)
    assert words in check["words"]


def test_a_treadmill_is_compared_with_the_camera_that_tells_running_from_rest(tmp_path: Path) -> None:
    paths = plant_good(tmp_path, RUN)
    seen = read(paths, "camera_data/face_camera_motion")
    flat_energy(paths)
    write(paths, "camera_data/left_camera_motion", **seen.to_dict())
    assert report(paths)[1]["treadmill_slipped"]["verdict"] == "pass"
    slip(paths)
    check = report(paths)[1]["treadmill_slipped"]
    assert check["verdict"] == "fail"
    assert "the left camera saw running" in check["words"]


def test_a_session_without_imaging_has_no_checks_of_it(tmp_path: Path) -> None:
    _, checks = report(plant_good(tmp_path, RUN))
    assert set(checks) == {"frames_dropped", "camera_stopped", "lick_sensor_stuck", "treadmill_slipped"}
    assert all(check["verdict"] == "pass" for check in checks.values())


def test_a_session_of_behavior_alone_has_a_page_with_the_checks_of_its_hardware(tmp_path: Path) -> None:
    paths = plant(tmp_path, LICK)  # no treadmill turned, and no camera was on
    shutil.rmtree(paths.processed_data / "camera_data")
    SessionLock(paths.lock).acquire(MANAGER)
    html, checks = report(paths)
    verdicts = {name: check["verdict"] for name, check in checks.items()}
    assert verdicts == {"frames_dropped": "unknown", "camera_stopped": "unknown", "lick_sensor_stuck": "pass"}
    assert "<h2>Running, licks and rewards</h2>" in html
    assert "<h2>Cells</h2>" not in html
    assert "Nothing wrong was found in 1 check. Not checked: frames dropped, a camera that stopped." in html
    assert quality_objection(paths) == ""


def test_what_is_missing_is_said_and_not_judged(tmp_path: Path) -> None:
    paths = plant_good(tmp_path)
    for folder in planes(paths):
        (folder / "data.bin").unlink()
    (paths.processed_data / "behavior_data/lick_data.feather").unlink()
    html, checks = report(paths)
    assert {name for name, c in checks.items() if c["verdict"] == "unknown"} == {
        *("moved_out_of_plane", "bleached", "saturated", "lick_sensor_stuck")
    }
    assert all(c["value"] is None and "not checked" in c["words"] for c in checks.values() if c["verdict"] == "unknown")
    assert "Not checked: moved out of plane" in html


def test_what_a_person_overruled_stands_on_the_page(tmp_path: Path) -> None:
    paths = plant_good(tmp_path)
    no_cell(paths)
    word = {"no_cells": {"verdict": "pass", "reason": "the window was closed", "by": "ann"}}
    (paths.tracking_data / "verdicts.json").write_text(json.dumps(word))
    html, checks = report(paths)
    assert checks["no_cells"]["verdict"] == "fail"
    assert "pass (overruled)" in html
    assert "Pass, says ann: the window was closed." in html
    assert "Fails" not in html


class _Links(HTMLParser):
    """Collects what a page would load, and its ids."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key in ("src", "href", "xlink:href", "data") and not str(value).startswith(("#", "data:")):
                self.loaded.append(f"{tag} {value}")
            if key == "id":
                self.ids.append(str(value))


def test_the_page_needs_nothing_beside_it(tmp_path: Path) -> None:
    paths = plant_good(tmp_path)
    html, _ = report(paths)
    links = _Links()
    links.feed(html)
    assert links.loaded == []
    assert "<script" not in html
    assert len(set(links.ids)) == len(links.ids)
