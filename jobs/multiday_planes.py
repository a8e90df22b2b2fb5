"""What multi-day tracking reads of suite2p's output, and the masks of tracked cells in each day's pixels."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from scipy import sparse

from jobs.multiday_tracking import sampling
from jobs.program import Output
from trackers.curation import curated
from trackers.errors import SessionDataError
from trackers.files import atomic_write, make_directory
from trackers.layout import SessionPaths

FOLDER = Path("mesoscope_data")  # below processed_data


@dataclass(frozen=True)
class Plane:
    """One plane of one day.

    Attributes:
        image: the mean of the registered movie.
        rois: suite2p's numbers of the masks that are cells, as suite2p or a person's curation says.
        masks: (cells, pixels), 1 where a cell is.
        weights: the same with suite2p's weight of each pixel, their mean 1.
    """

    image: NDArray[np.float32]
    rois: NDArray[np.int64]
    masks: sparse.csr_array
    weights: sparse.csr_array

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.image.shape
        return height, width


def plane_folders(session: SessionPaths) -> list[Path]:
    """Return a session's plane folders, in the order of the planes.

    Raises:
        SessionDataError: suite2p's output is not there, or not as it was when suite2p succeeded.
    """
    directory = session.processed_data / FOLDER
    folders = sorted(directory.glob("plane[0-9]*"), key=lambda path: int(path.name.removeprefix("plane")))
    if not folders:
        raise SessionDataError(f"{directory} has no planes. Nothing was written. Run suite2p on {session} first.")
    _check_record(session)
    return folders


def read_plane(folder: Path) -> Plane:
    """Read a plane's mean image and cells.

    Raises:
        SessionDataError: a file is missing or is not suite2p's.
    """
    try:
        image = np.asarray(_load(folder / "reg_outputs.npy").item()["meanImg"], np.float32)
        stat = _load(folder / "stat.npy")
        accepted = _load(folder / "iscell.npy")[:, 0] > 0 if len(stat) else np.zeros(0, bool)
        rois = np.flatnonzero(accepted)
        masks, weights = (_sparse([stat[n] for n in rois], image.shape, weighted=w) for w in (False, True))
    except (OSError, KeyError, ValueError, IndexError, AttributeError) as error:
        raise SessionDataError(
            f"{folder} is not as suite2p leaves it: {error}. Nothing was written. Run suite2p on the session again."
        ) from None
    return Plane(image, rois, masks, weights)


def consensus(weights: Sequence[sparse.csr_array]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return a cell's mask in the common frame: where most of its days have it, the mean of their weights there.

    Args:
        weights: (1, pixels of the common frame) of each day on which the cell was detected.

    Returns:
        its pixels, and their weights.
    """
    pixels, place, days = np.unique(
        np.concatenate([w.indices for w in weights]), return_inverse=True, return_counts=True
    )
    mean = np.bincount(place, np.concatenate([w.data for w in weights])) / len(weights)
    most = days >= 0.5 * len(weights)
    return pixels[most].astype(np.int64), mean[most]


def in_day(
    mask: tuple[NDArray[np.int64], NDArray[np.float64]], positions: NDArray[np.float32], shape: tuple[int, int]
) -> dict[str, Any] | None:
    """Return a mask of the common frame as an entry of a day's stat.npy; None where most of it lies outside.

    Args:
        mask: pixels of the common frame, and their weights.
        positions: (2, height, width), the day's y and x for each pixel of the common frame.
        shape: height and width of the day's plane.
    """
    inside, values = mask
    matrix = sampling(positions.reshape(2, -1)[:, inside], shape)
    covered = matrix.sum(axis=0)
    if covered.sum() < 0.5 * len(inside):
        return None
    pixels = np.flatnonzero(covered > 0.5)
    if not len(pixels):
        return None
    return entry(pixels, (values @ matrix)[pixels], shape)


def entry(pixels: NDArray[Any], weights: NDArray[Any], shape: tuple[int, int]) -> dict[str, Any]:
    """Return a mask as an entry of suite2p's stat.npy."""
    y, x = np.unravel_index(pixels, shape)
    weights = weights.astype(np.float32)
    centre = [float(np.average(y, weights=weights)), float(np.average(x, weights=weights))]
    radius = float(np.sqrt(len(pixels) / np.pi))
    return {"ypix": y, "xpix": x, "lam": weights, "med": centre, "npix": len(pixels), "radius": radius}


def saved(path: Path, content: Any, root: Path) -> Output:
    """Write an array, or a dict of arrays, whole or not at all."""
    buffer = io.BytesIO()
    if isinstance(content, dict):
        np.savez_compressed(buffer, **content)
    else:
        np.save(buffer, content)
    return written(path, buffer.getvalue(), root)


def written(path: Path, content: bytes, root: Path) -> Output:
    """Write a file whole or not at all, and say what it is, with its path below `root`."""
    make_directory(path.parent)
    atomic_write(path, content)
    return Output(path.relative_to(root).as_posix(), len(content), xxhash.xxh3_128_hexdigest(content))


def _check_record(session: SessionPaths) -> None:
    """Refuse output that is gone or was cut off since suite2p succeeded; what people curated since then counts."""
    try:
        record = json.loads((session.tracking_data / "results" / "SUITE2P.json").read_bytes())
    except FileNotFoundError:
        return
    outputs = {session.processed_data.parent / str(each["path"]): each["size"] for each in record.get("outputs", [])}
    outputs = {path: size for path, size in outputs.items() if path.is_relative_to(session.processed_data / FOLDER)}
    other = [str(path) for path, size in outputs.items() if path.is_file() and path.stat().st_size != size]
    drawn = curated(other)
    for path in outputs:
        if not path.is_file() or (str(path) in other and str(path) not in drawn):
            raise SessionDataError(
                f"{path} is gone, or is not the file that suite2p wrote on {record.get('ended', '?')[:10]}. Nothing "
                f"was written. Was the volume purged? Run suite2p on {session} again."
            )


def _sparse(stat: Sequence[dict[str, Any]], shape: tuple[int, ...], *, weighted: bool) -> sparse.csr_array:
    rows = np.repeat(np.arange(len(stat)), [len(s["ypix"]) for s in stat])
    if not len(stat):
        return sparse.csr_array((0, shape[0] * shape[1]), dtype=np.float32)
    columns = np.concatenate([np.ravel_multi_index((s["ypix"], s["xpix"]), shape) for s in stat])
    values = np.concatenate([np.maximum(s["lam"], 1e-6) / max(float(np.mean(s["lam"])), 1e-6) for s in stat])
    entries = ((values if weighted else np.ones(len(rows))).astype(np.float32), (rows, columns))
    return sparse.csr_array(entries, shape=(len(stat), shape[0] * shape[1]))


def _load(path: Path) -> Any:
    return np.load(path, allow_pickle=True)
