"""A server as its own side sees it: volumes, scheduler, and the environments that jobs run in."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from trackers.errors import BadInputError
from trackers.graph import MANAGER_ID, PYTHON, Job
from trackers.layout import Volumes
from trackers.processes import this_account

SCHEDULERS = ("local", "slurm")
INSTALLED = ".local/share/sessionflow"  # below the account's home: where `server install` puts environments
VERSIONS = "versions"  # beside them: where they really are
LIGHT = ("core", "manifest", "behavior")  # a manager's own environment has what their jobs need
ACCOUNT = "{account}"  # in the datasets' folder: the account that the server side runs under


@dataclass(frozen=True)
class Environment:
    """What a job's command needs around it.

    Attributes:
        python: the interpreter that the word `PYTHON` stands for; empty: the one that `server install` put beside the
            server side's own, else the server side's own.
        activate: shell words of the site's administrator that run before the command (`module load …`,
            `source activate …`); the job fails where they do.
    """

    python: str = ""
    activate: str = ""


@dataclass(frozen=True)
class SlurmOptions:
    """What every job of a site asks of Slurm beside its resources.

    Attributes:
        partition, account, qos: empty: the site's default.
        options: further words for sbatch, e.g. `--constraint=avx512`.
    """

    partition: str = ""
    account: str = ""
    qos: str = ""
    options: tuple[str, ...] = ()

    def words(self) -> list[str]:
        """Return the options as sbatch takes them."""
        named = {"partition": self.partition, "account": self.account, "qos": self.qos}
        return [*(f"--{name}={value}" for name, value in named.items() if value), *self.options]


@dataclass(frozen=True)
class Site:
    """What every request says of the server that it is sent to.

    Attributes:
        name: what the manager calls it; empty for its own computer.
        datasets: the folder that holds this account's datasets, by project: WORKING/USER.
        own_programs: names of the pipelines that programs of the lab's own carry out, or some of their jobs.
    """

    volumes: Volumes
    scheduler: str = "local"
    environments: dict[str, Environment] = field(default_factory=dict)
    slurm: SlurmOptions = field(default_factory=SlurmOptions)
    name: str = ""
    datasets: Path = Path()
    own_programs: frozenset[str] = frozenset()

    @property
    def state_directory(self) -> Path:
        """Where state lies that belongs to no target: core shares and announcements."""
        return self.volumes.working / ".sessionflow"

    @property
    def announcements(self) -> Path:
        """Where job scripts leave their keys when they began or ended."""
        return self.state_directory / "announcements"

    def environment(self, name: str) -> Environment:
        """Return what the jobs of an environment need; one that the site does not describe needs nothing."""
        return self.environments.get(name, Environment())

    def command(self, job: Job, manager_id: int) -> tuple[str, ...]:
        """Return a job's argument list with interpreter and manager id filled in."""
        filled = {PYTHON: self.interpreter(job.environment), MANAGER_ID: str(manager_id)}
        return tuple(filled.get(word, word) for word in job.command)

    def interpreter(self, name: str) -> str:
        """Return the interpreter that `PYTHON` stands for in an environment."""
        environment = self.environment(name)
        if environment.python:
            return environment.python
        if environment.activate:
            return "python"
        return str(installed_python(name) or sys.executable)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Read a site from a request.

        Raises:
            BadInputError: a root is missing or relative, or the scheduler unknown.
        """
        try:
            storage = Path(data["storage"])
            working = Path(data.get("working") or storage)
        except (KeyError, TypeError):
            raise BadInputError("A request must name the server's storage root. Nothing was done.") from None
        datasets = Path(str(data.get("datasets") or working / ACCOUNT).replace(ACCOUNT, this_account()))
        for root in (storage, working, datasets):
            if not root.is_absolute():
                raise BadInputError(f"The root {root} is no absolute path. Nothing was done.")
            if any(ord(character) < ord(" ") for character in str(root)):
                raise BadInputError(
                    f"The root {str(root)!r} has a line break or another such character. Nothing was done."
                )
        scheduler = str(data.get("scheduler") or "local")
        if scheduler not in SCHEDULERS:
            raise BadInputError(f"{scheduler!r} is no scheduler; known are {', '.join(SCHEDULERS)}. Nothing was done.")
        try:
            environments = {name: Environment(**e) for name, e in dict(data.get("environments") or {}).items()}
            slurm = dict(data.get("slurm") or {})
            options = SlurmOptions(**{**slurm, "options": tuple(map(str, slurm.get("options") or ()))})
        except (TypeError, ValueError) as error:
            raise BadInputError(f"This describes no server: {error}. Nothing was done.") from None
        name = str(data.get("name") or "")
        own_programs = frozenset(map(str, data.get("own_programs") or ()))
        return cls(Volumes(storage, working), scheduler, environments, options, name, datasets, own_programs)


def installed_root() -> Path:
    """Return where `server install` made environments: around the one that runs here, else in the account's home."""
    around = Path(sys.prefix).parent
    return around if runs_installed() else Path.home() / INSTALLED


def runs_installed() -> bool:
    """Whether this program runs in an environment that `server install` made."""
    return sys.prefix != sys.base_prefix and (Path(sys.prefix).parent / VERSIONS).is_dir()


def installed_python(name: str) -> Path | None:
    """Return the interpreter that `server install` made for an environment; None where there is none of that name.

    A manager's own computer needs none for the light ones, and takes none that another manager may have put there.
    """
    if name in LIGHT and not runs_installed():
        return None
    python = installed_root() / name / "bin" / "python"
    return python if os.path.exists(python) else None  # noqa: PTH110 - never raises
