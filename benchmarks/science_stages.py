"""Time and memory of every stage of all nine pipelines and the report, at two sizes, and how they grow.

Generated sessions go through the pipelines by the command, as people run them; each job's interpreter is a script that
notes what the job's process cost, its start and imports included. Local processes keep no such record by themselves.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import yaml

from jobs.generate_imaging import SIZES
from jobs.generate_science import generate_science

PROJECT, DATASET, DAYS, SEED = "science", "both", 2, 7001
OF_PAYLOADS = ("suite2p", "video", "forging", "report")
OF_THIS_PYTHON = ("core", "manifest", "behavior")
SETTINGS = {"suite2p": {"registration.nonrigid": False}, "forging": {"species": "Mus musculus"}}
ROOT = Path(__file__).parents[1]
Row = tuple[str, str, str]


@dataclass(frozen=True)
class Cost:
    """What the most expensive of a stage's jobs cost.

    Attributes:
        seconds: from its start to its end, which other programs on the computer lengthen.
        processor: seconds of all cores together, which they hardly do.
        gigabytes: the most memory at a time.
    """

    seconds: float = 0.0
    processor: float = 0.0
    gigabytes: float = 0.0

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s ({self.processor:.1f} s) {self.gigabytes:.2f} GB"

    def most(self, other: Cost) -> Cost:
        """Return the larger of two costs, each number by itself."""
        return Cost(*map(max, astuple(self), astuple(other)))


def rows(environments: Path, sizes: Sequence[str] = ("ci", "small")) -> Iterator[Row]:
    """Yield a row for each stage: what its largest job cost at each size, and by how much that grew.

    Args:
        environments: folder that holds the environments by name.
        sizes: two, the smaller first.
    """
    first, last = (SIZES[size] for size in sizes)
    volumes, pixels = last.volumes / first.volumes, (last.pixels / first.pixels) ** 2 * last.planes / first.planes
    what = "time (processor's), memory of a stage's largest job"
    yield what, f"{sizes[0]}; {sizes[1]}: duration × {volumes:g}, movie × {volumes * pixels:g}", ""
    costs = [_costs(environments, size) for size in sizes]
    for stage, small in costs[0].items():
        large = costs[1][stage]
        grown = f"time × {large.processor / small.processor:.1f}, memory × {large.gigabytes / small.gigabytes:.1f}"
        yield stage, f"{small}; {large}: {grown}", ""


def _costs(environments: Path, size: str) -> dict[str, Cost]:
    """Take sessions of a size through all pipelines; return what each stage cost, in order of their first jobs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sessions = _generated(folder, size)
        server = _server(folder, environments)
        target = ("--project", PROJECT, "--server", str(server))
        days = ("--animal", "305", "--dataset", DATASET, "--sessions", *sessions)
        _sessionflow(folder, "process-project", PROJECT, "--server", str(server))
        _sessionflow(folder, "run", "multiday", *target, *days)
        _sessionflow(folder, "forge", DATASET, *target)
        _sessionflow(folder, "process-project", PROJECT, "--server", str(server), "--archive")
        found: dict[str, Cost] = {}
        for line in (folder / "costs").read_text().splitlines():
            words = json.loads(line)
            if stage := _stage(words.pop("command")):
                found[stage] = found.get(stage, Cost()).most(Cost(**words))
        return found


def _generated(folder: Path, size: str) -> list[str]:
    """Write a project of a few days, and its settings; return the sessions' names."""
    for volume in ("storage", "working"):
        (folder / volume).mkdir()
    made = generate_science(folder / "storage", PROJECT, size=size, days=DAYS, seed=SEED)
    settings = folder / "storage" / PROJECT / "settings" / "project.yaml"
    settings.parent.mkdir()
    settings.write_text(yaml.safe_dump(SETTINGS))
    return [session.session for session in made.sessions]


def _server(folder: Path, environments: Path) -> Path:
    """Describe this computer as a server whose interpreters note what they cost; return the description."""
    pythons = {name: environments / name / "bin" / "python" for name in OF_PAYLOADS}
    pythons |= {name: Path(sys.executable) for name in OF_THIS_PYTHON}
    for name, python in pythons.items():
        script = folder / f"python-{name}"
        words = [sys.executable, "-m", "benchmarks.measured", str(folder / "costs"), str(python)]
        script.write_text(f'#!/bin/sh\nexport PYTHONPATH={shlex.quote(str(ROOT))}\nexec {shlex.join(words)} "$@"\n')
        script.chmod(0o755)
    description = {
        "storage_root": str(folder / "storage"),
        "working_root": str(folder / "working"),
        "environments": {name: {"python": str(folder / f"python-{name}")} for name in pythons},
        "resources": {"*": {"cpus": os.cpu_count()}},  # one job at a time: none is slowed down by another
    }
    path = folder / "server.yaml"
    path.write_text(yaml.safe_dump(description))
    return path


def _sessionflow(folder: Path, *words: str) -> None:
    """Run the command with a temporary Prefect server of its own."""
    environment = {**os.environ, "PREFECT_HOME": str(folder / "prefect"), "PYTHONPATH": str(ROOT)}
    environment.pop("PREFECT_API_URL", None)
    command = [sys.executable, "-m", "flows.cli", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def _stage(command: list[str]) -> str:
    """Return the stage that a job's command belongs to; empty where it is no job."""
    module = next((word.removeprefix("jobs.") for word in command if word.startswith("jobs.")), "")
    return " ".join([module, *(command[command.index("--stage") + 1 :][:1] if "--stage" in command else ())])
