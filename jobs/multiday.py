"""Discovers which cells of an animal's sessions are the same: a table, and each cell's mask for every session."""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from jobs.multiday_planes import Plane, consensus, entry, in_day, plane_folders, read_plane, saved, written
from jobs.multiday_registration import Registration, register
from jobs.multiday_tracking import Found, moved, seen, track
from jobs.program import Output, Progress, check_dataset_owner, dataset_parser, dataset_paths, run, write_report
from trackers.errors import SessionDataError
from trackers.layout import SessionPaths
from trackers.publication import of_animal

Row = dict[str, Any]
SCHEMA = {
    "cell": pl.Int32,
    "session": pl.String,
    "plane": pl.Int16,
    "roi": pl.Int32,
    "detected": pl.Boolean,
    "y": pl.Float32,
    "x": pl.Float32,
    "overlap": pl.Float32,
    "status": pl.String,
    "reason": pl.String,
}


def discover(folder: Path, sessions: Sequence[SessionPaths], progress: Progress | None = None) -> list[Output]:
    """Register the planes of all sessions, track their cells, and write table, maps and masks to a folder.

    Raises:
        SessionDataError: suite2p's output of a session is missing, or its planes are others than the first session's.
    """
    folders = [plane_folders(session) for session in sessions]
    planes = [[read_plane(folder) for folder in plane] for plane in _alike(sessions, folders)]
    rows: list[Row] = []
    maps: dict[str, Any] = {"sessions": np.array([session.session for session in sessions])}
    masks: dict[Path, list[Row]] = {}
    cells = 0
    for number, days in enumerate(planes):
        registrations = register(_of_one_shape(days, folders, number))
        found, here = tracked_plane(days, registrations, cells)
        maps |= {f"plane{number}_{key}": value for key, value in _maps(registrations).items()}
        for session, day_rows, day_masks in zip(sessions, found, here, strict=True):
            rows += [{**row, "session": session.session, "plane": number} for row in day_rows]
            masks[folder / session.session / f"plane{number}"] = day_masks
        cells += len(here[0])
        if progress:
            progress.show(number + 1, len(planes))
    outputs = [saved(place / "stat.npy", np.array(m, object), folder) for place, m in masks.items()]
    outputs.append(saved(folder / "registration.npz", maps, folder))
    return [*outputs, written(folder / "cells.feather", _table(rows), folder)]


def tracked_plane(
    days: Sequence[Plane], registrations: Sequence[Registration], first: int
) -> tuple[list[list[Row]], list[list[Row]]]:
    """Track the cells of one plane.

    Args:
        days: the plane on each day.
        registrations: where each day lies in the common frame; a day with a problem is left out.
        first: the number of the plane's first cell.

    Returns:
        for each day the rows of the table, and the masks of all cells in the day's pixels; one that lies outside, or
        on a day that could not be registered, is empty.
    """
    usable = [d for d, r in enumerate(registrations) if not r.problem]
    common = {d: moved(days[d].masks, registrations[d].positions, days[d].shape) for d in usable}
    shown = [seen(registrations[d].positions, days[d].shape) for d in usable]
    found = dict(zip(usable, track([common[d] for d in usable], shown), strict=True))
    members: dict[int, dict[int, int]] = {}
    for d in usable:
        for n, one in enumerate(found[d]):
            if one.cell >= 0:
                members.setdefault(one.cell, {})[d] = n
    weights = {d: moved(days[d].weights, registrations[d].positions, days[d].shape, binary=False) for d in usable}
    shapes = {cell: consensus([weights[d][[n]] for d, n in at.items()]) for cell, at in members.items()}
    rows: list[list[Row]] = []
    masks: list[list[Row]] = []
    for d, (day, registration) in enumerate(zip(days, registrations, strict=True)):
        lost = Found(-1, 0.0, "uncertain", registration.problem)
        here = found.get(d, [lost] * len(day.rois))
        rows.append([_row(day, n, one, first) for n, one in enumerate(here)])
        masks.append([])
        for cell in sorted(members):
            mask = None if registration.problem else in_day(shapes[cell], registration.positions, day.shape)
            if mask is None and d in members[cell]:  # at the field's rim, where most of its mask is outside
                own = day.weights[[members[cell][d]]]
                mask = entry(own.indices, own.data, day.shape)
            masks[-1].append({"cell": first + cell, **(mask or _EMPTY)})
            if d not in members[cell]:
                rows[-1].append(_absent(first + cell, mask, registration.problem))
    return rows, masks


_EMPTY: Row = {"ypix": np.zeros(0, int), "xpix": np.zeros(0, int), "lam": np.zeros(0, np.float32), "npix": 0}


def _row(day: Plane, n: int, found: Found, first: int) -> Row:
    y, x = np.unravel_index(day.masks[[n]].indices, day.shape)
    place = {"roi": int(day.rois[n]), "detected": True, "y": float(y.mean()), "x": float(x.mean())}
    cell = first + found.cell if found.cell >= 0 else None
    return {"cell": cell, **place, "overlap": found.overlap, "status": found.status, "reason": found.reason}


def _absent(cell: int, mask: Row | None, problem: str) -> Row:
    """Return the row of a cell on a day on which it was not detected; its activity is extracted where its mask lies."""
    row = {"cell": cell, "roi": None, "detected": False, "y": None, "x": None, "overlap": None}
    if mask is None:
        return {**row, "status": "outside", "reason": problem or "it lies outside the field of this day"}
    return {**row, "y": mask["med"][0], "x": mask["med"][1], "status": "placed", "reason": "not detected on this day"}


def _maps(registrations: Sequence[Registration]) -> dict[str, Any]:
    return {
        "positions": np.stack([r.positions for r in registrations]),
        "degrees": np.array([r.degrees for r in registrations]),
        "shift": np.array([(r.shift_y, r.shift_x) for r in registrations]),
        "correlation": np.array([r.correlation for r in registrations]),
        "problem": np.array([r.problem for r in registrations]),
    }


def _alike(sessions: Sequence[SessionPaths], folders: Sequence[Sequence[Path]]) -> list[tuple[Path, ...]]:
    """Return for each plane its folder on each day."""
    names = [[folder.name for folder in planes] for planes in folders]
    for session, planes in zip(sessions, names, strict=True):
        if planes != names[0]:
            raise SessionDataError(
                f"{session} has {', '.join(planes)}, but {sessions[0]} has {', '.join(names[0])}. Nothing was written. "
                "Track only sessions that were recorded with the same planes."
            )
    return list(zip(*folders, strict=True))


def _of_one_shape(days: Sequence[Plane], folders: Sequence[Sequence[Path]], number: int) -> list[Any]:
    for day, planes in zip(days, folders, strict=True):
        if day.shape != days[0].shape:
            raise SessionDataError(
                f"{planes[number]} has {day.shape} pixels, but {folders[0][number]} has {days[0].shape}. Nothing was "
                "written. Track only sessions that were recorded with the same field."
            )
    return [day.image for day in days]


def _table(rows: Sequence[Row]) -> bytes:
    table = pl.DataFrame(list(rows), schema=SCHEMA, orient="row")
    buffer = io.BytesIO()
    table.sort("plane", "cell", "session", "roi", nulls_last=True).write_ipc(buffer, compression="uncompressed")
    return buffer.getvalue()


def main() -> None:
    """Carry out the command line."""
    arguments = dataset_parser("Discovers the cells that are found on several days.", animal=True).parse_args()
    dataset, sessions = dataset_paths(arguments)
    check_dataset_owner(dataset, sessions, arguments.manager_id)
    folder = of_animal(dataset.directory).fresh()
    outputs = discover(folder, sessions, Progress(1, "planes"))
    table = pl.read_ipc(folder / "cells.feather")
    notes = [f"{status}: {count}" for status, count in sorted(table["status"].value_counts().rows())]
    tracked = table.filter(pl.col("status") == "tracked")["cell"].n_unique()
    print("\n".join([f"{tracked} cells are found on several days", *notes]))
    versions = {name: metadata.version(name) for name in ("numpy", "scipy", "polars")}
    write_report(outputs, versions, [f"{tracked} cells on several days; masks {', '.join(notes)}"])


if __name__ == "__main__":
    run(main)
