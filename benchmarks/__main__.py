"""`python -m benchmarks disk [FOLDER]`: print what was measured, as a table."""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import files, state_files


def main() -> None:
    """Carry out the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measures; prints a table.")
    parser.add_argument("what", choices=("disk",), help="state files, checksum, copy and manifest on one disk")
    parser.add_argument("folder", nargs="?", help="on the disk to measure (default: the temporary folder's)")
    arguments = parser.parse_args()
    console = Console(width=130)
    console.print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with files.scratch(arguments.folder) as name:
        folder = Path(name)
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
