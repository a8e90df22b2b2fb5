"""The science pipelines against a known truth, in one table: `python -m benchmarks science`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from benchmarks import science_forging, science_multiday, science_suite2p

ENVIRONMENTS = "SESSIONFLOW_TEST_ENVIRONMENTS"  # a folder that holds suite2p/, forging/, … each with bin/python
COLUMNS = ("what", "measured", "wanted")
Row = tuple[str, str, str]


def rows(parts: str = "suite2p,multiday,forging") -> Iterator[Row]:
    """Yield the rows of each part; a part whose environment is not there says so."""
    for part in parts.split(","):
        environment = "suite2p" if part == "multiday" else part
        python = Path(os.environ.get(ENVIRONMENTS, "/nonexistent")) / environment / "bin" / "python"
        if part == "multiday":
            yield from science_multiday.rows(python)
        elif not python.exists():
            yield part, f"not run: {ENVIRONMENTS} names no folder with the environment {part}", ""
        elif part == "suite2p":
            yield from science_suite2p.rows(python)
        else:
            yield from science_forging.rows(python)
