"""Prefect's server, before and while flows need it: reached or started, and a sentence where it is not there."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import TypeVar

import httpx
from prefect.client.base import ServerType
from prefect.client.orchestration import PrefectClient, get_client
from prefect.context import AsyncClientContext, SyncClientContext
from prefect.settings import PREFECT_API_URL, PREFECT_HOME

from trackers.errors import PrefectError

BUSY_SECONDS = 600.0  # for which a busy database is asked again every second, before a client's tries count
R = TypeVar("R")
_guards: list[subprocess.Popen[bytes]] = []
_reached: set[str | None] = set()  # the servers that have answered in this process
_starting = threading.Lock()  # a second flow of this process waits until the first one's temporary server answers


async def reach_prefect() -> None:
    """Make sure, once, that Prefect's server answers; where none is named, start a temporary one for this process.

    Raises:
        PrefectError: it does not answer, refuses us, or cannot be started; nothing was done.
    """
    named = PREFECT_API_URL.value()
    if named in _reached:
        return
    if not named:
        _check_home(PREFECT_HOME.value())
    try:
        async with await asyncio.to_thread(_client) as client:
            await client.raise_for_api_version_mismatch_once()  # which flows ask then no more
    except Exception as error:  # of many kinds: unreachable, another version, a login, no server allowed
        what, remedy = (
            "Prefect's temporary server",
            "Start one with `prefect server start` and name it in PREFECT_API_URL.",
        )
        if named:
            what = f"Prefect's server {named}"
            remedy = "Check PREFECT_API_URL (without it, a temporary server is started) and PREFECT_API_AUTH_STRING."
        raise PrefectError(f"{what} cannot be used: {_first_line(error)}. Nothing was done. {remedy}") from error
    _reached.add(named)


@contextlib.asynccontextmanager
async def prefect_clients() -> AsyncIterator[None]:
    """Have one client of each kind for all runs below, which asks a busy SQLite again every second.

    SQLite that is written to by others refuses to create a run as often as not (`BUSY_SNAPSHOT`: the server reads
    before it writes), however few are created at once. By itself the client waits 2, 4, 8 … s, and gives up.
    """
    with SyncClientContext.get_or_create():
        async with AsyncClientContext.get_or_create() as context:
            hooks = context.client._client.event_hooks["response"]
            if _again_soon not in hooks:
                hooks.append(_again_soon)
            yield


async def _again_soon(response: httpx.Response) -> None:
    """Have a client repeat what a busy database refused, by the headers with which Prefect asks for patience."""
    if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
        return
    since: float = response.request.extensions.setdefault("busy_since", time.monotonic())
    if b"exception_message" in await response.aread() and time.monotonic() < since + BUSY_SECONDS:
        response.headers.update({"Retry-After": "1", "Prefect-Maintenance": "true"})


async def while_prefect_answers(work: Awaitable[R]) -> R:
    """Await a flow run, and say in a sentence that Prefect's server went away where it did.

    Raises:
        PrefectError: it went away; the session's own records and lock do not depend on it.
    """
    try:
        return await work
    except httpx.HTTPError as error:
        raise PrefectError(
            f"Prefect's server has stopped answering ({_first_line(error)}), so this run could not be reported to it. "
            "What was done stands in the session's own records. Run the same again: it goes on from there."
        ) from error


def _client() -> PrefectClient:
    # The temporary server inherits this thread's mask: Ctrl-C in a terminal reaches every process of the foreground,
    # and without the server a flow waits for minutes before it can end. It is told to end when we do.
    if sys.platform == "win32":
        return get_client()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with _starting:
            client = get_client()
            if client.server_type is ServerType.EPHEMERAL and not _guards:
                _guards.append(_guard())
            return client
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _guard() -> subprocess.Popen[bytes]:
    """Start what ends the temporary server when this process is killed: its input is ours, and closes with us."""
    from prefect.server.api.server import SubprocessASGIServer

    server = SubprocessASGIServer().server_process
    assert server is not None  # noqa: S101 - the client that was just made uses it
    return subprocess.Popen(
        ["/bin/sh", "-c", 'read -r _; kill "$1"', "sh", str(server.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _check_home(home: Path) -> None:
    """Refuse a home that cannot be written before a server takes half a minute to fail on it."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home) as probe:
            probe.write(b"x")
    except OSError as error:
        raise PrefectError(
            f"Prefect keeps its runs in {home}, which cannot be written: {error.strerror}. Nothing was done. "
            "Set PREFECT_HOME to a folder that can be written, or PREFECT_API_URL to a server that runs."
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
