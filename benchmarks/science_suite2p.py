"""suite2p against a known truth: planted cells found again, their activity, time and memory of every stage.

Run in the environment `suite2p` with a folder and a stage, it does that stage there and prints what it cost.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

SEEDS = tuple(range(7001, 7006))
RIGID = {"registration.nonrigid": False}  # its blocks are 128 px, which is the whole image at CI size
COSTS = ("ci", "small")
Row = tuple[str, str, str]


def rows(python: Path, seeds: Sequence[int] = SEEDS, sizes: Sequence[str] = COSTS) -> Iterator[Row]:
    """Yield what was measured: what, how much, and what was wanted.

    A cell is found where suite2p accepts a ROI whose centre is within its radius; each counts once. Cells lie in the
    truth as at rest, and in suite2p's images as in its reference frame: what lies between is taken off.

    Args:
        python: interpreter of the environment `suite2p`.
        seeds: one recording of each, at CI size, of both physics.
        sizes: of which time and memory of every stage are told.
    """
    for physics in ("A", "B"):
        found = [_recording(python, "ci", physics, seed)["score"] for seed in seeds]
        active, right, accepted = (sum(score[key] for score in found) for key in ("active", "right", "accepted"))
        alike = np.concatenate([score["correlations"] for score in found])
        what = f"physics {physics}, {len(seeds)} seeds, {active} active cells"
        yield f"recall, {what}", f"{right / active:.3f}", "≥ 0.95"
        yield f"precision, {what}", f"{right / accepted:.3f}", "≥ 0.95"
        yield f"trace correlation, mean (lowest tenth), {what}", f"{alike.mean():.3f} ({_tenth(alike):.3f})", "≥ 0.95"
    for size in sizes:
        for stage, cost in _recording(python, size, "A", seeds[0])["costs"].items():
            yield f"{stage}, {size}", f"{cost['seconds']:.1f} s, {cost['gigabytes']:.2f} GB", ""


def score(found: Path, truth: dict[str, Any], plane: int, radius: float) -> dict[str, Any]:
    """Compare a plane's results with the truth: active cells, accepted ROIs, pairs of both, and how alike they are."""
    from scipy.optimize import linear_sum_assignment

    tables = {name: np.load(found / f"{name}.npy") for name in ("F", "Fneu", "iscell")}
    registered = np.load(found / "reg_outputs.npy", allow_pickle=True).item()
    rois = np.array([roi["med"] for roi in np.load(found / "stat.npy", allow_pickle=True)])
    accepted = np.flatnonzero(tables["iscell"][:, 0])
    cells = np.flatnonzero((truth["plane"] == plane) & truth["active"])
    offset = [np.median(registered[f"{axis}off"] - truth[f"motion_{axis}"][plane]) for axis in "yx"]
    places = np.stack([truth[axis][cells] for axis in "yx"], 1) - offset
    apart = np.linalg.norm(places[:, None] - rois[accepted], axis=2)
    pairs = np.stack(linear_sum_assignment(np.minimum(apart, radius)), 1)
    pairs = pairs[apart[*pairs.T] < radius]
    traces = (tables["F"] - 0.7 * tables["Fneu"])[accepted]
    alike = [float(np.corrcoef(traces[roi], truth["traces"][cells[cell]])[0, 1]) for cell, roi in pairs]
    return {"active": len(cells), "accepted": len(accepted), "right": len(pairs), "correlations": alike}


def _tenth(values: Any) -> float:
    return float(np.quantile(values, 0.1))


def _recording(python: Path, size: str, physics: str, seed: int) -> dict[str, Any]:
    """Make a recording and process it, each stage in a process of its own; return costs and score."""
    with tempfile.TemporaryDirectory() as folder:

        def stage(name: str) -> Any:
            words = [str(python), "-W", "ignore", "-m", "benchmarks.science_suite2p", folder, name, size, physics]
            words.append(str(seed))
            done = subprocess.run(words, cwd=Path(__file__).parents[1], check=True, capture_output=True, text=True)
            return json.loads(done.stdout.splitlines()[-1])

        stage("generate")
        costs = {name: stage(name) for name in ("binarize", "plane", "combine")}
        return {"costs": costs, "score": stage("score")}


def main() -> None:
    """Do one stage in a folder; print its cost, or the score, as JSON."""
    from jobs.generate_imaging import PHYSICS, SIZES, write_imaging

    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("stage", choices=("generate", "binarize", "plane", "combine", "score"))
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("physics", choices=PHYSICS)
    parser.add_argument("seed", type=int)
    arguments = parser.parse_args()
    paths: Any = SimpleNamespace(source_data=arguments.folder / "source")
    source, output = paths.source_data / "mesoscope_data", arguments.folder / "processed_data" / "mesoscope_data"
    planes, physics = range(SIZES[arguments.size].planes), PHYSICS[arguments.physics]
    if arguments.stage == "generate":
        source.mkdir(parents=True)
        truth = write_imaging(source, SIZES[arguments.size], physics, arguments.seed, 0)
        np.savez(arguments.folder / "truth.npz", **truth)
        print("{}")
    elif arguments.stage == "score":
        with np.load(arguments.folder / "truth.npz") as file:
            truth = dict(file)
        scores = [score(output / f"plane{n}", truth, n, physics.radius) for n in planes]
        print(json.dumps({key: sum((s[key] for s in scores[1:]), scores[0][key]) for key in scores[0]}))
    else:
        print(json.dumps(_cost(arguments.stage, paths, output, len(planes))))


def _cost(stage: str, paths: Any, output: Path, planes: int) -> dict[str, float]:
    """Do a stage, of all planes one after the other; return the seconds of one and the most memory."""
    import jobs.torchvision_operators  # noqa: F401
    from jobs import suite2p
    from trackers.mesoscope import read_mesoscope

    settings = suite2p.settings_of(RIGID, read_mesoscope(paths.source_data / "mesoscope_data" / "ops.json"))
    started, times = time.monotonic(), 1
    if stage == "binarize":
        suite2p.binarize(paths, output, settings)
    elif stage == "combine":
        suite2p.combine(output, planes)
    else:
        times = planes
        for number in range(planes):
            suite2p.plane(output, number, settings)
    seconds = (time.monotonic() - started) / times
    return {"seconds": seconds, "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}


if __name__ == "__main__":
    main()
