"""The index over a dataset: one row for each session in `index.feather`, everything else in `dataset.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from jobs.forging_session import write_table
from trackers.errors import NotFoundError
from trackers.files import atomic_write
from trackers.forging_settings import ForgingSettings
from trackers.layout import DatasetPaths, SessionPaths
from trackers.names import session_time

SCHEMA: dict[str, Any] = {
    "animal": pl.String,
    "session": pl.String,
    "date": pl.Datetime("us", "UTC"),
    "type": pl.String,
    "experiment": pl.String,
    "nwb": pl.String,
    "table": pl.String,
    "clock": pl.String,
    "rows": pl.UInt32,
    "duration_s": pl.Float64,
    "planes": pl.UInt16,
    "rois": pl.UInt32,
    "cells": pl.UInt32,
    "tracked": pl.UInt32,
    "trials": pl.UInt32,
    "licks": pl.UInt32,
    "rewards": pl.UInt32,
    "water_uL": pl.Float64,
    "distance_cm": pl.Float64,
    "cameras": pl.List(pl.String),
    "missing": pl.List(pl.String),
    "notes": pl.List(pl.String),
}


def write_index(
    dataset: DatasetPaths,
    sessions: Sequence[SessionPaths],
    settings: ForgingSettings,
    versions: Mapping[str, str],
    left_out: Sequence[str] = (),
) -> list[Path]:
    """Write `index.feather` and `dataset.json` over sessions that were forged; return both.

    Args:
        dataset: where they lie.
        sessions: that were forged.
        settings: with which they were.
        versions: of the libraries.
        left_out: which sessions of the project were not, and why, in words.

    Raises:
        NotFoundError: one of them was not; nothing was written.
    """
    directory = dataset.directory
    summaries = [_summary(directory, paths) for paths in sorted(sessions, key=lambda p: (p.animal, p.session))]
    dated = [{**summary, "date": session_time(summary["session"])} for summary in summaries]
    rows = [{name: row[name] for name in SCHEMA} for row in dated]
    index = directory / "index.feather"
    write_table(pl.DataFrame(rows, schema=SCHEMA, orient="row"), index)
    description = directory / "dataset.json"
    content = {
        "version": 1,
        "dataset": dataset.dataset,
        "project": dataset.project,
        "settings": asdict(settings),
        "versions": dict(versions),
        "sessions": summaries,
        "left_out": list(left_out),
    }
    atomic_write(description, json.dumps(content, indent=1, ensure_ascii=False).encode())
    return [index, description]


def forged_earlier(dataset: DatasetPaths, sessions: Sequence[SessionPaths]) -> list[str]:
    """Return the NWB files in a dataset's folder, by path in it, that are of other sessions than its own."""
    mine = {f"{paths.animal}/{paths.session}.nwb" for paths in sessions}
    found = {path.relative_to(dataset.directory).as_posix() for path in dataset.directory.glob("*/[0-9]*.nwb")}
    return sorted(found - mine)


def _summary(directory: Path, paths: SessionPaths) -> dict[str, Any]:
    path = directory / paths.animal / f"{paths.session}.json"
    try:
        return dict(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise NotFoundError(f"{paths} has not been forged: {path} is not there. No index was written.") from None
