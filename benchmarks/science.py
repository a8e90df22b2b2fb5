"""The science pipelines against a known truth, in one table: `python -m benchmarks science`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import science_behavior, science_forging, science_multiday, science_stages, science_suite2p

ENVIRONMENTS = "SESSIONFLOW_TEST_ENVIRONMENTS"  # a folder that holds suite2p/, forging/, … each with bin/python
COLUMNS = ("what", "measured", "wanted")
Row = tuple[str, str, str]


def rows(parts: str) -> Iterator[Row]:
    """Yield the rows of each part; a part whose environment is not there says so.

    Raises:
        SystemExit: there is no part of such a name.
    """
    names = parts.split(",")
    if unknown := sorted(set(names) - set(PARTS)):
        raise SystemExit(f"There is no part {', '.join(unknown)}; there are {', '.join(PARTS)}.")
    environments = Path(os.environ.get(ENVIRONMENTS, "/nonexistent"))
    for name in names:
        needs, measured = PARTS[name]
        if missing := [each for each in needs if not (environments / each / "bin" / "python").exists()]:
            yield name, f"not run: {ENVIRONMENTS} names no folder with the environment {', '.join(missing)}", ""
        else:
            yield from measured(environments)


PARTS: dict[str, tuple[tuple[str, ...], Callable[[Path], Iterator[Row]]]] = {  # which environments each needs
    "suite2p": (("suite2p",), lambda environments: science_suite2p.rows(environments / "suite2p/bin/python")),
    "multiday": ((), lambda environments: science_multiday.rows(environments / "suite2p/bin/python")),
    "behavior": ((), lambda _: science_behavior.rows()),
    "forging": (("forging",), lambda environments: science_forging.rows(environments / "forging/bin/python")),
    "stages": (science_stages.OF_PAYLOADS, science_stages.rows),
}
