"""suite2p against a known truth: planted cells found again, their activity, time and memory of every stage.

It runs itself in the environment `suite2p`, and prints there what a stage cost, or how well cells were found.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from jobs.generate_imaging import PHYSICS, SIZES, write_imaging

SEEDS = tuple(range(7001, 7006))
RIGID = {"registration.nonrigid": False}  # its blocks are 128 px, which is the whole image at CI size
COSTS = ("ci", "small")
STAGES = ("binarize", "plane", "combine")
OUTPUT = Path("processed_data") / "mesoscope_data"
Row = tuple[str, str, str]


def rows(python: Path, seeds: Sequence[int] = SEEDS, sizes: Sequence[str] = COSTS) -> Iterator[Row]:
    """Yield what was measured: what, how much, and what was wanted.

    A cell is found where suite2p accepts a ROI whose centre is within its radius; each counts once. Cells lie in the
    truth as at rest, and in suite2p's images as in its reference frame: what lies between is taken off.

    Args:
        python: interpreter of the environment `suite2p`.
        seeds: one recording of each, at CI size, of both physics.
        sizes: of which time and memory of every stage are told, imports included.
    """
    for physics in ("A", "B"):
        found = _run(python, "score", "ci", physics, *seeds)
        what = f"physics {physics}, {len(seeds)} seeds, {found['active']} active cells"
        yield f"recall, {what}", f"{found['right'] / found['active']:.3f}", "≥ 0.95"
        yield f"precision, {what}", f"{found['right'] / found['accepted']:.3f}", "≥ 0.95"
        alike = np.array(found["correlations"])
        lowest = np.quantile(alike, 0.1)
        yield f"trace correlation, mean (lowest tenth), {what}", f"{alike.mean():.3f} ({lowest:.3f})", "≥ 0.95"
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            for stage in ("generate", *STAGES):
                cost = _run(python, stage, size, "A", seeds[0], folder=folder)
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


def detect(python: Path, folder: Path, physics: str, seed: int, days: int) -> list[Path]:
    """Have suite2p find the cells of an animal's days at CI size; return their folders.

    Below each are suite2p's `planeN` and the truth, `truth.npz`.
    """
    for day in range(days):
        _run(python, "day", "ci", physics, seed, folder=str(folder / str(day)), day=day)
    return [folder / str(day) / OUTPUT for day in range(days)]


def _run(
    python: Path, stage: str, size: str, physics: str, *seeds: int, folder: str = ".", day: int = 0
) -> dict[str, Any]:
    """Do a stage in a process of its own; return what it printed."""
    words = [str(python), "-W", "ignore", "-m", "benchmarks.science_suite2p", stage, size, physics, *map(str, seeds)]
    here = Path(__file__).parents[1]
    words += ["--folder", folder, "--day", str(day)]
    done = subprocess.run(words, cwd=here, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


class Recording:
    """A generated recording in a folder, and the stages that process it."""

    def __init__(self, folder: Path, size: str, physics: str) -> None:
        self.folder, self.size, self.physics = folder, SIZES[size], PHYSICS[physics]
        self.paths: Any = SimpleNamespace(source_data=folder / "source")
        self.source = self.paths.source_data / "mesoscope_data"
        self.output = folder / OUTPUT

    def generate(self, seed: int, day: int = 0) -> dict[str, Any]:
        """Write the recording; return the truth."""
        self.source.mkdir(parents=True)
        return write_imaging(self.source, self.size, self.physics, seed, day)

    def process(self, stage: str) -> None:
        """Do a stage, of all planes one after the other."""
        import jobs.torchvision_operators  # noqa: F401
        from jobs import suite2p
        from trackers.mesoscope import read_mesoscope

        settings = suite2p.settings_of(RIGID, read_mesoscope(self.source / "ops.json"))
        if stage == "binarize":
            suite2p.binarize(self.paths, self.output, settings)
        elif stage == "combine":
            suite2p.combine(self.output, self.size.planes)
        else:
            for number in range(self.size.planes):
                suite2p.plane(self.output, number, settings)

    def day(self, seed: int, day: int) -> None:
        """Generate and process a day of an animal, and keep the truth beside the planes."""
        truth = self.generate(seed, day)
        for stage in STAGES:
            self.process(stage)
        np.savez(self.output / "truth.npz", **truth)

    def score(self, seed: int) -> dict[str, Any]:
        """Generate, process and compare; return the sums over all planes."""
        truth = self.generate(seed)
        for stage in STAGES:
            self.process(stage)
        planes = range(self.size.planes)
        return _sum(score(self.output / f"plane{n}", truth, n, self.physics.radius) for n in planes)


def _sum(scores: Iterable[dict[str, Any]]) -> dict[str, Any]:
    first, *others = scores
    return {key: sum((other[key] for other in others), first[key]) for key in first}


def _score_of_seed(size: str, physics: str, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return Recording(Path(folder), size, physics).score(seed)


def main() -> None:
    """Do one stage, of all planes together, or a whole day, and print its cost; or print the score of all seeds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("stage", choices=("generate", *STAGES, "day", "score"))
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("physics", choices=PHYSICS)
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--day", type=int, default=0)
    arguments = parser.parse_args()
    size, physics, seeds = arguments.size, arguments.physics, arguments.seeds
    if arguments.stage == "score":
        print(json.dumps(_sum(_score_of_seed(size, physics, seed) for seed in seeds)))
        return
    recording, started = Recording(arguments.folder.resolve(), size, physics), time.monotonic()
    if arguments.stage == "generate":
        recording.generate(seeds[0])
    elif arguments.stage == "day":
        recording.day(seeds[0], arguments.day)
    else:
        recording.process(arguments.stage)
    cost = {"seconds": time.monotonic() - started}
    print(json.dumps(cost | {"gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}))


if __name__ == "__main__":
    main()
