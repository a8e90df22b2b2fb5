"""What multi-day processing found of a session's cells, where it ran in the dataset before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trackers.errors import SessionDataError

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
