"""Write a two-photon movie with planted cells, and keep the truth about them. Needs numpy and tifffile."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jobs.generate_defects import SINCE, Defect

CLOSEST_PX = 10.0
SHIFT_PX, ROTATION_DEGREES, WARP_PX, MISSING = 10.0, 3.0, 3.0, 0.15
MARGIN_PX = 16.0
PAD = 8  # pixels of tissue on every side of the image, which motion brings into it
FURTHEST_PX = 5.0  # that motion goes
BASELINE, CEILING = 200.0, 4095  # counts: of tissue without neuropil, and the most that a 12-bit digitizer gives
SPIKES_A_SECOND = 0.2
GAP_LINES = 8  # between the ROIs of a frame


@dataclass(frozen=True)
class Size:
    """z-planes, height and width of each ROI in pixels, volumes, cells per plane, volumes per second, ROIs."""

    planes: int
    pixels: int
    volumes: int
    cells: int
    rate: float = 10.0
    rois: int = 1


@dataclass(frozen=True)
class Physics:
    """How cells and noise are.

    Attributes:
        radius: of cells, px.
        hollow: how much darker their centre is, 0 to 1.
        neuropil: counts.
        grain: wavelengths of the neuropil's texture, px, from and to.
        local: how much the neuropil's activity differs between places, 0 to 1.
        noise: counts.
        shot: whether noise grows with the light.
        motion: px, its standard deviation.
        inertia: s, for which motion keeps its direction.
        decay: s, of a calcium transient.
    """

    radius: float
    hollow: float
    neuropil: float
    grain: tuple[float, float]
    local: float
    noise: float
    shot: bool
    motion: float
    inertia: float
    decay: float


SIZES = {"ci": Size(2, 128, 300, 30), "small": Size(2, 256, 1500, 100), "realistic": Size(3, 512, 12_000, 300)}
PHYSICS = {
    "A": Physics(4.0, 0.0, 20.0, (25.0, 60.0), 0.0, 15.0, False, 1.0, 0.05, 0.7),
    "B": Physics(5.0, 0.7, 45.0, (14.0, 40.0), 0.5, 25.0, True, 1.5, 2.0, 1.2),
}


def write_imaging(
    directory: Path, size: Size, physics: Physics, animal_seed: int, day: int, defects: Collection[Defect] = ()
) -> dict[str, Any]:
    """Write one day's mesoscope.tiff and ops.json into an existing folder; return the truth, arrays by name.

    Cells are the same on every day of an animal's seed. Day 0 is neither moved nor lacks cells. Planes are numbered as
    suite2p does: the ROIs of the first z-plane, then those of the second.
    Arrays: cell, plane, y, x, active (n,); mask_cell, mask_y, mask_x, mask_weight (flat); traces, spikes (n, volumes);
    motion_y, motion_x (planes, volumes), by how many px tissue lies further down and right than at rest; volume
    (volumes,), the number of each among those that were scanned.
    """
    rng = np.random.default_rng([animal_seed, 1, day])
    to_day = _Deformation(size.pixels, rng, still=day == 0)
    plane, y, x, looks = _layout(size, np.random.default_rng([animal_seed, 0]))
    y, x = to_day(y, x)
    inside = (np.minimum(y, x) > physics.radius + 2) & (np.maximum(y, x) < size.pixels - physics.radius - 3)
    there = inside & (rng.random(len(y)) >= (MISSING if day else 0.0)) & (Defect.NO_CELLS not in defects)
    cell = np.flatnonzero(there)
    spikes, traces = _activity(len(cell), size, physics, rng)
    masks = [_mask(y[i], x[i], looks[:, i], physics) for i in cell]
    motion = _motion(size, physics, rng)
    kept = _kept(size.volumes, rng) if Defect.FRAMES_DROPPED in defects else np.arange(size.volumes)
    textures = [
        _texture(size, physics, np.random.default_rng([animal_seed, 2, number]), to_day)
        for number in range(2 * size.planes * size.rois)  # the second half is what lies below
    ]
    scene = _Scene(size, physics, textures, plane[cell], looks[2, cell], masks, defects)
    _write_movie(directory / "mesoscope_000001.tiff", scene.frames(traces, motion, kept, rng), size)
    _write_ops(directory / "ops.json", size)
    return {
        "cell": cell,
        "plane": plane[cell],
        "y": y[cell],
        "x": x[cell],
        "active": spikes[:, kept].sum(1) > 0,
        "mask_cell": np.repeat(cell, [len(mask[0]) for mask in masks]),
        **{
            f"mask_{name}": np.concatenate([np.zeros(0, kind), *(m[i].astype(kind) for m in masks)])
            for i, (name, kind) in enumerate((("y", np.int64), ("x", np.int64), ("weight", np.float32)))
        },
        "traces": traces[:, kept],
        "spikes": spikes[:, kept],
        "motion_y": motion[0][:, kept],
        "motion_x": motion[1][:, kept],
        "volume": kept,
    }


class _Deformation:
    """Where a point of the tissue lies on another day: turned, shifted, and smoothly warped."""

    def __init__(self, pixels: int, rng: Any, *, still: bool) -> None:
        self.pixels, self.size = pixels, 0.0 if still else 1.0
        self.angle = np.deg2rad(rng.uniform(-ROTATION_DEGREES, ROTATION_DEGREES)) * self.size
        self.shift = rng.uniform(-SHIFT_PX, SHIFT_PX, 2) / np.sqrt(2) * self.size
        self.phase = rng.uniform(0, 2 * np.pi, 2)

    def __call__(self, y: Any, x: Any) -> tuple[Any, Any]:
        c, warp = self.pixels / 2, WARP_PX / np.sqrt(2) * self.size
        from_y, from_x, (cos, sin) = y - c, x - c, (np.cos(self.angle), np.sin(self.angle))
        bend = [warp * np.sin(2 * np.pi * at / self.pixels + p) for at, p in zip((x, y), self.phase, strict=True)]
        return (
            c + from_y * cos - from_x * sin + self.shift[0] + bend[0],
            c + from_y * sin + from_x * cos + self.shift[1] + bend[1],
        )

    def back(self, y: Any, x: Any) -> tuple[Any, Any]:
        """Return the point that lies there on this day."""
        at_y, at_x = y, x
        for _ in range(8):  # each step comes ten times nearer
            there_y, there_x = self(at_y, at_x)
            at_y, at_x = at_y + y - there_y, at_x + x - there_x
        return at_y, at_x


def _layout(size: Size, rng: Any) -> tuple[Any, Any, Any, Any]:
    """Return plane, y and x of an animal's cells, and their looks: stretch, angle, brightness."""
    found: list[tuple[int, float, float]] = []
    for plane in range(size.planes * size.rois):
        here: list[Any] = []
        for point in rng.uniform(MARGIN_PX, size.pixels - MARGIN_PX, (size.cells * 20, 2)):
            if len(here) < size.cells and all(np.hypot(*(point - other)) >= CLOSEST_PX for other in here):
                here.append(point)
        found += [(plane, *point) for point in here]
    plane_of, y, x = np.array(found).T
    count = len(found)
    looks = (rng.uniform(1.0, 1.15, count), rng.uniform(0, np.pi, count), rng.uniform(0.8, 1.3, count))
    return plane_of.astype(int), y, x, np.stack(looks)


def _activity(cells: int, size: Size, physics: Physics, rng: Any) -> tuple[Any, Any]:
    spikes = rng.poisson(SPIKES_A_SECOND / size.rate, (cells, size.volumes)).astype(np.float32)
    traces = np.zeros_like(spikes)
    keep, level = np.exp(-1 / (size.rate * physics.decay)), np.zeros(cells)
    for t in range(size.volumes):
        level = level * keep + spikes[:, t]
        traces[:, t] = level
    return spikes, traces


def _motion(size: Size, physics: Physics, rng: Any) -> Any:
    """Return y and x of each plane and volume: planes move together, up to a little of their own."""
    common = _wander((2, 1), size.volumes, size.rate * physics.inertia, rng)
    own = rng.normal(0, 0.1, (2, size.planes, size.volumes))
    moved = np.clip(physics.motion * (common + own), -FURTHEST_PX, FURTHEST_PX)
    return np.repeat(moved, size.rois, axis=1)


def _wander(shape: tuple[int, ...], steps: int, inertia: float, rng: Any) -> Any:
    """Return random walks that are pulled back to zero, of standard deviation 1, along the last axis."""
    keep = np.exp(-1 / inertia)
    found = rng.normal(0, 1, (*shape, steps))
    for t in range(1, steps):
        found[..., t] = keep * found[..., t - 1] + np.sqrt(1 - keep**2) * found[..., t]
    return found


def _kept(volumes: int, rng: Any) -> Any:
    """Return the volumes that are in the movie: twenty-fifths of them are not, a few in a row."""
    run = max(volumes // 100, 1)
    starts = rng.choice(np.arange(volumes // 10, volumes - 2 * run, 2 * run), 4, replace=False)
    return np.setdiff1d(np.arange(volumes), (starts[:, None] + np.arange(run)).ravel())


def _mask(y: float, x: float, looks: Any, physics: Physics) -> tuple[Any, Any, Any]:
    reach = int(physics.radius) + 2
    ys, xs = np.mgrid[int(y) - reach : int(y) + reach + 1, int(x) - reach : int(x) + reach + 1]
    stretch, (cos, sin) = looks[0], (np.cos(looks[1]), np.sin(looks[1]))
    along, across = (ys - y) * cos + (xs - x) * sin, (xs - x) * cos - (ys - y) * sin
    r = np.hypot(along / stretch, across * stretch) / physics.radius
    weight = np.clip((1.1 - r) * 4, 0, 1) * (1 - physics.hollow * np.exp(-((r / 0.5) ** 2)))
    kept = weight > 0
    return ys[kept], xs[kept], weight[kept].astype(np.float32)


def _texture(size: Size, physics: Physics, rng: Any, to_day: _Deformation) -> Any:
    """Return a plane's neuropil, of standard deviation 1, with the tissue around the image that motion brings in."""
    y, x = to_day.back(*np.mgrid[-PAD : size.pixels + PAD, -PAD : size.pixels + PAD].astype(float))
    found = np.zeros(y.shape)
    for _ in range(12):
        wave, angle, phase = rng.uniform(*physics.grain), rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
        found += np.sin(2 * np.pi * (y * np.cos(angle) + x * np.sin(angle)) / wave + phase)
    return (found / found.std()).astype(np.float32)


class _Scene:
    """The tissue of all planes, as light, and how it is seen."""

    def __init__(
        self, size: Size, physics: Physics, textures: Any, plane: Any, brightness: Any, masks: Any, defects: Any
    ) -> None:
        self.size, self.physics, self.textures, self.defects = size, physics, textures, defects
        self.brightness = brightness.astype(np.float32)
        self.pixels = []  # of the cells of each plane: where in the scene, weight, whose
        width = size.pixels + 2 * PAD
        for number in range(size.planes * size.rois):
            mine = [(i, masks[i]) for i in np.flatnonzero(plane == number)]
            flat = [(y + PAD) * width + x + PAD for _, (y, x, _) in mine]
            owner = np.repeat([i for i, _ in mine], [len(at) for at in flat]).astype(int)
            weight = np.concatenate([np.zeros(0, np.float32), *(w for _, (_, _, w) in mine)])
            self.pixels.append((np.concatenate([np.zeros(0, int), *flat]), weight, owner))

    def frames(self, traces: Any, motion: Any, kept: Any, rng: Any) -> Iterator[Any]:
        """Give every frame of every volume that was kept, its ROIs one below the other."""
        size, hum = self.size, _wander((self.size.planes * self.size.rois,), self.size.volumes, 20.0, rng)
        for t in kept:
            for z in range(size.planes):
                images = []
                for number in range(z * size.rois, (z + 1) * size.rois):
                    light = self._light(number, traces[:, t], hum[number, t], t / size.volumes)
                    images += [self._seen(light, motion[:, number, t], rng), np.zeros((GAP_LINES, size.pixels), "i2")]
                yield np.concatenate(images[:-1])

    def _light(self, number: int, activity: Any, hum: float, at: float) -> Any:
        """Return a plane's light at a time, from 0 to 1, of the recording."""
        physics, texture, sunk = self.physics, self.textures[number], 0.0
        if Defect.MOVED_OUT_OF_PLANE in self.defects:
            sunk = float(np.clip((at - SINCE) / 0.05, 0, 1))
            texture = (1 - sunk) * texture + sunk * self.textures[number + len(self.textures) // 2]
        light = BASELINE + physics.neuropil * (texture + 0.3 * hum * (1 + physics.local * texture))
        flat, weight, owner = self.pixels[number]
        glow = self.brightness * BASELINE * (0.5 + activity) * (1 - 0.9 * sunk)
        np.add.at(light.reshape(-1), flat, weight * glow[owner])
        if Defect.BLEACHED in self.defects:
            light *= 3.0**-at
        if Defect.SATURATED in self.defects:
            light *= 15.0
        return light

    def _seen(self, light: Any, motion: Any, rng: Any) -> Any:
        """Return what the microscope makes of a plane's light that has moved."""
        (down, right), n = motion, self.size.pixels
        top, left = int(np.floor(PAD - down)), int(np.floor(PAD - right))
        v, u = PAD - down - top, PAD - right - left
        rows = (1 - v) * light[top : top + n] + v * light[top + 1 : top + n + 1]
        image = (1 - u) * rows[:, left : left + n] + u * rows[:, left + 1 : left + n + 1]
        noise = self.physics.noise * rng.standard_normal(image.shape, dtype=np.float32)
        if self.physics.shot:
            noise *= np.sqrt(np.maximum(image, 0) / BASELINE)
        return np.clip(image + noise, 0, CEILING).astype(np.int16)


def _write_movie(path: Path, frames: Iterator[Any], size: Size) -> None:
    import tifffile

    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for frame in frames:
            file.write(frame, contiguous=True, metadata=None)


def _write_ops(path: Path, size: Size) -> None:
    step = size.pixels + GAP_LINES
    ops: dict[str, Any] = {"mesoscan": True, "fs": size.rate, "nplanes": size.planes, "nrois": size.rois}
    ops["lines"] = [list(range(roi * step, roi * step + size.pixels)) for roi in range(size.rois)]
    ops |= {"dy": [0] * size.rois, "dx": [roi * size.pixels for roi in range(size.rois)]}
    path.write_text(json.dumps(ops))
