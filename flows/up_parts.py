"""The programs that `sessionflow up` keeps running: started, watched, started again when they die, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from tasks.backoff import pause

STEADY_SECONDS = 60.0  # a part that ran for so long starts again without a pause
LONGEST_PAUSE_SECONDS = 60.0
LOG_BYTES = 10_000_000  # a log that has grown beyond is put aside at the next start; one old one is kept

Say = Callable[[str], None]


class Part:
    """A program in the background, in a session of its own: Ctrl-C reaches us alone, and we end it in turn.

    When this process is killed, so is the part: whoever starts everything again finds no half of it still running. That
    needs `setpriv` of util-linux; without it a part may be left over.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        *,
        dies_by: str,
        say: Say,
        umask: int = -1,
        before_again: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        guard = ("setpriv", "--pdeathsig", dies_by) if shutil.which("setpriv") else ()
        self.name = name
        self.log = log
        self._command = (*guard, *command)
        self._environment = dict(environment)
        self._say = say
        self._umask = umask  # -1: as ours
        self._before_again = before_again  # what has to be done after a death, before it is started again
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Its process id, while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> None:
        """Start it once; nobody starts it again yet."""
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            self.log.replace(self.log.with_suffix(".old.log"))
        with open(self.log, "ab", opener=_private) as log:  # noqa: ASYNC230 - a local file
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environment,
                cwd=self.log.parent,  # not a clone: what is installed counts, wherever this was started
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                umask=self._umask,
            )

    def keep(self) -> None:
        """Start it again from now on whenever it dies, after pauses that grow."""
        self._watch = asyncio.create_task(self._kept(), name=f"keep the {self.name}")

    async def end(self, number: signal.Signals, seconds: float) -> bool:
        """Send it a signal and wait for its end; kill it when it takes too long.

        Returns:
            whether it ended by itself.
        """
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        if self._process is None or self._process.returncode is not None:
            return True
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
        try:
            await asyncio.wait_for(self._process.wait(), seconds)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            return False
        return True

    def last_words(self, lines: int = 12) -> str:
        """Return the end of its log."""
        with contextlib.suppress(OSError), self.log.open(errors="replace") as log:
            return "".join(deque(log, lines)).strip()
        return ""

    async def _kept(self) -> None:
        deaths = 0
        while True:
            assert self._process is not None  # noqa: S101 - it has been started
            began = time.monotonic()
            code = await self._process.wait()
            deaths = 1 if time.monotonic() - began > STEADY_SECONDS else deaths + 1
            seconds = pause(deaths, 0.5, LONGEST_PAUSE_SECONDS)
            self._say(f"{self.name}: {_ended(code)}; starting it again in {seconds:.0f} s; its log: {self.log}")
            await asyncio.sleep(seconds)
            if self._before_again is not None:
                await self._before_again()
            await self.start()
            self._say(f"{self.name}: started again")


def _ended(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
    return f"ended with {code}"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
