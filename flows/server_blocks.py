"""Described servers as blocks, which Prefect's forms offer; of file and block the one that was changed last counts."""

from __future__ import annotations

import asyncio
import contextlib
import re
from datetime import UTC, datetime
from typing import Any

from httpx import HTTPError
from prefect.client.orchestration import PrefectClient, get_client
from prefect.exceptions import ObjectNotFound, PrefectException

from tasks import server_files
from tasks.compute_server import ComputeServer
from tasks.mail import Mail
from tasks.servers import find_server

SECONDS_AT_MOST = 30.0  # a command that keeps a description waits no longer for Prefect


def block_name(server: str) -> str:
    """Return a server's name as a block can have it."""
    return re.sub(r"[^a-z0-9]+", "-", server.lower()).strip("-")


async def register() -> None:
    """Let Prefect know what our blocks look like."""
    await asyncio.to_thread(_register)


async def put_block(client: PrefectClient, name: str) -> tuple[Any, str]:
    """Make the block of a described server, or bring it up to date.

    Returns:
        its id, and what was done, in words.

    Raises:
        BadInputError: there is no such server, or its description is no good.
    """
    server, block, path = find_server(name), block_name(name), server_files.path_of(name)
    wanted = ComputeServer(**server.model_dump())
    try:
        document = await client.read_block_document_by_name(block, ComputeServer.get_block_type_slug())
    except ObjectNotFound:
        return await wanted.save(block, client=client), f"{block}, made"
    fields = set(type(server).model_fields)  # the block's model has some of its own, which Prefect does not keep
    with contextlib.suppress(ValueError):  # one that a newer or older version made
        if ComputeServer(**document.data).model_dump(include=fields) == wanted.model_dump(include=fields):
            return document.id, block
    changed = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    if document.updated is not None and document.updated > changed:
        return document.id, f"{block} (kept as it was edited in the UI; it differs from {path})"
    return await wanted.save(block, overwrite=True, client=client), f"{block}, changed as its file"


def block_in_words(name: str, api: str) -> str:
    """Make the block of a described server on the Prefect server of PREFECT_API_URL; say what was done, or why not."""

    async def put() -> str:
        async with asyncio.timeout(SECONDS_AT_MOST), get_client() as client:
            if (problem := await client.api_healthcheck()) is not None:
                raise problem
            await register()
            return (await put_block(client, name))[1]

    try:
        return f"In Prefect's forms: {asyncio.run(put())}."
    except (HTTPError, OSError, PrefectException, RuntimeError) as error:
        why = str(error).splitlines()[0] if str(error) else f"no answer within {SECONDS_AT_MOST:g} s"
        return (
            f"Prefect's forms do not offer it yet: {api} could not be told ({why}). The description is kept; the next "
            "start of `sessionflow up`, or the same command again, does it."
        )


def _register() -> None:
    for kind in (ComputeServer, Mail):
        kind.register_type_and_schema(_sync=True)  # type: ignore[call-arg]


def reference(block: Any) -> dict[str, Any]:
    """Return a run's parameter that is a block, by the block's id."""
    return {"$ref": {"block_document_id": str(block)}}
