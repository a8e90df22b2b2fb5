"""What quality control measures on the registered movies: tenths of each plane, compared with each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from jobs.forging_sources import IMAGING, Array, Plane
from trackers.layout import SessionPaths

TENTHS = 10
FRAMES = 60  # read of each tenth, evenly spread: enough for a percentile, and bounds the time on long movies
QUIET = 30  # percentile of a pixel over a tenth: below most transients, above the noise of a minimum
MARGIN = 0.1  # of each side: registration moves frames in and out there
DRIFT = 4  # pixels that a tenth may lie beside another one
LEAST_RELIABILITY = 0.3  # correlation of a tenth's two halves; below, there is nothing but noise to compare


@dataclass(frozen=True)
class Movie:
    """One plane's registered movie, in tenths.

    Attributes:
        plane: its number.
        halves: (10, 2, y, x): a low percentile over the even and the odd frames of each tenth: transients hardly count.
        saturated: fraction of pixels, over all frames that were read, that have the highest value.
        highest: that value.
    """

    plane: int
    halves: Array
    saturated: float
    highest: int

    def similarity(self) -> float | None:
        """Return the lowest correlation between two tenths, freed of noise and of drift; None where all is noise.

        The noise is known from the two halves of one tenth, which show the same tissue. Drift, of which registration
        leaves some where it finds little to hold on to, is no other depth: tenths are compared where they fit best.
        """
        images = np.array([[_smooth(half) for half in tenth] for tenth in self.halves])
        still = _without_drift(images)
        even, odd = (still[:, half].reshape(len(still), -1) for half in (0, 1))
        with np.errstate(invalid="ignore", divide="ignore"):
            between = np.corrcoef(even, odd)[: len(even), len(even) :]
        reliability = np.diag(between)
        if not np.isfinite(between).all() or reliability.min() < LEAST_RELIABILITY:
            return None
        return float(np.clip((between / np.sqrt(np.outer(reliability, reliability))).min(), -1, 1))

    def loss(self) -> float:
        """Return the fraction of brightness lost from the first tenth to the last; negative where it grew."""
        brightness = self.halves.mean(axis=(1, 2, 3))
        first = float(brightness[0])
        return 1 - float(brightness[-1]) / first if first > 0 else 0.0


def movies(paths: SessionPaths, planes: tuple[Plane, ...]) -> list[Movie]:
    """Read the movies of all planes that still have one."""
    return list(_movies(paths.results / IMAGING, planes))


def _movies(folder: Path, planes: tuple[Plane, ...]) -> Iterator[Movie]:
    for plane in planes:
        path = folder / f"plane{plane.number}" / "data.bin"
        if plane.mean_image is None or not path.exists() or plane.frames < 4 * TENTHS:
            continue
        shape = (plane.frames, *plane.mean_image.shape)
        if path.stat().st_size == 2 * np.prod(shape):
            yield _movie(plane.number, np.memmap(path, np.int16, "r", shape=shape))


def _movie(number: int, frames: Array) -> Movie:
    edges = np.linspace(0, len(frames), TENTHS + 1).astype(int)
    y, x = (max(round(MARGIN * side), 1) for side in frames.shape[1:])
    halves, highest, at_highest, pixels = [], -(1 << 15), 0, 0
    for start, stop in pairwise(edges):
        chosen = np.unique(np.linspace(start, stop - 1, min(FRAMES, stop - start)).astype(int))
        read = np.asarray(frames[chosen])[:, y:-y, x:-x]
        top = int(read.max())
        if top > highest:
            highest, at_highest = top, 0
        at_highest += int((read == highest).sum())
        pixels += read.size
        halves.append([np.percentile(read[half::2], QUIET, axis=0) for half in (0, 1)])
    return Movie(number, np.array(halves), at_highest / pixels, highest)


def _without_drift(tenths: Array) -> Array:
    """Return tenths (10, 2, y, x), each moved by up to `DRIFT` pixels to where it fits the one in the middle best."""
    height, width = (side - 2 * DRIFT for side in tenths.shape[2:])
    reach = np.arange(-DRIFT, DRIFT + 1)
    spectra = np.fft.rfft2(tenths.sum(axis=1))
    found = []
    for tenth, spectrum in zip(tenths, spectra, strict=True):
        fit = np.fft.irfft2(spectra[len(spectra) // 2].conj() * spectrum, s=tenth.shape[1:])[np.ix_(reach, reach)]
        y, x = np.unravel_index(fit.argmax(), fit.shape)
        found.append(tenth[:, y : y + height, x : x + width])
    return np.array(found)


def _smooth(image: Array) -> Array:
    """Return the image averaged over 3 by 3 pixels, without its broad brightness, which bleaching and drift change."""
    fine, broad = _box(image, 3), _box(image, max(min(image.shape) // 4 | 1, 5))
    return fine - broad


def _box(image: Array, width: int) -> Array:
    reach = width // 2
    padded = np.pad(image.astype(float), reach, mode="edge")
    total = np.pad(padded.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    window: Array = total[width:, width:] - total[:-width, width:] - total[width:, :-width] + total[:-width, :-width]
    return window / width**2
