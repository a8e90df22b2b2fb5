"""Manager ids: who works on a session, as an unsigned 64-bit number."""

from __future__ import annotations

import os
import time

import xxhash

NOBODY = -1
MAXIMUM_MANAGER_ID = 2**64 - 1


def generate_manager_id() -> int:
    """Return a new manager id: xxh3-64 of a microsecond timestamp and a random number, as sl-shared-assets does."""
    return xxhash.xxh3_64_intdigest(f"{time.time_ns() // 1000}-{os.urandom(8).hex()}".encode())


def manager_id_of_flow_run(flow_run_id: str) -> int:
    """Return the manager id of a Prefect flow run: the same for every retry of that run."""
    return xxhash.xxh3_64_intdigest(f"prefect-flow-run-{flow_run_id}".encode())


def validate_manager_id(manager_id: int) -> int:
    """Return `manager_id` if it is an unsigned 64-bit integer.

    Raises:
        ValueError: it is not.
    """
    if isinstance(manager_id, bool) or not isinstance(manager_id, int) or not 0 <= manager_id <= MAXIMUM_MANAGER_ID:
        raise ValueError(
            f"{manager_id!r} is no manager id: an integer from 0 to 2^64 - 1 is needed. Nothing was changed."
        )
    return manager_id
