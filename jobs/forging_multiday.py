"""What multi-day processing found of a session's cells, where it ran in the dataset before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from jobs.copying import some
from jobs.hashing import digests
from trackers.commands import track_again
from trackers.errors import JobFailedError, SessionDataError
from trackers.layout import DatasetPaths, SessionPaths
from trackers.names import ProcessingPipelines

CELLS = "cells.feather"
ARRAYS = {"fluorescence": "F", "neuropil": "Fneu", "deconvolved": "spks"}


@dataclass(frozen=True)
class Tracked:
    """Cells of one animal in one session; numbers count the cells of a plane across days.

    Attributes:
        cells: by plane and suite2p's ROI, the number of the cell that it is; uncertain ones are not in it.
        order: by plane, the numbers of the cells that `activity` has, also of those that suite2p did not find that day.
        activity: by plane and name ("fluorescence", …), (cells, volumes).
    """

    cells: Mapping[tuple[int, int], int]
    order: Mapping[int, list[int]]
    activity: Mapping[tuple[int, str], NDArray[Any]]


def verify(dataset: DatasetPaths, session: SessionPaths) -> list[str]:
    """Compare what multi-day processing made of a session with its record; return what people must know.

    Args:
        dataset: the animal's place in it.
        session: which one is forged.

    Raises:
        SessionDataError: the record cannot be read.
        JobFailedError: a file is missing, e.g. because a scratch volume was purged, or has other contents.
    """
    path = dataset.directory / "results" / f"{ProcessingPipelines.MULTIDAY.name}.json"
    try:
        record = json.loads(path.read_bytes())
        made = {str(each["path"]): str(each["xxh3_128"]) for each in record["outputs"]}
        sessions = [name.partition("/")[2] for name in record["settings"]["sessions"]]
    except FileNotFoundError:
        there = (dataset.directory / CELLS).exists()
        return ["not verified, because there is no record of it: multiday"] if there else []
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise SessionDataError(
            f"{path} is no result record ({error!r}). Nothing was written. Run multi-day processing again."
        ) from None
    if session.session not in sessions:
        return []
    taken = [name for name in made if name == CELLS or name.startswith(f"{session.session}/")]
    gone = [name for name in taken if not (dataset.directory / name).exists()]
    found = digests(dataset.directory, [name for name in taken if name not in gone])
    other = [name for name, digest in found.items() if digest.xxh3_128.hex() != made[name]]
    if gone or other:
        words = [f"{len(gone)} are missing: {some(gone)}"] if gone else []
        words += [f"{len(other)} have other contents: {some(other)}"] if other else []
        raise JobFailedError(
            f"Of the files of multi-day processing that {session} is forged from, {'; '.join(words)}. Nothing was "
            f"written. Have them made again: {track_again(session.volumes, dataset, sessions)}"
        )
    return []


def tracked(folder: Path, session: str) -> Tracked | None:
    """Read multi-day's output of an animal, `cells.feather` and `SESSION/planeN/`; None where it has none of a session.

    Raises:
        SessionDataError: its files do not go together.
    """
    table = folder / CELLS
    if not table.exists():
        return None
    sure = pl.read_ipc(table).filter((pl.col("status") == "tracked") & (pl.col("cell") >= 0))
    today = sure.filter((pl.col("session") == session) & (pl.col("roi") >= 0))
    if today.is_empty():
        return None
    order: dict[int, list[int]] = {}
    activity = {}
    for path in sorted((folder / session).glob("plane*")):
        plane = int(path.name.removeprefix("plane"))
        order[plane] = sure.filter(pl.col("plane") == plane)["cell"].unique().sort().to_list()
        for name, file in ARRAYS.items():
            activity[plane, name] = values = np.load(path / f"{file}.npy", mmap_mode="r")
            if len(values) != len(order[plane]):
                raise SessionDataError(
                    f"{path / file}.npy has {len(values)} cells, and {table} tracked {len(order[plane])} in that "
                    "plane. Nothing was written. Run multi-day processing again."
                )
    cells = {(plane, roi): cell for plane, roi, cell in today.select("plane", "roi", "cell").iter_rows()}
    return Tracked(cells, order, activity)
