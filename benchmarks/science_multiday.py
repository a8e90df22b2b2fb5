"""Multi-day tracking against a known truth, beside track2p 0.6.2 on the same days; by seeds kept for this."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jobs.multiday_registration import register
from jobs.multiday_tracking import moved, track
from tests.planted_days import Day, plant, score

SEEDS = tuple(range(9001, 9006))
CASES = ((3, 128, 16), (5, 256, 60), (10, 256, 80))  # days, pixels, cells
TRACK2P = "SESSIONFLOW_TRACK2P"  # names the interpreter of an environment with track2p==0.6.2
_PROGRAM = """
import sys
from track2p.ops.default import DefaultTrackOps
from track2p.t2p import run_t2p
import track2p.t2p as t2p
for name in dir(t2p):
    if name.startswith("plot_"):
        setattr(t2p, name, lambda *args, **kwargs: None)
ops = DefaultTrackOps()
ops.all_ds_path, ops.save_path, ops.transform_type = sys.argv[2:], sys.argv[1], "nonrigid"
ops.iou_dist_thr = 16
run_t2p(ops)
"""
Tracker = Callable[[Sequence[Day]], list[list[int]]]


def rows(seeds: Iterable[int] = SEEDS, cases: Sequence[tuple[int, int, int]] = CASES) -> list[dict[str, Any]]:
    """Return a row for each tracker, physics and number of days, pooled over the seeds.

    `recall`: of the cells that were detected on all days, the part that is one cell on all days; `errors`: of the
    tracked masks, the part that is not of the true cell of most masks of its cell; `seconds` for one plane of all days.
    """
    python = os.environ.get(TRACK2P, "")
    trackers: dict[str, Tracker | None] = {"sessionflow": _ours, "track2p": _track2p if python else None}
    found = []
    for days, size, cells in cases:
        for physics in ("A", "B"):
            planted = [plant(seed, days, size, cells, physics) for seed in seeds]
            for name, tracker in trackers.items():
                row: dict[str, Any] = {"tracker": name, "physics": physics, "days": days, "pixels": size}
                if tracker is None:
                    found.append({**row, "words": f"not run: {TRACK2P} names no environment with track2p==0.6.2"})
                else:
                    found.append({**row, **_pooled(tracker, planted)})
    return found


def _pooled(tracker: Tracker, planted: Sequence[Sequence[Day]]) -> dict[str, Any]:
    began, total = time.perf_counter(), dict.fromkeys(("detected", "tracked", "masks", "wrong"), 0)
    for days in planted:
        for key, value in score(list(days), tracker(days)).items():
            total[key] += value
    return {
        **total,
        "recall": total["tracked"] / max(1, total["detected"]),
        "errors": total["wrong"] / max(1, total["masks"]),
        "seconds": (time.perf_counter() - began) / len(planted),
    }


def _ours(days: Sequence[Day]) -> list[list[int]]:
    found = register([day.plane.image for day in days])
    common = [moved(day.plane.masks, r.positions, day.plane.shape) for day, r in zip(days, found, strict=True)]
    return [[mask.cell for mask in masks] for masks in track(common)]


def _track2p(days: Sequence[Day]) -> list[list[int]]:
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / f"day{n}" for n in range(len(days))]
        for folder, day in zip(folders, days, strict=True):
            _as_suite2p(folder / "suite2p" / "plane0", day)
        words = [os.environ[TRACK2P], "-c", _PROGRAM, name, *map(str, folders)]
        subprocess.run(words, check=True, capture_output=True, env={**os.environ, "MPLBACKEND": "Agg"})
        matches = np.load(Path(name) / "track2p" / "plane0_match_mat.npy", allow_pickle=True)
    cells = [[-1] * len(day.ids) for day in days]
    for cell, members in enumerate(matches):
        if sum(mask is not None for mask in members) > 1:
            for day, mask in enumerate(members):
                if mask is not None:
                    cells[day][int(mask)] = cell
    return cells


def _as_suite2p(folder: Path, day: Day) -> None:
    """Write what track2p reads of a plane."""
    folder.mkdir(parents=True)
    stat = []
    for n in range(len(day.ids)):
        y, x = np.unravel_index(day.plane.masks[[n]].indices, day.plane.shape)
        stat.append({"ypix": y, "xpix": x, "lam": np.ones(len(y)), "med": [np.median(y), np.median(x)], "npix": len(y)})
    height, width = day.plane.shape
    np.save(folder / "stat.npy", np.array(stat, object))
    np.save(folder / "iscell.npy", np.ones((len(stat), 2)))
    np.save(folder / "ops.npy", {"meanImg": day.plane.image, "nchannels": 1, "Ly": height, "Lx": width})


def main() -> None:
    """Print the rows."""
    for row in rows():
        print(
            ", ".join(
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
            )
        )


if __name__ == "__main__":
    main()
