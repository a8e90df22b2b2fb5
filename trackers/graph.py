"""What a pipeline hands to the scheduler: stages of jobs, each a command with what it asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any, Self

from trackers.errors import BadInputError

PYTHON = "{python}"  # a word of a command that stands for the interpreter of the job's environment
MANAGER_ID = "{manager_id}"  # a word of a command that stands for the manager that holds the lock when it starts
_JOB_NAME = re.compile(r"[a-z0-9]([a-z0-9_.-]{0,62}[a-z0-9])?", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


@dataclass(frozen=True)
class Resources:
    """What a job asks of the scheduler.

    Attributes:
        cpus: cores.
        memory_gb: memory, GB (10^9 bytes).
        minutes: time limit, minutes.
        gpus: graphics cards.
        maximum_memory_gb: how far a retry after running out of memory may go; the same as `memory_gb`: never.
        maximum_minutes: how far a retry after a time limit may go; the same as `minutes`: never.
    """

    cpus: int = 1
    memory_gb: float = 1.0
    minutes: int = 60
    gpus: int = 0
    maximum_memory_gb: float = 0.0
    maximum_minutes: int = 0

    def __post_init__(self) -> None:
        if self.cpus < 1 or self.memory_gb <= 0 or self.minutes < 1 or self.gpus < 0:
            raise BadInputError(
                f"A job cannot ask for {self}: cpus, memory and minutes are positive. Nothing was done."
            )


@dataclass(frozen=True)
class Job:
    """One command on the server.

    Attributes:
        name: of lower-case letters, digits, `_ . -`; unique in its pipeline.
        command: the argument list, quoted where the job script holds it; the words `PYTHON` and `MANAGER_ID` are
            filled in on the server.
        environment: which of the server's environments it runs in ("core", "behavior", …).
        variables: environment variables to set.
        working_directory: absolute; empty for the attempt's own directory.
        drives_tracker: the command is a program of sl-shared-assets that writes the tracker itself; we leave the
            tracker alone while it runs, and correct it afterwards.
    """

    name: str
    command: tuple[str, ...]
    resources: Resources = field(default_factory=Resources)
    environment: str = "core"
    variables: dict[str, str] = field(default_factory=dict)
    working_directory: str = ""
    drives_tracker: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "command", tuple(str(word) for word in self.command))
        if not _JOB_NAME.fullmatch(self.name):
            raise BadInputError(f"{self.name!r} cannot name a job: use a-z, 0-9, _ . - (64 at most). Nothing was done.")
        if not self.command or any("\0" in word or "\n" in word for word in self.command):
            raise BadInputError(f"Job {self.name} has a command that is empty or has a newline. Nothing was done.")
        if any(not _VARIABLE.fullmatch(name) or "\0" in value for name, value in self.variables.items()):
            raise BadInputError(f"Job {self.name} has a variable with an impossible name or value. Nothing was done.")
        if self.working_directory and not PurePosixPath(self.working_directory).is_absolute():
            raise BadInputError(f"Job {self.name} has a relative working directory. Nothing was done.")


@dataclass(frozen=True)
class Stage:
    """Jobs that may run at the same time, after every job of the stage before has succeeded."""

    name: str
    jobs: tuple[Job, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "jobs", tuple(self.jobs))


@dataclass(frozen=True)
class Graph:
    """A pipeline's stages in order; job names are unique."""

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(stage for stage in self.stages if stage.jobs))
        names = [job.name for job in self.jobs()]
        if not names:
            raise BadInputError("A pipeline without jobs cannot be submitted. Nothing was done.")
        if repeated := {name for name in names if names.count(name) > 1}:
            raise BadInputError(f"Two jobs of one pipeline are named {', '.join(sorted(repeated))}. Nothing was done.")

    def jobs(self) -> Iterator[Job]:
        """Go through all jobs, stage by stage."""
        for stage in self.stages:
            yield from stage.jobs

    def stage_of(self, name: str) -> int:
        """Return the index of the stage that a job belongs to.

        Raises:
            KeyError: no job has that name.
        """
        for index, stage in enumerate(self.stages):
            if any(job.name == name for job in stage.jobs):
                return index
        raise KeyError(name)

    def to_json(self) -> list[dict[str, Any]]:
        """Return what `from_json` reads."""
        return [asdict(stage) for stage in self.stages]

    @classmethod
    def from_json(cls, data: list[dict[str, Any]]) -> Self:
        """Read a graph from JSON.

        Raises:
            BadInputError: something in it is not as it must be.
        """
        try:
            return cls(
                tuple(
                    Stage(
                        str(stage["name"]),
                        tuple(Job(**{**job, "resources": Resources(**job["resources"])}) for job in stage["jobs"]),
                    )
                    for stage in data
                )
            )
        except (KeyError, TypeError) as error:
            raise BadInputError(f"This is no graph of jobs ({error!r}). Nothing was done.") from None
