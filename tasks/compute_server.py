"""Where pipelines run: a server's volumes and scheduler, as a Prefect block that people can edit in the UI."""

from __future__ import annotations

import os
from pathlib import Path, PurePath
from typing import Any, Literal

from prefect.blocks.core import Block
from pydantic import Field

from trackers.errors import BadInputError

STORAGE_VARIABLE = "SESSIONFLOW_STORAGE"
WORKING_VARIABLE = "SESSIONFLOW_WORKING"


class ComputeServer(Block):
    """A compute server; without a host it is this computer. It holds no secret."""

    _block_type_name = "Compute Server"
    _block_type_slug = "compute-server"

    storage_root: str = Field(description="Absolute path of the slow, large volume.")
    working_root: str = Field(default="", description="Absolute path of the fast, small volume; empty: one volume.")
    shared_directory_name: str = Field(
        default="", description="Folder of both volumes that holds the projects; empty: the roots themselves."
    )
    scheduler: Literal["local"] = Field(default="local", description="What runs the jobs: local processes.")

    @property
    def storage(self) -> str:
        """The folder that holds the projects on the storage volume."""
        return str(PurePath(self.storage_root) / self.shared_directory_name)

    @property
    def working(self) -> str:
        """The folder that holds the projects on the working volume."""
        return str(PurePath(self.working_root or self.storage_root) / self.shared_directory_name)

    def site(self) -> dict[str, Any]:
        """Return what every request to the server side says of the server."""
        return {"storage": self.storage, "working": self.working, "scheduler": self.scheduler}


def this_computer() -> ComputeServer:
    """Return this computer with the volumes that the environment names.

    Raises:
        BadInputError: the environment names none.
    """
    storage = os.environ.get(STORAGE_VARIABLE)
    if not storage:
        raise BadInputError(
            f"No server was given, and {STORAGE_VARIABLE} does not name a storage root here. Nothing was done. "
            f"Set {STORAGE_VARIABLE} (and {WORKING_VARIABLE}), or pass ComputeServer(storage_root=…, working_root=…)."
        )
    working = os.environ.get(WORKING_VARIABLE) or storage
    return ComputeServer(storage_root=str(Path(storage).absolute()), working_root=str(Path(working).absolute()))
