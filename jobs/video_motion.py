"""Motion energy of a movie and its leading components, read twice from beginning to end in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
from numpy.typing import NDArray

from jobs.program import Progress
from trackers.errors import SessionDataError

Array = NDArray[Any]

LONGEST_PX = 100  # side of the images that motion is found in
BLOCK = 500  # frames at once
KEPT = 40  # components that are carried from block to block
SMALLEST = 1e-6  # of the largest component's size, below which there is none
_REMEDY = "Restore it from the acquisition computer; if raw_data has it whole, copy it anew: run preparation again."


def motion(movie: Path, components: int) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Return `motion_energy`, `component_1` … of each frame, and how they were made.

    Motion energy is the mean over pixels of how much the grey level differs from the frame before, in images of at
    most half the movie's size; the first frame's is 0. Components are principal components of the images of those
    differences, the strongest first.

    Raises:
        SessionDataError: the movie is broken or has no frames; nothing was written.
    """
    said = _properties(movie)
    progress = Progress(max(2 * int(said["frames_declared"]), 1), "frames")
    energy, found, frames = [0.0], _Components(), 1
    for block in _differences(movie, energy):
        found.add(block)
        frames += len(block)
        progress.show(frames)
    if frames == 1 and not said["readable"]:
        raise SessionDataError(f"{movie} has no frame that can be read. Nothing was written. {_REMEDY}")
    axes, explained = found.leading(components)
    scores = [np.zeros((1, len(axes)))]
    for block in _differences(movie, []):
        scores.append((block - found.mean) @ axes.T)
        progress.show(frames + sum(map(len, scores)))
    values = np.concatenate(scores)
    columns = {f"component_{n + 1}": values[:, n].astype(np.float32) for n in range(len(axes))}
    about = {key: said[key] for key in ("width", "height", "frames_a_second")}
    about |= {"ran": "motion energy", "explained_variance": [round(float(part), 6) for part in explained]}
    if 0 < said["frames_declared"] != frames:
        about["notes"] = [f"{movie.name} declares {said['frames_declared']} frames, and {frames} can be read"]
    return pl.DataFrame({"motion_energy": np.array(energy, np.float32), **columns}), about


def _properties(movie: Path) -> dict[str, Any]:
    """Return what a movie says of itself, and whether its first frame can be read."""
    if movie.stat().st_size == 0:
        raise SessionDataError(f"{movie} is empty. Nothing was written. {_REMEDY}")
    file = cv2.VideoCapture(str(movie))
    try:
        if not file.isOpened():
            raise SessionDataError(f"{movie} is broken: OpenCV cannot open it. Nothing was written. {_REMEDY}")
        declared = max(int(file.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        return {
            "width": int(file.get(cv2.CAP_PROP_FRAME_WIDTH)),
            "height": int(file.get(cv2.CAP_PROP_FRAME_HEIGHT)),
            "frames_a_second": round(float(file.get(cv2.CAP_PROP_FPS)), 3),
            "frames_declared": declared,
            "readable": file.read()[0],
        }
    finally:
        file.release()


def _differences(movie: Path, energy: list[float]) -> Iterator[Array]:
    """Give blocks (frames, pixels) of how much frames differ from those before; appends each one's mean to a list."""
    file, before = cv2.VideoCapture(str(movie)), None
    block: list[Array] = []
    try:
        while True:
            read, frame = file.read()
            if not read:
                break
            now = _small(frame)
            if before is not None:
                block.append(np.abs(now - before).ravel())
                energy.append(float(block[-1].mean(dtype=np.float64)))
            before = now
            if len(block) == BLOCK:
                yield np.array(block, np.float64)
                block = []
    finally:
        file.release()
    if block:
        yield np.array(block, np.float64)


def _small(frame: Array) -> Array:
    """Return a frame in grey, each pixel the mean of several: the camera's noise and the codec's average out."""
    grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) if frame.ndim == 3 else frame
    scale = min(LONGEST_PX / max(grey.shape), 0.5)
    return cv2.resize(grey.astype(np.float32), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


class _Components:
    """Principal components of images that come in blocks: what is known so far stands for all blocks before.

    Ross, Lim, Lin, Yang, Incremental learning for robust visual tracking (2008): the new block, the components so far
    by their size, and the step between the two means are one matrix, whose components are those of all.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: Any = 0.0
        self.total = 0.0  # variance, summed over pixels and frames
        self.sized: Array = np.zeros((0, 0))

    def add(self, block: Array) -> None:
        """Take in a block of images (frames, pixels)."""
        mean = block.mean(axis=0)
        rows, both = [block - mean], self.count + len(block)
        self.total += float(np.square(rows[0]).sum())
        if self.count:
            step = np.sqrt(self.count * len(block) / both) * (self.mean - mean)
            self.total += float(np.square(step).sum())
            rows += [self.sized, step[None]]
        stack = np.concatenate(rows)
        _, vectors = np.linalg.eigh(stack @ stack.T)
        self.sized = vectors[:, ::-1][:, :KEPT].T @ stack
        self.mean = (self.count * self.mean + len(block) * mean) / both
        self.count = both

    def leading(self, most: int) -> tuple[Array, Array]:
        """Return unit components (components, pixels) and each one's part of the variance; fewer where there are."""
        sizes = np.linalg.norm(self.sized, axis=1)
        there = sizes > SMALLEST * max(sizes.max(initial=0.0), SMALLEST)
        sizes, axes = sizes[there][:most], self.sized[there][:most]
        if not len(sizes):
            return np.zeros((0, np.size(self.mean))), sizes
        axes = axes / sizes[:, None]
        strongest = axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)]
        return axes * np.sign(strongest)[:, None], sizes**2 / self.total
