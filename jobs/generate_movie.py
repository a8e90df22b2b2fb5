"""Write a camera's movie: a marker on a circle, which turns as far as the animal runs. Needs numpy and OpenCV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from trackers.errors import FileSystemError

WIDTH, HEIGHT = 160, 128  # px
RADIUS, MARKER = 40.0, 12.0  # of the circle and of the marker, px
PX_PER_CM = 3.0
NOISE = 1.0  # grey levels
FRAMES_A_SECOND = 30.0


def marker(distance: Any) -> tuple[Any, Any]:
    """Return x and y of the marker, px, where the animal has run so far, cm."""
    angle = np.asarray(distance) * PX_PER_CM / RADIUS
    return WIDTH / 2 + RADIUS * np.cos(angle), HEIGHT / 2 + RADIUS * np.sin(angle)


def write_movie(path: Path, x: Any, y: Any, rng: Any) -> None:
    """Write one frame for each position of the marker.

    Raises:
        FileSystemError: OpenCV could not write it.
    """
    import cv2

    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    background = (40 + 5 * np.sin(rows / 15.0) + 5 * np.cos(columns / 21.0)).astype(np.float32)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FRAMES_A_SECOND, (WIDTH, HEIGHT))
    if not writer.isOpened():
        raise FileSystemError(f"{path} could not be written by OpenCV.")
    for at_x, at_y in zip(x, y, strict=True):
        cover = np.clip(MARKER + 0.5 - np.hypot(columns - at_x, rows - at_y), 0, 1)  # smooth at its edge
        image = background + (220 - background) * cover + NOISE * rng.standard_normal(background.shape, np.float32)
        writer.write(np.repeat(np.clip(image, 0, 255).astype(np.uint8)[..., None], 3, axis=2))
    writer.release()
