"""`python -m benchmarks WHAT`: print what was measured, as tables."""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path

from rich.console import Console
from rich.table import Table


def main() -> None:
    """Carry out the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measures; prints a table.")
    parser.add_argument(
        "what",
        choices=("disk", "cluster", "following", "far", "project", "science"),
        help="disk: the server side's start; state files, checksum, copy and manifest on one disk; "
        "cluster: graphs of jobs on a test cluster; following: what waiting for a thousand jobs costs there; "
        "far: long jobs, a slow line, submit limits, late records, a manager killed; "
        "project: many sessions with all their pipelines, in one run; "
        "science: results against a known truth, and what they cost",
    )
    parser.add_argument("folder", nargs="?", help="disk: on the disk to measure (default: the temporary folder's)")
    parser.add_argument("--graphs", default="ABC", help="cluster: which of A, B and C (default: all)")
    parser.add_argument("--repeats", type=int, default=3, help="cluster: how often each is run (default: 3)")
    parser.add_argument("--seconds", type=float, default=60.0, help="far: of a job, and late files (default: 60)")
    parser.add_argument("--sessions", default="50,200,1000", help="project: how many (default: 50,200,1000)")
    parts = "suite2p,multiday,behavior,forging,stages"
    parser.add_argument("--parts", default=parts, metavar="PART,…", help=f"science: which (default: {parts})")
    arguments = parser.parse_args()
    console = Console(width=150)
    console.print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    if arguments.what == "disk":
        _disk(console, arguments.folder)
    elif arguments.what == "following":
        from benchmarks import following

        show(console, ("following", "measured", "goal"), following.rows())
    elif arguments.what == "far":
        from benchmarks import far

        show(console, far.COLUMNS, far.rows(arguments.seconds))
    elif arguments.what == "project":
        from benchmarks import project, runs

        console.print(f"Prefect's database: {runs.DATABASE}")
        for row in project.rows([int(count) for count in arguments.sessions.split(",")]):
            show(console, project.COLUMNS, [row])
    elif arguments.what == "science":
        from benchmarks import science

        show(console, science.COLUMNS, list(science.rows(arguments.parts)))
    else:
        _cluster(console, arguments.graphs, arguments.repeats)


def _cluster(console: Console, graphs: str, repeats: int) -> None:
    from benchmarks import cluster, runs

    console.print(f"Prefect's database: {runs.DATABASE}")
    found = cluster.measure(graphs, repeats)
    show(console, cluster.COLUMNS, [cluster.row(*each) for each in found.items()])
    show(console, cluster.REQUEST_COLUMNS, [line for each in found.items() for line in cluster.request_rows(*each)])


def _disk(console: Console, where: str | None) -> None:
    from benchmarks import files, start, state_files

    with files.scratch(where) as name:
        folder = Path(name)
        show(console, start.COLUMNS, start.rows(folder))
        show(
            console,
            ("state files", "processes", "ours", "floor", "floor / ours", "slowest", "floor's slowest"),
            state_files.rows(folder),
        )
        show(console, ("files", "ours", "alternative", "theirs", "ours / theirs"), files.rows(folder))


def show(console: Console, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print a table."""
    table = Table(*columns)
    for row in rows:
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    main()
