"""Pose in a movie by a DeepLabCut project, which is read and never written to. Runs where DeepLabCut is installed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from trackers.errors import BadInputError, JobFailedError, SessionDataError

CONFIG = "config.yaml"


def pose(movie: Path, project: Path, shuffle: int) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Return `PART_x`, `PART_y`, `PART_likelihood`, `PART_x_filtered`, `PART_y_filtered` of each frame, and by what.

    Raises:
        BadInputError: there is no such project.
        SessionDataError: the movie has no frames; nothing was written.
        JobFailedError: DeepLabCut left no predictions; nothing was written.
    """
    if not (project / CONFIG).is_file():
        raise BadInputError(
            f"{project} is no DeepLabCut project: it has no {CONFIG}. Nothing was written. Known are: "
            f"{', '.join(sorted(p.parent.name for p in project.parent.glob(f'*/{CONFIG}'))) or 'none'}."
        )
    if movie.stat().st_size == 0:
        raise SessionDataError(f"{movie} is empty. Nothing was written. Restore it from the acquisition computer.")
    with tempfile.TemporaryDirectory(prefix="deeplabcut_") as folder:
        raw, filtered = _predictions(movie, _view(project, Path(folder)), shuffle, Path(folder) / "found")
    scorer = str(raw.columns[0][0])
    columns = {**dict(_columns(raw, "")), **dict(_columns(filtered, "_filtered"))}
    about = {"ran": "DeepLabCut", "project": project.name, "scorer": scorer, "shuffle": shuffle, "filter": "median"}
    return pl.DataFrame(columns), about


def _view(project: Path, folder: Path) -> Path:
    """Return a config in a folder of ours that links to the project: DeepLabCut writes into the one that it opens."""
    view = folder / "project"
    view.mkdir()
    for entry in project.iterdir():
        if entry.name != CONFIG:
            (view / entry.name).symlink_to(entry.resolve())
    config = yaml.safe_load((project / CONFIG).read_text())
    (view / CONFIG).write_text(yaml.safe_dump({**config, "project_path": str(view)}, sort_keys=False))
    return view / CONFIG


def _predictions(movie: Path, config: Path, shuffle: int, folder: Path) -> tuple[Any, Any]:
    """Return DeepLabCut's tables of a movie, as predicted and filtered."""
    import jobs.torchvision_operators  # noqa: F401 - before DeepLabCut, which needs it
    import deeplabcut  # isort: skip
    import pandas as pd

    folder.mkdir()
    copy = folder.parent / movie.name  # whose folder DeepLabCut may look into
    copy.symlink_to(movie.resolve())
    words = {"shuffle": shuffle, "destfolder": str(folder)}
    deeplabcut.analyze_videos(str(config), [str(copy)], overwrite=True, **words)
    deeplabcut.filterpredictions(str(config), [str(copy)], filtertype="median", **words)
    found = {path.stem.endswith("_filtered"): path for path in sorted(folder.glob("*.h5"))}  # names are not predictable
    if set(found) != {False, True}:
        shutil.rmtree(folder)
        raise JobFailedError(
            f"DeepLabCut left no predictions of {movie}; its own words stand above. Nothing was written."
        )
    return pd.read_hdf(found[False]), pd.read_hdf(found[True])


def _columns(table: Any, suffix: str) -> Iterator[tuple[str, Any]]:
    """Give a table's columns by part and coordinate; of filtered ones, the positions."""
    for column in table.columns:  # scorer, individuals where there are several, bodyparts, coords
        *parts, coordinate = column[1:]
        if not suffix or coordinate in ("x", "y"):
            yield f"{'_'.join(parts)}_{coordinate}{suffix}", table[column].to_numpy()
