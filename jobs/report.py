"""Make the page of a session and its quality control: `python -P -m jobs.report --help`."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import polars as pl

from jobs.forging_sources import collect
from jobs.program import check_owner, run, session_parser, session_paths, write_report
from jobs.report_checks import FAIL, Check, checks
from jobs.report_movie import movies
from jobs.report_page import page
from trackers.errors import SessionDataError
from trackers.files import atomic_write, make_directory
from trackers.layout import SessionPaths
from trackers.quality import Overruling, overrulings

LIBRARIES = ("numpy", "polars", "matplotlib")


def report(paths: SessionPaths, across: Path | None = None, *, unfinished: bool = False) -> list[str]:
    """Write a session's `report/report.html` and `report/qc.json`; return a line for each check.

    Args:
        paths: of the session.
        across: multi-day's folder of the animal in a dataset; none: no cells across days are shown.
        unfinished: what lies in suite2p's place was left by a run that did not succeed; it is not shown.

    Raises:
        SessionDataError: a source is there and cannot be read; nothing was written.
    """
    from jobs.report_figures import figures  # matplotlib wants a folder for its caches first
    from jobs.report_tries import tries

    sources = collect(paths, unfinished=unfinished)
    found = checks(sources, movies(paths, sources.planes))
    shown = figures(sources, _cells(across, paths.session))
    tried = tries(paths.results, sources.planes)
    people = overrulings(paths)
    html = page(sources, found, people, [*shown, *tried])
    folder = paths.results / "report"
    make_directory(folder)
    written = {"checks": [asdict(check) for check in found], "missing": list(sources.missing)}
    atomic_write(folder / "report.html", html.encode())
    atomic_write(folder / "qc.json", json.dumps(written, indent=1).encode())
    lines = [_line(check, people.get(check.name)) for check in found]
    return [
        f"page: {folder / 'report.html'}",
        *([f"cells across days: of {across}"] if across else []),
        *sorted(lines, key=lambda line: not line.startswith(FAIL)),
    ]


def _line(check: Check, word: Overruling | None) -> str:
    verdict = f"{word.verdict} (overruled)" if word else check.verdict
    measured = "not measured" if check.value is None else f"{check.value:.3g} {check.unit}"
    return f"{verdict}: {check.title} ({measured})"


def across_days(paths: SessionPaths, datasets: Path | None, dataset: str) -> Path | None:
    """Return multi-day's folder of the animal in a dataset; of none in particular, the newest that has the session."""
    if datasets is None:
        return None
    project = datasets / paths.project
    if dataset:
        return project / dataset / paths.animal
    tables = [folder / paths.animal / "cells.feather" for folder in (project.iterdir() if project.is_dir() else ())]
    found = [table for table in tables if table.exists() and (table.parent / paths.session).is_dir()]
    return max(found, key=lambda table: table.stat().st_mtime).parent if found else None


def _cells(folder: Path | None, session: str) -> pl.DataFrame | None:
    """Return multi-day's table of cells, where it has this session."""
    if folder is None:
        return None
    path = folder / "cells.feather"
    if not path.exists():
        raise SessionDataError(
            f"{path} is not there. Nothing was written. Run multi-day processing, or name no dataset."
        )
    table = pl.read_ipc(path)
    return table if session in table["session"].to_list() else None


def main() -> None:
    """Carry out the command line."""
    parser = session_parser("Makes the page of a session and its quality control.")
    parser.add_argument("--datasets", type=Path, help="folder that holds the account's datasets")
    parser.add_argument("--dataset", default="", help="whose multi-day result is shown (default: the newest)")
    parser.add_argument("--unfinished", action="store_true", help="suite2p has not succeeded: leave out what it left")
    arguments = parser.parse_args()
    paths = session_paths(arguments)
    check_owner(paths, arguments.manager_id)
    across = across_days(paths, arguments.datasets, arguments.dataset)
    with tempfile.TemporaryDirectory(prefix="report_") as caches:  # the home folder may be read-only
        os.environ.setdefault("MPLCONFIGDIR", caches)
        notes = report(paths, across, unfinished=arguments.unfinished)
    print("\n".join(notes))
    write_report((), {name: metadata.version(name) for name in LIBRARIES}, notes)


if __name__ == "__main__":
    run(main)
