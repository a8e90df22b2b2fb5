"""Forging, measured: alignment under drift, values traced back to their sources, time and memory at two sizes.

Run in the environment `forging` with a folder, it forges one session there and prints what that cost.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from jobs.forging_frames import Imaging, VolumeClock, volume_clock

RATE, HOUR, DRIFT_PPM = 10.0, 3600, 50.0
POLLING_US = 1_500  # how late a pulse is seen at most
SEEDS = (101, 102, 103, 104, 105)
SIZES = ((3, 200, 3_000), (3, 500, 12_000))  # planes, ROIs of each, volumes: 5 and 20 min
Row = tuple[str, str, str]


def rows(python: Path, seeds: Sequence[int] = SEEDS) -> Iterator[Row]:
    """Yield what was measured: what, how much, and what was wanted.

    Args:
        python: interpreter of the environment `forging`.
        seeds: one run of each.
    """
    yield from alignment(seeds)
    yield from traced(python, seeds)
    for planes, rois, volumes in SIZES:
        cost = _forged(python, seeds[0], planes, rois, volumes)
        what = f"{planes} planes, {rois} ROIs each, {volumes / RATE / 60:g} min"
        yield what, f"{cost['seconds']:.1f} s, {cost['gigabytes']:.2f} GB of memory", ""


def alignment(seeds: Sequence[int]) -> Iterator[Row]:
    """Yield the largest error of a volume's time after an hour, in frames, over all seeds."""
    drifted, dropped, nominal = [], [], []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        period = 1e6 / RATE * (1 + (1 if seed % 2 else -1) * DRIFT_PPM / 1e6)
        true = 1_756_233_015_724_122 + np.arange(int(HOUR * RATE)) * period
        logged = np.rint(true + rng.integers(0, POLLING_US, len(true))).astype(np.int64)
        drifted.append(np.abs(_clock(logged, len(true)).times - true).max())
        lost = rng.choice(np.arange(1, len(true) - 1), 50, replace=False)
        dropped.append(np.abs(_clock(np.delete(logged, lost), len(true)).times - true).max())
        nominal.append(np.abs(logged[0] + np.arange(len(true)) * 1e6 / RATE - true).max())
    frames = [max(errors) * RATE / 1e6 for errors in (drifted, dropped, nominal)]
    what = f"alignment after an hour of {DRIFT_PPM:g} ppm, largest error"
    yield what, f"{frames[0]:.4f} frames", "< 0.5"
    yield f"{what}, 50 pulses lost", f"{frames[1]:.4f} frames", "< 0.5"
    yield f"{what}, if the nominal rate were taken", f"{frames[2]:.2f} frames", ""


def traced(python: Path, seeds: Sequence[int]) -> Iterator[Row]:
    """Yield how many values of NWB files were traced back, and how many are not as their sources have them."""
    found = [_forged(python, seed) for seed in seeds]
    values, wrong = (sum(run[key] for run in found) for key in ("values", "wrong"))
    yield "values of the NWB file that are not their source's", f"{wrong} of {values}", "0"
    yield "messages of pynwb.validate and the inspector", str(sum(run["messages"] for run in found)), "0"


def _clock(onsets: Any, volumes: int) -> VolumeClock:
    table = {"time_us": onsets.astype(np.uint64), "ttl_state": np.ones(len(onsets), np.uint8)}
    return volume_clock(pl.DataFrame(table), Imaging(volumes, RATE))


def _forged(python: Path, seed: int, *size: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [str(python), "-m", "benchmarks.science_forging", folder, str(seed), *map(str, size)]
        done = subprocess.run(command, cwd=Path(__file__).parents[1], check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Forge one session in a folder; print its cost and what its tracing found as JSON."""
    from jobs.forging_session import forge, problems_of
    from jobs.forging_sources import collect
    from tests.forging_session import SESSION, plant, plant_plane
    from trackers.forging_settings import ForgingSettings

    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("numbers", type=int, nargs="+", help="seed, and planes, ROIs and volumes if not the small ones")
    arguments = parser.parse_args()
    seed, *size = arguments.numbers
    paths = plant(arguments.folder, seed=seed)
    if size:
        planes, rois, volumes = size
        rng = np.random.default_rng(seed)
        for plane in range(planes):
            plant_plane(paths.processed_data / f"mesoscope_data/plane{plane + 10}", plane, rois, rng, volumes)
        for plane in range(2):
            (paths.processed_data / f"mesoscope_data/plane{plane}").rename(paths.processed_data / f"small{plane}")
        onsets = 1_756_233_015_724_122 + np.arange(volumes) * 100_000 + rng.integers(-500, 500, volumes)
        signal = {"time_us": onsets.astype(np.uint64), "ttl_state": np.ones(volumes, np.uint8)}
        pl.DataFrame(signal).write_ipc(paths.processed_data / "behavior_data/mesoscope_frame_data.feather")
    started = time.monotonic()
    forge(collect(paths), ForgingSettings("Mus musculus"), arguments.folder, datetime(2025, 9, 1, tzinfo=UTC))
    found: dict[str, Any] = {"seconds": time.monotonic() - started}
    found["gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    nwb = arguments.folder / f"{SESSION}.nwb"
    command = [sys.executable, "-m", "tests.forging_trace", str(nwb), str(paths.processed_data)]
    trace = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    found |= {"values": trace["values"], "wrong": len(trace["wrong"]) + len(trace["untraced"])}
    print(json.dumps({**found, "messages": len(problems_of(nwb))}))


if __name__ == "__main__":
    main()
