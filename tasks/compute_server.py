"""A server's description as a Prefect block, which people can make and edit in the UI."""

from __future__ import annotations

import os
from pathlib import Path

from prefect.blocks.core import Block

from tasks.servers import Server
from trackers.errors import BadInputError

STORAGE_VARIABLE = "SESSIONFLOW_STORAGE"
WORKING_VARIABLE = "SESSIONFLOW_WORKING"
DATASETS_VARIABLE = "SESSIONFLOW_DATASETS"


class ComputeServer(Server, Block):
    """A compute server; without a host it is this computer. It holds the path of a key, and no secret."""

    _block_type_name = "Compute Server"
    _block_type_slug = "compute-server"


def this_computer() -> ComputeServer:
    """Return this computer with the volumes that the environment names.

    Raises:
        BadInputError: the environment names none.
    """
    storage = os.environ.get(STORAGE_VARIABLE)
    if not storage:
        raise BadInputError(
            f"No server was given, and {STORAGE_VARIABLE} does not name a storage root here. Nothing was done. "
            f"Set {STORAGE_VARIABLE} (and {WORKING_VARIABLE}), pass ComputeServer(storage_root=…, working_root=…), or "
            "choose a server among the parameters of the run's deployment in Prefect."
        )
    working = os.environ.get(WORKING_VARIABLE) or storage
    return ComputeServer(
        storage_root=str(Path(storage).absolute()),
        working_root=str(Path(working).absolute()),
        datasets_root=os.environ.get(DATASETS_VARIABLE, ""),
    )
