"""A server as its own side sees it: volumes, scheduler, and the environments that jobs run in."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from trackers.errors import BadInputError
from trackers.graph import MANAGER_ID, PYTHON, Job
from trackers.layout import Volumes

SCHEDULERS = ("local", "slurm")


@dataclass(frozen=True)
class Site:
    """What every request says of the server that it is sent to.

    Attributes:
        pythons: interpreter of each environment; those that are not named use the server side's own.
    """

    volumes: Volumes
    scheduler: str = "local"
    pythons: dict[str, str] = field(default_factory=dict)

    @property
    def state_directory(self) -> Path:
        """Where state lies that belongs to no target: core shares and announcements."""
        return self.volumes.working / ".sessionflow"

    @property
    def announcements(self) -> Path:
        """Where job scripts leave their keys when they began or ended."""
        return self.state_directory / "announcements"

    def command(self, job: Job, manager_id: int) -> tuple[str, ...]:
        """Return a job's argument list with interpreter and manager id filled in."""
        filled = {PYTHON: self.pythons.get(job.environment, sys.executable), MANAGER_ID: str(manager_id)}
        return tuple(filled.get(word, word) for word in job.command)

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
        for root in (storage, working):
            if not root.is_absolute():
                raise BadInputError(f"The root {root} is no absolute path. Nothing was done.")
        scheduler = str(data.get("scheduler") or "local")
        if scheduler not in SCHEDULERS:
            raise BadInputError(f"{scheduler!r} is no scheduler; known are {', '.join(SCHEDULERS)}. Nothing was done.")
        return cls(Volumes(storage, working), scheduler, dict(data.get("pythons") or {}))
