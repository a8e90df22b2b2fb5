"""suite2p against a known truth, planted cells found again and their activity; and against suite2p in one process.

It runs itself in the environment `suite2p`, and prints there how well cells were found.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from jobs.generate_imaging import PHYSICS, SIZES, write_imaging
from tests.suite2p_direct import call, differing, planes_of

SEEDS = tuple(range(7001, 7006))
RIGID = {"registration.nonrigid": False}  # its blocks are 128 px, which is the whole image at CI size
OUTPUT = Path("processed_data") / "mesoscope_data"
Row = tuple[str, str, str]


def rows(python: Path, seeds: Sequence[int] = SEEDS) -> Iterator[Row]:
    """Yield what was measured: what, how much, and what was wanted.

    A cell is found where suite2p accepts a ROI whose centre is within its radius; each counts once. Cells lie in the
    truth as at rest, and in suite2p's images as in its reference frame: what lies between is taken off.

    Args:
        python: interpreter of the environment `suite2p`.
        seeds: one recording of each, at CI size, of both physics.
    """
    for physics in ("A", "B"):
        found = json.loads(_said(python, physics, *seeds).splitlines()[-1])
        what = f"physics {physics}, {len(seeds)} seeds, {found['active']} active cells"
        yield f"recall, {what}", f"{found['right'] / found['active']:.3f}", "≥ 0.95"
        yield f"precision, {what}", f"{found['right'] / found['accepted']:.3f}", "≥ 0.95"
        alike = np.array(found["correlations"])
        lowest = np.quantile(alike, 0.1)
        yield f"trace correlation, mean (lowest tenth), {what}", f"{alike.mean():.3f} ({lowest:.3f})", "≥ 0.95"
        yield (
            f"planes that are not suite2p's in one process, physics {physics}",
            (f"{found['other']} of {found['planes']}, with {found['rois']} ROIs"),
            "0",
        )


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
    _said(python, physics, seed, "--folder", folder, "--days", days)
    return [folder / str(day) / OUTPUT for day in range(days)]


def _said(python: Path, *words: object) -> str:
    """Run this module in the environment; return what it printed."""
    command = [str(python), "-W", "ignore", "-m", "benchmarks.science_suite2p", *map(str, words)]
    return subprocess.run(command, cwd=Path(__file__).parents[1], check=True, capture_output=True, text=True).stdout


class Recording:
    """A generated recording of CI size in a folder, and our jobs' functions that process it."""

    def __init__(self, folder: Path, physics: str) -> None:
        self.folder, self.size, self.physics = folder, SIZES["ci"], PHYSICS[physics]
        self.paths: Any = SimpleNamespace(source_data=folder / "source")
        self.source = self.paths.source_data / "mesoscope_data"
        self.output = folder / OUTPUT

    def generate(self, seed: int, day: int = 0) -> dict[str, Any]:
        """Write the recording of one of an animal's days; return the truth."""
        self.source.mkdir(parents=True)
        return write_imaging(self.source, self.size, self.physics, seed, day)

    def process(self) -> None:
        """Do all stages, planes one after the other."""
        import jobs.torchvision_operators  # noqa: F401
        from jobs import suite2p
        from trackers.mesoscope import read_mesoscope

        settings = suite2p.settings_of(RIGID, read_mesoscope(self.source / "ops.json"))
        suite2p.binarize(self.paths, self.output, settings)
        for number in range(self.size.planes):
            suite2p.plane(self.output, number, settings)
        suite2p.combine(self.output, self.size.planes)

    def score(self, seed: int) -> dict[str, Any]:
        """Generate, process and compare, with the truth and with suite2p by itself; return the sums over all planes."""
        truth = self.generate(seed)
        self.process()
        found = _sum(score(self.output / f"plane{n}", truth, n, self.physics.radius) for n in range(self.size.planes))
        ours, theirs = (planes_of(each, self.size.planes) for each in (self.output, call(self.source, self.folder)))
        other = sum(bool(differing(*pair)) for pair in zip(ours, theirs, strict=True))
        return {**found, "other": other, "planes": len(ours), "rois": sum(len(plane["stat"]) for plane in ours)}


def _sum(scores: Iterable[dict[str, Any]]) -> dict[str, Any]:
    first, *others = scores
    return {key: sum((other[key] for other in others), first[key]) for key in first}


def _score_of_seed(physics: str, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return Recording(Path(folder), physics).score(seed)


def main() -> None:
    """Print the score of all seeds, summed; or, with a folder, only find the cells of an animal's days there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("physics", choices=PHYSICS)
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--days", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.folder is None:
        print(json.dumps(_sum(_score_of_seed(arguments.physics, seed) for seed in arguments.seeds)))
        return
    for day in range(arguments.days):
        recording = Recording(arguments.folder.resolve() / str(day), arguments.physics)
        truth = recording.generate(arguments.seeds[0], day)
        recording.process()
        np.savez(recording.output / "truth.npz", **truth)


if __name__ == "__main__":
    main()
