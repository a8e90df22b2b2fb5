"""Write a two-photon movie with planted cells, and keep the truth about them. Needs numpy and tifffile."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CLOSEST_PX = 10.0
SHIFT_PX, ROTATION_DEGREES, WARP_PX, MISSING = 10.0, 3.0, 3.0, 0.15
MARGIN_PX = 16.0
FRAMES_AT_ONCE = 50  # bounds memory
BASELINE = 200.0


@dataclass(frozen=True)
class Size:
    """Planes, their height and width in pixels, volumes, cells per plane, volumes per second."""

    planes: int
    pixels: int
    volumes: int
    cells: int
    rate: float = 10.0


@dataclass(frozen=True)
class Physics:
    """Cells and noise: radius (px), hollow centre (0 to 1), neuropil, noise (counts), motion (px), decay (s)."""

    radius: float
    hollow: float
    neuropil: float
    noise: float
    motion: float
    decay: float


SIZES = {"ci": Size(2, 128, 300, 30), "small": Size(2, 256, 1500, 100), "realistic": Size(3, 512, 12_000, 300)}
PHYSICS = {"A": Physics(4.0, 0.0, 20.0, 15.0, 1.0, 0.7), "B": Physics(5.0, 0.7, 45.0, 25.0, 2.0, 1.2)}


def write_imaging(directory: Path, size: Size, physics: Physics, animal_seed: int, day: int) -> dict[str, Any]:
    """Write one day's mesoscope.tiff and ops.json into an existing folder; return the truth, arrays by name.

    Cells are the same on every day of an animal's seed. Day 0 is neither moved nor lacks cells.
    Arrays: cell, plane, y, x, active (n,); mask_cell, mask_y, mask_x, mask_weight (flat); traces, spikes (n, volumes);
    motion_y, motion_x (planes, volumes).
    """
    import tifffile

    rng = np.random.default_rng([animal_seed, 1, day])
    plane, y, x = _layout(size, np.random.default_rng([animal_seed, 0]))
    y, x = _moved(y, x, size.pixels, rng) if day else (y, x)
    inside = (np.minimum(y, x) > physics.radius + 2) & (np.maximum(y, x) < size.pixels - physics.radius - 3)
    cell = np.flatnonzero(inside & (rng.random(len(y)) >= (MISSING if day else 0.0)))
    plane, y, x = plane[cell], y[cell], x[cell]
    spikes, traces = _activity(len(cell), size, physics, rng)
    masks = [_mask(y[i], x[i], physics) for i in range(len(cell))]
    steps = rng.normal(0, physics.motion, (2, size.planes, size.volumes))
    motion = np.clip(np.round(steps), -5, 5).astype(int)
    truth = {
        "cell": cell,
        "plane": plane,
        "y": y,
        "x": x,
        "active": spikes.sum(1) > 0,
        "mask_cell": np.concatenate([np.full(len(m[0]), c) for c, m in zip(cell, masks, strict=True)]),
        **{f"mask_{k}": np.concatenate([m[i] for m in masks]) for i, k in enumerate(("y", "x", "weight"))},
        "traces": traces,
        "spikes": spikes,
        "motion_y": motion[0],
        "motion_x": motion[1],
    }
    with tifffile.TiffWriter(directory / "mesoscope_000001.tiff", bigtiff=True) as file:
        for start in range(0, size.volumes, FRAMES_AT_ONCE):
            stop = min(start + FRAMES_AT_ONCE, size.volumes)
            for frame in _frames(size, physics, rng, plane, masks, traces[:, start:stop], motion[:, :, start:stop]):
                file.write(frame, contiguous=True)
    ops: dict[str, Any] = {"mesoscan": True, "fs": size.rate, "nplanes": size.planes, "nrois": 1}
    ops |= {"lines": [list(range(size.pixels))], "dy": [0], "dx": [0]}
    (directory / "ops.json").write_text(json.dumps(ops))
    return truth


def _layout(size: Size, rng: Any) -> tuple[Any, Any, Any]:
    found: list[tuple[int, float, float]] = []
    for plane in range(size.planes):
        here: list[Any] = []
        for point in rng.uniform(MARGIN_PX, size.pixels - MARGIN_PX, (size.cells * 20, 2)):
            if len(here) < size.cells and all(np.hypot(*(point - other)) >= CLOSEST_PX for other in here):
                here.append(point)
        found += [(plane, *point) for point in here]
    plane_of, y, x = np.array(found).T
    return plane_of.astype(int), y, x


def _moved(y: Any, x: Any, pixels: int, rng: Any) -> tuple[Any, Any]:
    angle = np.deg2rad(rng.uniform(-ROTATION_DEGREES, ROTATION_DEGREES))
    shift, phase = rng.uniform(-SHIFT_PX, SHIFT_PX, 2) / np.sqrt(2), rng.uniform(0, 2 * np.pi, 2)
    c, from_y, from_x = pixels / 2, y - pixels / 2, x - pixels / 2
    warp = WARP_PX / np.sqrt(2)
    return (
        c
        + from_y * np.cos(angle)
        - from_x * np.sin(angle)
        + shift[0]
        + warp * np.sin(2 * np.pi * x / pixels + phase[0]),
        c
        + from_y * np.sin(angle)
        + from_x * np.cos(angle)
        + shift[1]
        + warp * np.sin(2 * np.pi * y / pixels + phase[1]),
    )


def _activity(cells: int, size: Size, physics: Physics, rng: Any) -> tuple[Any, Any]:
    spikes = rng.poisson(0.2 / size.rate, (cells, size.volumes)).astype(np.float32)
    traces = np.zeros_like(spikes)
    keep, level = np.exp(-1 / (size.rate * physics.decay)), np.zeros(cells)
    for t in range(size.volumes):
        level = level * keep + spikes[:, t]
        traces[:, t] = level
    return spikes, traces


def _mask(y: float, x: float, physics: Physics) -> tuple[Any, Any, Any]:
    reach = int(physics.radius) + 2
    ys, xs = np.mgrid[int(y) - reach : int(y) + reach + 1, int(x) - reach : int(x) + reach + 1]
    r = np.hypot(ys - y, xs - x) / physics.radius
    weight = np.clip((1.1 - r) * 4, 0, 1) * (1 - physics.hollow * np.exp(-((r / 0.5) ** 2)))
    kept = weight > 0
    return ys[kept], xs[kept], weight[kept].astype(np.float32)


def _frames(size: Size, physics: Physics, rng: Any, plane: Any, masks: Any, traces: Any, motion: Any) -> Any:
    yy, xx = np.mgrid[: size.pixels, : size.pixels]
    texture = BASELINE + physics.neuropil * np.sin(yy / 17.0) * np.cos(xx / 23.0)
    for t in range(traces.shape[1]):
        for p in range(size.planes):
            image = texture + physics.neuropil * rng.normal(0, 0.2)
            for i in np.flatnonzero(plane == p):
                ys, xs, weight = masks[i]
                image[ys, xs] += weight * BASELINE * (0.5 + traces[i, t])
            image = np.roll(image, motion[:, p, t], axis=(0, 1)) + rng.normal(0, physics.noise, image.shape)
            yield np.clip(image, 0, 32_767).astype(np.int16)
