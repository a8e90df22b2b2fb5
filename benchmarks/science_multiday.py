"""Multi-day tracking against a known truth, beside track2p 0.6.2 on the same days; by seeds kept for this."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from benchmarks.science_suite2p import Row, detect
from jobs.generate_imaging import PHYSICS, SIZES
from jobs.multiday_planes import Plane, read_plane
from tests.planted_days import cells_of, plant, score

SEEDS = tuple(range(8101, 8106))
DAYS, PIXELS, CELLS = (3, 5, 10), 256, 200
DETECTED_DAYS = (3, 5)  # whose cells suite2p finds, at CI size
COVERED = 0.5  # overlap (Jaccard) from which a ROI is a cell's: one that covers two cells is neither's
WANTED = "≥ 0.95, ≤ 0.005"
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
Case = tuple[Sequence[Plane], Sequence[Any]]  # a plane on each day, and the true cell of each of its masks
Tracker = Callable[[Sequence[Plane]], list[list[int]]]


def rows(python: Path, seeds: Sequence[int] = SEEDS) -> Iterator[Row]:
    """Yield what was measured: what, how much, and what was wanted; pooled over the seeds.

    *Tracked*: of the cells that were detected on all days, those that are one cell on all days; *errors*: of the
    tracked masks, those that are not of the true cell of most masks of their cell; *no cells*: masks tracked together
    none of which is a planted cell's, left out of the errors: bright neuropil that suite2p takes for a cell on
    several days is the same thing again.

    Args:
        python: interpreter of the environment `suite2p`, for days whose cells suite2p finds; without it they are left
            out.
        seeds: one plane of each with planted outlines, two planes with suite2p's cells; of both physics.
    """
    for days in DAYS:
        for physics in PHYSICS:
            yield from _rows(f"{days} days, physics {physics}", [_planted(seed, days, physics) for seed in seeds])
    if not python.exists():
        yield "suite2p's own cells", "not run: no environment suite2p", WANTED
        return
    for physics in PHYSICS:
        found = [case for seed in seeds for case in _detected(python, seed, physics)]
        for days in DETECTED_DAYS:
            cases = [(planes[:days], ids[:days]) for planes, ids in found]
            yield from _rows(f"suite2p's own cells, {days} days, physics {physics}", cases)


def _rows(what: str, cases: Sequence[Case]) -> Iterator[Row]:
    yield f"sessionflow, {what}", _pooled(cells_of, cases), WANTED
    if os.environ.get(TRACK2P):
        yield f"track2p, {what}", _pooled(_track2p, cases), ""
    else:
        yield f"track2p, {what}", f"not run: {TRACK2P} names no environment with track2p==0.6.2", ""


def _pooled(tracker: Tracker, cases: Sequence[Case]) -> str:
    began, total = time.perf_counter(), dict.fromkeys(("detected", "tracked", "masks", "wrong", "strange"), 0)
    for planes, ids in cases:
        for key, value in score(ids, tracker(planes)).items():
            total[key] += value
    seconds = (time.perf_counter() - began) / len(cases)
    return (
        f"tracked {total['tracked'] / max(1, total['detected']):.3f} ({total['tracked']} of {total['detected']}), "
        f"errors {total['wrong'] / max(1, total['masks']):.4f} ({total['wrong']} of {total['masks']}), "
        f"no cells {total['strange']}, {seconds:.1f} s a plane"
    )


def _planted(seed: int, days: int, physics: str) -> Case:
    found = plant(seed, days, PIXELS, CELLS, physics)
    return [day.plane for day in found], [day.ids for day in found]


def _detected(python: Path, seed: int, physics: str) -> Iterator[Case]:
    """Yield each plane of generated movies in which suite2p has found the cells."""
    with tempfile.TemporaryDirectory() as name:
        folders = detect(python, Path(name), physics, seed, max(DETECTED_DAYS))
        truths = [np.load(folder / "truth.npz") for folder in folders]
        for number in range(SIZES["ci"].planes):
            places = [folder / f"plane{number}" for folder in folders]
            yield (
                [read_plane(place) for place in places],
                [true_cells(place, truth, number) for place, truth in zip(places, truths, strict=True)],
            )


def true_cells(found: Path, truth: Any, number: int) -> Any:
    """Return the true cell of each accepted ROI of a plane, -1 for none; a cell has one ROI at most, its best."""
    masks, shape = read_plane(found).masks, read_plane(found).shape
    registered = np.load(found / "reg_outputs.npy", allow_pickle=True).item()
    offset = [round(float(np.median(registered[f"{a}off"] - truth[f"motion_{a}"][number]))) for a in "yx"]
    cells = truth["cell"][truth["plane"] == number]
    y, x = truth["mask_y"] - offset[0], truth["mask_x"] - offset[1]
    kept = np.isin(truth["mask_cell"], cells) & (np.minimum(y, x) >= 0) & (y < shape[0]) & (x < shape[1])
    where = (np.searchsorted(cells, truth["mask_cell"][kept]), y[kept] * shape[1] + x[kept])
    planted = sparse.csr_array((np.ones(kept.sum()), where), shape=(len(cells), masks.shape[1]))
    common = (masks @ planted.T).toarray()
    overlap = common / (masks.sum(axis=1)[:, None] + planted.sum(axis=1) - common)
    ids = np.full(masks.shape[0], -1)
    best = overlap.argmax(axis=0)
    sure = overlap[best, np.arange(len(cells))] >= COVERED
    ids[best[sure]] = cells[sure]
    return ids


def _track2p(planes: Sequence[Plane]) -> list[list[int]]:
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / f"day{n}" for n in range(len(planes))]
        for folder, plane in zip(folders, planes, strict=True):
            _as_suite2p(folder / "suite2p" / "plane0", plane)
        words = [os.environ[TRACK2P], "-c", _PROGRAM, name, *map(str, folders)]
        subprocess.run(words, check=True, capture_output=True, env={**os.environ, "MPLBACKEND": "Agg"})
        matches = np.load(Path(name) / "track2p" / "plane0_match_mat.npy", allow_pickle=True)
    cells = [[-1] * len(plane.rois) for plane in planes]
    for cell, members in enumerate(matches):
        if sum(mask is not None for mask in members) > 1:
            for day, mask in enumerate(members):
                if mask is not None:
                    cells[day][int(mask)] = cell
    return cells


def _as_suite2p(folder: Path, plane: Plane) -> None:
    """Write what track2p reads of a plane."""
    folder.mkdir(parents=True)
    stat = []
    for n in range(len(plane.rois)):
        y, x = np.unravel_index(plane.masks[[n]].indices, plane.shape)
        stat.append({"ypix": y, "xpix": x, "lam": np.ones(len(y)), "med": [np.median(y), np.median(x)], "npix": len(y)})
    height, width = plane.shape
    np.save(folder / "stat.npy", np.array(stat, object))
    np.save(folder / "iscell.npy", np.ones((len(stat), 2)))
    np.save(folder / "ops.npy", {"meanImg": plane.image, "nchannels": 1, "Ly": height, "Lx": width})
