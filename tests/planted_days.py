"""Days with planted cells: the same ones shifted, turned, warped and partly absent; images, masks and movies."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage, sparse

from jobs.multiday import tracked_plane
from jobs.multiday_planes import Plane
from jobs.multiday_registration import register

REACH = 20  # px, further than any cell from its middle


@dataclass(frozen=True)
class Day:
    """One day of one plane.

    Attributes:
        plane: mean image and detected masks, as suite2p would leave them.
        ids: the true cell of each mask; -1 for what is no cell.
        footprints: (cells, pixels), of every cell that is there; `cells` numbers them.
        base: (2, height, width), the place of each pixel in the first day's frame.
    """

    plane: Plane
    ids: np.ndarray
    footprints: sparse.csr_array
    cells: np.ndarray
    base: np.ndarray


def plant(
    seed: int, days: int, size: int = 128, cells: int = 16, physics: str = "A", missing: float = 0.15
) -> list[Day]:
    """Plant cells at least 10 px apart; rotation to 3 degrees, shifts to 10 px, smooth warps to 3 px."""
    draw = np.random.default_rng(seed)
    centres = _centres(draw, size, cells)
    looks = _Looks(draw, len(centres), physics)
    background = ndimage.gaussian_filter(draw.normal(size=(size + 80, size + 80)), 8 if physics == "A" else 5)
    background /= background.std()
    found = []
    for day in range(days):
        base = _frame(draw, size, still=day == 0)
        there = np.flatnonzero(draw.random(len(centres)) > missing)
        pieces = {int(n): looks.at(n, base, centres[n]) for n in there}
        pieces = {n: piece for n, piece in pieces.items() if piece.shape.sum() > 12}
        there, shapes = np.array(list(pieces)), _rows([(p.pixels, p.shape.ravel()) for p in pieces.values()], size)
        light = looks.bright[there] * draw.lognormal(0, 0.3, len(there))
        image = 1 + 0.15 * ndimage.map_coordinates(background, base + 40, order=1, mode="nearest")
        image = (image + (light @ shapes).reshape(size, size)) * draw.uniform(0.6, 1.5)
        image = ndimage.gaussian_filter(image + 0.05 * draw.normal(size=image.shape), 0.6).astype(np.float32)
        masks, ids = _detected(draw, pieces, size)
        found.append(Day(_plane(image, masks), ids, shapes, there, base))
    return found


def _centres(draw: np.random.Generator, size: int, cells: int) -> np.ndarray:
    centres: list[np.ndarray] = []
    for _ in range(20_000):
        new = draw.uniform(-5, size + 5, 2)
        if all(np.hypot(*(new - c)) >= 10.0 for c in centres):
            centres.append(new)
        if len(centres) == cells:
            break
    return np.array(centres)


@dataclass(frozen=True)
class _Piece:
    """A cell in the part of the field around it: the part's pixels, and how bright the cell is there."""

    pixels: np.ndarray
    shape: np.ndarray


class _Looks:
    """The shape and brightness of each cell: full discs (A), or rings with a dim middle (B)."""

    def __init__(self, draw: np.random.Generator, count: int, physics: str) -> None:
        self.physics = physics
        self.radius = draw.uniform(3.5, 5.5, count) if physics == "A" else draw.uniform(4.0, 6.5, count)
        self.long, self.angle = draw.uniform(0.75, 1.3, count), draw.uniform(0, np.pi, count)
        self.bright = draw.lognormal(0, 0.5, count)

    def at(self, n: int, base: np.ndarray, centre: np.ndarray) -> _Piece:
        """Return how a cell looks where `base` has the first day's place of each pixel."""
        away = np.hypot(*(base - centre[:, None, None]))
        middle = np.unravel_index(np.argmin(away), away.shape)
        rows, columns = (slice(max(0, int(at) - REACH), int(at) + REACH + 1) for at in middle)
        y, x = base[:, rows, columns] - centre[:, None, None]
        c, s = np.cos(self.angle[n]), np.sin(self.angle[n])
        away = np.hypot((c * y + s * x) / self.long[n], (c * x - s * y) * self.long[n]) / self.radius[n]
        if self.physics == "A":
            shape = np.exp(-0.7 * away**4)
        else:
            shape = np.minimum(1.0, np.exp(-(((away - 0.7) / 0.35) ** 2)) + 0.5 * (away < 0.7))
        pixels = np.arange(base[0].size).reshape(base[0].shape)[rows, columns].ravel()
        return _Piece(pixels, np.where(away < (2.0 if self.physics == "A" else 1.3), shape, 0.0))


def _frame(draw: np.random.Generator, size: int, *, still: bool) -> np.ndarray:
    y, x = np.mgrid[:size, :size].astype(float)
    angle, shift = np.deg2rad(draw.uniform(-3, 3)), draw.uniform(-10, 10, 2)
    warp = np.stack([ndimage.gaussian_filter(draw.normal(size=(size, size)), 60, mode="reflect") for _ in range(2)])
    warp *= draw.uniform(1.5, 3.0) / np.abs(warp).max()
    if still:
        return np.stack([y, x])
    middle = (size - 1) / 2
    y, x = y - middle, x - middle
    turned = np.stack([np.cos(angle) * y - np.sin(angle) * x, np.sin(angle) * y + np.cos(angle) * x])
    return np.asarray(turned + middle + shift[:, None, None] + warp)


def _detected(draw: np.random.Generator, pieces: dict[int, _Piece], size: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Return masks with ragged rims, of which some are missed, and some that are no cells; in random order."""
    masks, ids = [], []
    for cell, piece in pieces.items():
        shape = piece.shape
        ragged = ndimage.gaussian_filter(draw.normal(size=shape.shape), 1.2)
        label, count = ndimage.label(shape + 0.18 * ragged / ragged.std() * (shape > 0.05) > draw.uniform(0.3, 0.55))
        if count and draw.random() > 0.04:
            mask = piece.pixels[label.ravel() == 1 + np.argmax(np.bincount(label.ravel())[1:])]
            if len(mask) >= 12:
                masks.append(mask)
                ids.append(cell)
    y, x = np.mgrid[:size, :size]
    for _ in range(max(1, len(pieces) // 30)):
        centre = draw.uniform(5, size - 5, 2)
        masks.append(np.flatnonzero(np.hypot(y - centre[0], x - centre[1]) < draw.uniform(3, 5)))
        ids.append(-1)
    order = draw.permutation(len(masks))
    return [masks[n] for n in order], np.array(ids)[order]


def _plane(image: np.ndarray, masks: list[np.ndarray]) -> Plane:
    matrix = _rows([(mask, np.ones(len(mask), np.float32)) for mask in masks], len(image))
    return Plane(image, np.arange(len(masks)), matrix, matrix)


def _rows(entries: list[tuple[np.ndarray, np.ndarray]], size: int) -> sparse.csr_array:
    """Return the matrix whose rows have these values at these pixels."""
    pixels, values = (np.concatenate(each) for each in zip(*entries, strict=True))
    rows = np.repeat(np.arange(len(entries)), [len(at) for at, _ in entries])
    return sparse.csr_array((values, (rows, pixels)), shape=(len(entries), size * size))


def cells_of(planes: Sequence[Plane]) -> list[list[int]]:
    """Track the cells of one plane on several days; return for each day the cell of each mask, -1 for none."""
    found, _ = tracked_plane(planes, register([plane.image for plane in planes]), 0)
    return [[-1 if row["cell"] is None else row["cell"] for row in day if row["detected"]] for day in found]


def score(ids: Sequence[np.ndarray], cells: Sequence[Sequence[int]]) -> dict[str, int]:
    """Compare the cell of each mask with the truth.

    Args:
        ids: for each day the true cell of each mask; -1 for what is no cell.
        cells: for each day the cell that each mask is said to be; -1 for none.

    Returns:
        `detected` on all days and `tracked` of these on all days; tracked `masks`, and `wrong` ones of them: not of the
        true cell that most masks of their cell are of. Left out of both are `strange` ones: tracked, and of no cell, as
        are all masks that they were tracked with.
    """
    seen: dict[int, list[int]] = {}
    members: dict[int, list[int]] = {}
    for there, numbers in zip(ids, cells, strict=True):
        for true, number in zip(there.tolist(), numbers, strict=True):
            if true >= 0:
                seen.setdefault(true, []).append(number)
            if number >= 0:
                members.setdefault(number, []).append(true)
    always = [numbers for numbers in seen.values() if len(numbers) == len(ids)]
    tracked = sum(len(set(numbers)) == 1 and -1 not in numbers for numbers in always)
    found = {"detected": len(always), "tracked": tracked, "masks": 0, "wrong": 0, "strange": 0}
    for truth in members.values():
        true_ones = [cell for cell in truth if cell >= 0]
        if not true_ones:
            found["strange"] += len(truth)
        else:
            found["masks"] += len(truth)
            found["wrong"] += len(truth) - Counter(true_ones).most_common(1)[0][1]
    return found


def write_session(folder: Path, day: Day, frames: int, seed: int) -> None:
    """Write a movie of a day as suite2p's registered binary, and have suite2p detect its cells; in its environment."""
    from jobs import torchvision_operators  # noqa: F401 - before suite2p

    # isort: split
    from suite2p import default_db, default_settings, run_plane

    draw = np.random.default_rng(seed)
    height, width = day.plane.shape
    spikes = draw.random((len(day.cells), frames)) < 0.03
    decay = np.exp(-np.arange(60) / 8.0)
    activity = np.stack([np.convolve(s * draw.uniform(1, 2), decay)[:frames] for s in spikes])
    movie = 200 * day.plane.image[None] + 500 * (activity.T @ day.footprints).reshape(-1, height, width)
    movie = movie + 30 * draw.normal(size=movie.shape)
    folder.mkdir(parents=True)
    movie.clip(0, 30_000).astype(np.int16).tofile(folder / "data.bin")
    np.save(folder / "truth.npy", activity)
    place = {"save_path": str(folder), "save_path0": str(folder.parent), "reg_file": str(folder / "data.bin")}
    paths = {
        "db_path": str(folder / "db.npy"),
        "settings_path": str(folder / "settings.npy"),
        "data_path": [str(folder)],
    }
    shape = {"Ly": height, "Lx": width, "nframes": frames, "nplanes": 1, "nchannels": 1, "keep_movie_raw": False}
    settings = _settings(default_settings())
    np.save(folder / "db.npy", {**default_db(), **place, **paths, **shape})
    np.save(folder / "settings.npy", settings)
    mean = {"meanImg": movie.mean(axis=0).astype(np.float32), "yrange": [0, height], "xrange": [0, width]}
    np.save(folder / "reg_outputs.npy", {**mean, "badframes": np.zeros(frames, bool)})
    run_plane(
        db=np.load(folder / "db.npy", allow_pickle=True).item(), settings=settings, db_path=str(folder / "db.npy")
    )


def _settings(settings: dict[str, Any]) -> dict[str, Any]:
    settings = {**settings, "torch_device": "cpu", "fs": 10.0, "tau": 0.8, "diameter": [10.0, 10.0]}
    settings["run"] = {**settings["run"], "do_registration": 0}
    settings["io"] = {**settings["io"], "delete_bin": False}
    detection = settings["detection"]
    settings["detection"] = {**detection, "sparsery_settings": {**detection["sparsery_settings"], "spatial_scale": 2}}
    return settings


if __name__ == "__main__":  # FOLDER…: the plane folder of each day
    for n, planted in enumerate(plant(7, len(sys.argv) - 1)):
        write_session(Path(sys.argv[1 + n]), planted, 300, n)
