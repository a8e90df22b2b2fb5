"""One plane on several days brought into one frame: rotation and shift first, then a smooth warp, by its mean images.

Every day gets a map from the common frame to its own pixels. It is found on images whose brightness has been evened
out locally, first against the day in the middle, then against the mean of all days, which shows cells that single days
lack. Nothing is random: the same images give the same maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

Image = NDArray[np.float32]
MAXIMUM_DEGREES, COARSE_DEGREES, FINE_DEGREES = 6.0, 0.5, 0.1
MAXIMUM_SHIFT = 0.25  # of the field's smaller side
NODE_PIXELS = 32.0  # between the nodes of the warp
STIFFNESS = 0.02  # of the warp against bending, as a part of what the images say
CONTRAST_PIXELS = 10.0  # over which brightness is evened out: about a cell's diameter
BEYOND_CHANCE = 0.15  # correlation with the other days' mean, beyond that of the mirror image, which shows other tissue


@dataclass(frozen=True)
class Registration:
    """Where a day's plane lies in the common frame.

    Attributes:
        degrees, shift_y, shift_x: the rigid part: rotation about the centre, then shift in pixels.
        positions: (2, height, width), the day's y and x for each pixel of the common frame.
        correlation: of the day's evened image, moved, with the mean of the other days'.
        problem: why this day's cells cannot be told; empty where they can.
    """

    degrees: float
    shift_y: float
    shift_x: float
    positions: Image
    correlation: float
    problem: str = ""


def register(images: Sequence[Image]) -> list[Registration]:
    """Register the mean images of one plane, all of one shape; the common frame is close to the middle day's.

    Args:
        images: one for each day, in the order of the days.
    """
    evened = [_evened(image) for image in images]
    middle = len(images) // 2
    warps = [_Warp.rigid(evened[middle], image) for image in evened]
    for warp, image in zip(warps, evened, strict=True):
        warp.refine(evened[middle], image, (4.0, 2.0))
    for smoothing in ((2.0, 1.0), (1.0,)):
        moved = [warp.moved(image) for warp, image in zip(warps, evened, strict=True)]
        total = np.sum(moved, axis=0)
        for n, (warp, image) in enumerate(zip(warps, evened, strict=True)):
            others = total if len(images) == 1 else (total - moved[n]) / (len(images) - 1)
            warp.refine(others.astype(np.float32), image, smoothing)
    return _judged(warps, evened)


def _judged(warps: Sequence[_Warp], evened: Sequence[Image]) -> list[Registration]:
    moved = [warp.moved(image) for warp, image in zip(warps, evened, strict=True)]
    total, found = np.sum(moved, axis=0), []
    for warp, own, image in zip(warps, moved, evened, strict=True):
        others = total - own if len(warps) > 1 else own
        inside = warp.inside()
        correlation = float(np.corrcoef(own[inside], others[inside])[0, 1])
        chance = _chance(others.astype(np.float32), image)
        problem = ""
        if not correlation >= chance + BEYOND_CHANCE:
            problem = (
                f"the image resembles the other days' too little: correlation {correlation:.2f}, by chance {chance:.2f}"
            )
        found.append(Registration(warp.degrees, *warp.shift, warp.positions(), correlation, problem))
    return found


def _chance(others: Image, image: Image) -> float:
    """Return the correlation that registration reaches where there is nothing in common: with the mirror image."""
    mirrored = np.ascontiguousarray(image[:, ::-1])
    warp = _Warp.rigid(others, mirrored)
    warp.refine(others, mirrored, (4.0, 2.0, 1.0))
    inside = warp.inside()
    return float(np.corrcoef(warp.moved(mirrored)[inside], others[inside])[0, 1])


def _evened(image: Image) -> Image:
    """Return an image without slow changes of brightness and contrast."""
    image = np.nan_to_num(np.asarray(image, np.float32))
    image = image - ndimage.gaussian_filter(image, CONTRAST_PIXELS)
    spread = np.sqrt(ndimage.gaussian_filter(image**2, 2 * CONTRAST_PIXELS))
    evened: Image = np.clip(image / (spread + 0.1 * spread.mean() + 1e-6), -3.0, 4.0).astype(np.float32)
    return evened


class _Warp:
    """A map from the common frame to a day's pixels: rotation and shift, and a warp by cubic B-splines on top."""

    def __init__(self, shape: tuple[int, ...], degrees: float, shift: tuple[float, float]) -> None:
        self.shape, self.degrees, self.shift = shape, degrees, shift
        self._bases = [_basis(size) for size in shape]
        self._nodes = np.zeros((2, *(basis.shape[1] for basis in self._bases)))

    @classmethod
    def rigid(cls, reference: Image, image: Image) -> _Warp:
        """Find rotation and shift by the best correlation, first on a coarse grid of angles, then on a fine one."""
        window = np.outer(*(np.hanning(size + 2)[1:-1] ** 0.5 for size in reference.shape))
        target = np.conj(fft.rfft2(reference * window))

        def match(degrees: float) -> tuple[float, float, tuple[float, float]]:
            turned = ndimage.map_coordinates(image, _turned(reference.shape, degrees), order=1, mode="constant")
            score, shift = _peak(fft.irfft2(fft.rfft2(turned * window) * target, s=reference.shape))
            return score, degrees, shift

        coarse = np.arange(-MAXIMUM_DEGREES, MAXIMUM_DEGREES + COARSE_DEGREES / 2, COARSE_DEGREES)
        _, best, _ = max(map(match, coarse))
        fine = best + np.arange(-COARSE_DEGREES, COARSE_DEGREES + FINE_DEGREES / 2, FINE_DEGREES)
        _, degrees, shift = max(map(match, fine))
        return cls(reference.shape, float(degrees), shift)

    def positions(self) -> Image:
        """Return the day's y and x for each pixel of the common frame."""
        by, bx = self._bases
        warp = np.stack([by @ nodes @ bx.T for nodes in self._nodes])
        # the shift was found after turning: turn the shifted grid
        positions: Image = (_turned(self.shape, self.degrees, self.shift) + warp).astype(np.float32)
        return positions

    def moved(self, image: Image) -> Image:
        """Return a day's image in the common frame; 0 where it has none."""
        moved: Image = ndimage.map_coordinates(image, self.positions(), order=1, mode="constant")
        return moved

    def inside(self) -> NDArray[np.bool_]:
        """Return where the common frame lies inside the day's image."""
        y, x = self.positions()
        inside: NDArray[np.bool_] = (y >= 0) & (x >= 0) & (y <= self.shape[0] - 1) & (x <= self.shape[1] - 1)
        return inside

    def refine(self, reference: Image, image: Image, smoothing: Sequence[float]) -> None:
        """Move the nodes so that the image fits the reference, from smooth images to sharper ones: Gauss-Newton."""
        for sigma in smoothing:
            target, source = (ndimage.gaussian_filter(i, sigma) for i in (reference, image))
            target, source = target / target.std(), source / source.std()
            slopes = np.gradient(source)
            for _ in range(12):
                if self._step(target, source, slopes) < 0.01:  # pixels
                    break

    def _step(self, target: Image, source: Image, slopes: list[Image]) -> float:
        positions = self.positions()
        moved, gy, gx = (ndimage.map_coordinates(i, positions, order=1, mode="nearest") for i in (source, *slopes))
        error = target - moved
        scale = 1.5 * np.median(np.abs(error)) + 1e-6
        weight = self.inside() / np.maximum(1.0, np.abs(error) / scale)  # cells that one of the two lacks pull less
        by, bx = self._bases
        pairs = [(basis[:, :, None] * basis[:, None, :]).reshape(len(basis), -1) for basis in self._bases]
        ny, nx = by.shape[1], bx.shape[1]

        def block(product: NDArray[Any]) -> NDArray[np.float64]:
            tiles = (pairs[0].T @ product @ pairs[1]).reshape(ny, ny, nx, nx)
            return np.asarray(tiles.transpose(0, 2, 1, 3).reshape(ny * nx, ny * nx))

        yy, yx, xx = block(weight * gy * gy), block(weight * gy * gx), block(weight * gx * gx)
        system = np.block([[yy, yx], [yx.T, xx]])
        right = np.concatenate([(by.T @ (weight * g * error) @ bx).ravel() for g in (gy, gx)])
        bending = _bending(ny, nx) * STIFFNESS * np.trace(system) / len(system)
        stiff = np.kron(np.eye(2), bending)
        system = system + stiff + 1e-6 * np.trace(system) / len(system) * np.eye(len(system))
        step = np.linalg.solve(system, right - stiff @ self._nodes.ravel()).reshape(self._nodes.shape)
        step *= min(1.0, 2.0 / (np.abs(step).max() + 1e-12))  # pixels: far steps are not to be trusted
        self._nodes += step
        return float(np.abs(step).max())


def _turned(shape: tuple[int, ...], degrees: float, shift: tuple[float, float] = (0.0, 0.0)) -> NDArray[np.float64]:
    """Return the positions of a shifted pixel grid, turned about its centre."""
    (height, width), angle = shape, np.deg2rad(degrees)
    cy, cx = (height - 1) / 2, (width - 1) / 2
    y, x = np.meshgrid(np.arange(height) - cy + shift[0], np.arange(width) - cx + shift[1], indexing="ij")
    return np.stack([cy + np.cos(angle) * y - np.sin(angle) * x, cx + np.sin(angle) * y + np.cos(angle) * x])


def _peak(correlation: NDArray[Any]) -> tuple[float, tuple[float, float]]:
    """Return the highest value of a circular correlation within the shifts that are allowed, and its shift."""
    limit = int(MAXIMUM_SHIFT * min(correlation.shape))
    near = np.roll(correlation, (limit, limit), (0, 1))[: 2 * limit + 1, : 2 * limit + 1]
    y, x = np.unravel_index(int(np.argmax(near)), near.shape)
    return float(near[y, x]), (float(y - limit), float(x - limit))


def _basis(size: int) -> NDArray[np.float64]:
    """Return (size, nodes): the cubic B-spline of each node at each pixel."""
    intervals = max(1, round(size / NODE_PIXELS))
    at = np.arange(size)[:, None] * intervals / max(1, size - 1) - np.arange(-1, intervals + 2)[None, :]
    away = np.abs(at)
    inner, outer = 2 / 3 - away**2 + away**3 / 2, (2 - away) ** 3 / 6
    return np.where(away < 1, inner, np.where(away < 2, outer, 0.0))


def _bending(ny: int, nx: int) -> NDArray[np.float64]:
    """Return the matrix whose quadratic form is how much a grid of nodes bends; shifts and turns cost nothing."""
    first = [np.diff(np.eye(n), axis=0) for n in (ny, nx)]
    second = [np.diff(np.eye(n), n=2, axis=0) for n in (ny, nx)]
    along_y = np.kron(second[0].T @ second[0], np.eye(nx))
    along_x = np.kron(np.eye(ny), second[1].T @ second[1])
    across = np.kron(first[0].T @ first[0], first[1].T @ first[1])
    return np.asarray(along_y + along_x + 2 * across)
