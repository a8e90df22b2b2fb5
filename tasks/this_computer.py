"""Commands on this computer, run as a connection runs them on a server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tasks.ssh import Completed, Input
from trackers.errors import CommandTimeoutError


class Runs(Protocol):
    """Whatever runs commands to their end: a connection to a server, or this computer."""

    async def run(self, command: Sequence[str], *, input: Input = b"", timeout: float = 60) -> Completed: ...  # noqa: A002, ASYNC109, D102

    async def close(self) -> None: ...  # noqa: D102 - see `tasks.ssh.Connection`


class ThisComputer:
    """This computer, in place of a server; commands begin in the account's home, as over SSH."""

    async def run(self, command: Sequence[str], *, input: Input = b"", timeout: float = 60) -> Completed:  # noqa: A002, ASYNC109
        """Run a command to its end; see `tasks.ssh.Connection`."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=Path.home())
        assert process.stdin is not None  # noqa: S101 - it was opened as a pipe
        assert process.stdout is not None  # noqa: S101
        assert process.stderr is not None  # noqa: S101
        try:
            async with asyncio.timeout(timeout):
                _, output, errors = await asyncio.gather(
                    _feed(process.stdin, input), process.stdout.read(), process.stderr.read()
                )
                return Completed(await process.wait(), output, errors)
        except TimeoutError:
            raise CommandTimeoutError(
                f"`{command[0]}` did not end within {timeout:g} s. It was ended; what it did so far stays."
            ) from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def close(self) -> None:
        """Nothing is open."""


async def _feed(stdin: asyncio.StreamWriter, data: Input) -> None:
    with contextlib.suppress(ConnectionError):  # a command need not read its input
        for piece in [data] if isinstance(data, bytes) else data:
            stdin.write(piece)
            await stdin.drain()
    stdin.close()
