"""One session's part of a dataset: its NWB file, its table, and what the index says of it."""

from __future__ import annotations

import io
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from jobs import forging_behavior as behavior
from jobs.forging_frames import VolumeClock, volume_clock
from jobs.forging_nwb import nwb_file
from jobs.forging_sources import IMAGING, Sources
from jobs.forging_table import TICK_US, cells, session_table
from trackers.errors import SessionDataError
from trackers.files import atomic_write, follow_directory, make_directory
from trackers.forging_settings import ForgingSettings

IMAGING_CLOCK, TICK_CLOCK = "imaging volumes", f"every {TICK_US // 1000} ms"


def forge(sources: Sources, settings: ForgingSettings, folder: Path, created: datetime) -> dict[str, Any]:
    """Write a session's files into a folder: `SESSION.nwb`, `SESSION.feather`, `SESSION_cells.feather`, `SESSION.json`.

    Each is written whole or not at all; the NWB file only if it is valid and the inspector has nothing against it.

    Args:
        sources: of the session.
        settings: of its project.
        folder: where the files go.
        created: the NWB file's creation date.

    Returns:
        what `SESSION.json` holds: the session's row of the index, what is missing, and notes.

    Raises:
        SessionDataError: frames and pulses do not go together, or the NWB file is not as it must be.
    """
    clock = _clock(sources, settings)
    table, name = session_table(sources, clock), sources.paths.session
    make_directory(folder)
    _write_nwb(sources, settings, clock, created, folder / f"{name}.nwb")
    write_table(table, folder / f"{name}.feather")
    if clock is not None:
        write_table(cells(sources), folder / f"{name}_cells.feather")
    else:
        (folder / f"{name}_cells.feather").unlink(missing_ok=True)  # of an earlier time, when there was imaging
    summary = {
        **_row(sources, clock, table),
        "multiday_cells": _multiday_order(sources),
        "missing": list(sources.missing),
        "notes": [*(clock.notes if clock else ()), *sources.notes],
    }
    atomic_write(folder / f"{name}.json", json.dumps(summary, indent=1, ensure_ascii=False).encode())
    return summary


def write_table(table: pl.DataFrame, path: Path) -> None:
    """Write a table as a feather file, whole or not at all; the same table gives the same bytes."""
    buffer = io.BytesIO()
    table.write_ipc(buffer, compression="lz4")
    atomic_write(path, buffer.getvalue())


def problems_of(path: Path) -> list[str]:
    """Return what `pynwb.validate` and the inspector, from best practice violations up, say of an NWB file.

    That a recording has more ROIs than volumes is not one: the inspector takes it for a transposed array.
    """
    import nwbinspector
    import pynwb

    invalid = [str(error) for error in pynwb.validate(path=str(path))]
    threshold = nwbinspector.Importance.BEST_PRACTICE_VIOLATION
    found = nwbinspector.inspect_nwbfile(nwbfile_path=str(path), skip_validate=True, importance_threshold=threshold)
    return invalid + [
        f"{message.location}: {message.message.rstrip('.')}"
        for message in found
        if message
        and (message.check_function_name, message.object_type) != ("check_data_orientation", "RoiResponseSeries")
    ]


def _clock(sources: Sources, settings: ForgingSettings) -> VolumeClock | None:
    if sources.imaging is None:
        return None
    signal = sources.tables.get(behavior.FRAME_SIGNAL.table)
    if signal is None:
        raise SessionDataError(
            f"{sources.paths} has imaging ({IMAGING}), but not the mesoscope's frame signal "
            f"({behavior.FRAME_SIGNAL.table}), without which nobody knows when its frames were. Nothing was written. "
            "Run behavior again, or leave the session out."
        )
    try:
        return volume_clock(signal, sources.imaging, settings.unclear_frames)
    except SessionDataError as error:
        raise SessionDataError(f"{sources.paths}: {error}. Nothing was written.") from None


def _write_nwb(
    sources: Sources, settings: ForgingSettings, clock: VolumeClock | None, created: datetime, path: Path
) -> None:
    from pynwb import NWBHDF5IO

    made, partial = nwb_file(sources, settings, clock, created), path.with_name(f".{path.stem}.partial.nwb")
    try:
        with NWBHDF5IO(str(partial), "w") as file:
            file.write(made)
        if problems := problems_of(partial):
            raise SessionDataError(
                f"{sources.paths} makes an NWB file that is not as it must be: {'; '.join(problems)}. Nothing was "
                "written. Correct what the session's files or the project's settings say of it."
            )
        with partial.open("rb+") as written:
            follow_directory(written.fileno(), path.parent.stat())
            os.fsync(written.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _multiday_order(sources: Sources) -> list[list[int]]:
    """Return plane and number of each cell whose activity across days the table has, in its order."""
    order = sources.tracked.order.items() if sources.tracked else ()
    return [[plane, cell] for plane, cells in order for cell in cells]


def _row(sources: Sources, clock: VolumeClock | None, table: pl.DataFrame) -> dict[str, Any]:
    """Return what the index says of a session; None where its source is missing."""
    name, tables = sources.paths.session, sources.tables
    distance, licks, rewards = (
        behavior.column(tables, behavior.DISTANCE),
        behavior.licks(tables),
        behavior.rewards(tables),
    )
    times = table["time_us"]
    return {
        "animal": sources.paths.animal,
        "session": name,
        "type": sources.data.session_type.value,
        "experiment": sources.data.experiment_name,
        "nwb": f"{sources.paths.animal}/{name}.nwb",
        "table": f"{sources.paths.animal}/{name}.feather",
        "clock": TICK_CLOCK if clock is None else IMAGING_CLOCK,
        "rows": len(table),
        "duration_s": (times[-1] - times[0]) / 1e6 if len(table) else 0.0,
        "planes": len(sources.planes),
        "rois": sum(len(plane.stat) for plane in sources.planes),
        "cells": int(sum(plane.accepted.sum() for plane in sources.planes)),
        "tracked": len(sources.tracked.cells) if sources.tracked else None,
        "trials": None if sources.trials is None else len(sources.trials),
        "licks": None if licks is None else len(licks[0]),
        "rewards": None if rewards is None else len(rewards[0]),
        "water_uL": None if rewards is None else float(rewards[1].sum()),
        "distance_cm": None if distance is None else float(distance[1][-1]),
        "cameras": [camera.name for camera in sources.cameras],
    }
