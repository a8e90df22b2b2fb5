"""Behavior and video against a known truth: what logs hold is recovered exactly, and motion energy is the speed."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from jobs.behavior import SOURCES, extract
from jobs.generate_science import TRUTH, generate_science
from jobs.video_motion import motion
from trackers.layout import SessionPaths, Volumes
from trackers.session import load_session

SEEDS = tuple(range(8001, 8006))
PROJECT = "science"
ROUNDING = 1e-6  # cm: distance is a sum of pulses whose length is no whole number; times are whole microseconds
Row = tuple[str, str, str]


def rows(seeds: Sequence[int] = SEEDS) -> Iterator[Row]:
    """Yield what was measured, pooled over sessions of both physics: what, how much, and what was wanted."""
    wrong = dict.fromkeys(("distance", "licks", "rewards"), 0)
    values, alike = dict(wrong), []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            made = generate_science(Path(folder), PROJECT, days=1, seed=seed, physics="AB"[seed % 2])
            animal, session = made.sessions[0].animal, made.sessions[0].session
            truth = dict(np.load(Path(folder) / PROJECT / TRUTH / animal / f"{session}.npz"))
            paths = SessionPaths(Volumes(Path(folder), Path(folder)), PROJECT, animal, session)
            for what, found, true in _logged(paths, truth):
                values[what] += true.size
                same = found.shape == true.shape
                wrong[what] += int((np.abs(found - true) > ROUNDING).sum()) if same else true.size
            movies = sorted((paths.raw_data / "camera_data").glob("*_camera.mp4"))
            alike += [_correlation(movie, truth["speed_cm_s"]) for movie in movies]
    for what, count in values.items():
        yield f"{what}: values that are not the true ones", f"{wrong[what]} of {count}", "0"
    what = f"motion energy and true speed, correlation, lowest (mean) of {len(alike)} movies"
    yield what, f"{min(alike):.3f} ({np.mean(alike):.3f})", "≥ 0.95"


def _logged(paths: SessionPaths, truth: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield what the logs hold by our extraction, times and values, and what is true."""
    data = load_session(paths)
    tables = {name: table for source in SOURCES for name, table in extract(paths, data, source)[0].items()}
    wheel, lick, valve = (tables[f"behavior_data/{name}_data"] for name in ("encoder", "lick", "valve"))
    yield "distance", wheel["time_us"].to_numpy().astype(np.int64), truth["distance_time_us"]
    yield "distance", wheel["traveled_distance_cm"].to_numpy(), truth["distance_cm"]
    yield "licks", lick.filter(pl.col("lick_state") == 1)["time_us"].to_numpy().astype(np.int64), truth["lick_time_us"]
    given = valve.filter(pl.col("dispensed_water_volume_uL").diff() > 0)["time_us"]
    yield "rewards", given.to_numpy().astype(np.int64), truth["reward_time_us"]


def _correlation(movie: Path, speed: Any) -> float:
    """Return how alike motion energy and speed are; a camera has seen nothing move before its second frame."""
    with contextlib.redirect_stdout(io.StringIO()):  # a job's progress
        energy = motion(movie, 5)[0]["motion_energy"].to_numpy()
    return float(np.corrcoef(energy[1:], speed[1 : len(energy)])[0, 1])
