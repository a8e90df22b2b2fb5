"""Makespan and requests of graphs of trivial jobs on a real cluster, against sbatch alone and Prefect's own share."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass, field

from benchmarks.graphs import SHAPES
from benchmarks.runs import Bench, bench, requests_of

GOALS = {"A": 1.3, "B": 1.1, "C": 1.1}
REQUEST_GOALS = {"B": " (≤ 1.5)"}  # per job
Row = tuple[str, ...]


@dataclass
class Measured:
    """What the runs of one graph gave, each a list in the order of the runs.

    Attributes:
        floor, null, ours: seconds.
        requests, floor_requests: of the controller, by kind.
        channels: logins and channels of a run of ours.
        lost: pipelines that did not succeed.
    """

    floor: list[float] = field(default_factory=list)
    null: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    requests: list[Counter[str]] = field(default_factory=list)
    floor_requests: list[Counter[str]] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    channels: list[tuple[int, int]] = field(default_factory=list)
    lost: int = 0


def measure(graphs: str, repeats: int) -> dict[str, Measured]:
    """Run each graph so often; the runs of floor, Prefect's own share and ours take turns."""
    found = {graph: Measured() for graph in graphs}
    with bench() as on:
        for _ in range(repeats):
            for graph, measured in found.items():
                _measure(on, graph, measured)
    return found


def _measure(on: Bench, graph: str, measured: Measured) -> None:
    before = requests_of(on.cluster)
    measured.floor.append(on.floor(graph))
    between = requests_of(on.cluster)
    measured.floor_requests.append(between - before)
    measured.null.append(float(on.flows(graph, "null")["seconds"]))
    sshd, between = on.cluster.sshd, requests_of(on.cluster)
    logins, channels = sshd.logins, sshd.channels
    told = on.flows(graph)
    measured.ours.append(float(told["seconds"]))
    measured.requests.append(requests_of(on.cluster) - between)
    measured.megabytes.append(float(told["megabytes"]))
    measured.channels.append((sshd.logins - logins, sshd.channels - channels))
    measured.lost += int(told["of"]) - int(told["succeeded"])


def row(graph: str, measured: Measured) -> Row:
    """Return a graph's row of the table with `COLUMNS`."""
    floor, null, ours = (statistics.median(times) for times in (measured.floor, measured.null, measured.ours))
    logins, channels = measured.channels[-1]
    return (
        graph,
        f"{floor:.1f} s",
        f"{null:.1f} s",
        f"{ours:.1f} s",
        f"{ours / (floor + null):.2f} (≤ {GOALS[graph]})",
        " / ".join(f"{_per_job(graph, counts):.2f}" for counts in (measured.requests, measured.floor_requests)),
        f"{logins} / {channels}",
        f"{statistics.median(measured.megabytes):.0f} MB",
        str(measured.lost),
    )


def request_rows(graph: str, measured: Measured) -> list[Row]:
    """Return which requests the controller served for each job of a graph, by kind, for `REQUEST_COLUMNS`."""
    counted = measured.requests, measured.floor_requests
    kinds = sorted({kind for counts in counted for count in counts for kind in count})
    found = [(f"{graph}: {kind}", *(f"{_per_job(graph, counts, kind):.2f}" for counts in counted)) for kind in kinds]
    total = f"{_per_job(graph, measured.requests):.2f}{REQUEST_GOALS.get(graph, '')}"
    return [*found, (f"{graph}: all", total, f"{_per_job(graph, measured.floor_requests):.2f}")]


def _per_job(graph: str, counts: list[Counter[str]], kind: str = "") -> float:
    jobs = SHAPES[graph][0] * sum(SHAPES[graph][1])
    return statistics.median(count[kind] if kind else count.total() for count in counts) / jobs


COLUMNS = (
    *("graph", "floor", "Prefect's own", "ours", "ours / (floor + own)"),
    *("requests per job / floor", "logins / channels", "memory", "lost"),
)
REQUEST_COLUMNS = ("requests to the controller, per job", "ours", "floor")
