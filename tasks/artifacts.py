"""What a flow run shows in Prefect beside its state: artifacts, labels, and in its log what it waits for.

Nothing of it may fail a run, or hold it up for long. Everything is handed to Prefect in the background, one thing at a
time in a process. What it does not take of a run inside of another one, the outer one goes on offering, to its own end;
what is lost in the end is said once in the run's log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any
from weakref import WeakKeyDictionary

import httpx
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging.handlers import APILogHandler

from tasks.client import Client, connected
from tasks.interruption import Interruption
from tasks.pages import Page, Progress
from tasks.servers import Server

FIRST_SECONDS = 2.0  # a run that is shorter shows no progress before its end
PAUSE_SECONDS = 5.0  # between updates of one run's progress
SHARE_SECONDS = 0.5  # and longer where a process has many runs, so that Prefect gets two updates a second at most
POST_SECONDS = 15.0  # for Prefect to take one artifact: SQLite that is busy has the client wait for 2, 4, 8 s
AWAY_SECONDS = 10.0  # after that it is left alone, by every run of the process
AGAIN_SECONDS = 1.0  # between tries of a run that is over
INNER_SECONDS = 5.0  # for the last ones of a run inside of another one, which takes over what is left
END_SECONDS, HURRIED_SECONDS = 30.0, 2.0  # for the last ones of a run that is over, and of one that is to be
NO_ANSWER = "it does not answer"

_board: ContextVar[Board | None] = ContextVar("board", default=None)
_run_log = logging.getLogger("sessionflow.run_log")
"""Goes to a run's log in Prefect only; its records name the run."""


class _Sender:
    """Hands artifacts to Prefect, one at a time in an event loop, and none for a while after it did not answer."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(1)
        self._away_until = 0.0

    async def send(self, method: str, path: str, body: dict[str, Any]) -> Any:
        """Return Prefect's answer.

        Raises:
            TimeoutError: it does not answer.
            Exception: of many kinds, it does not take this.
        """
        async with self._turn:
            if time.monotonic() < self._away_until:
                raise TimeoutError(NO_ANSWER)
            try:
                async with asyncio.timeout(POST_SECONDS), get_client() as client:
                    # not the client's own method for artifacts, which sends an event as well, as dear as the artifact
                    return await client.request(method, path, json=body)  # type: ignore[arg-type]
            except (TimeoutError, httpx.TransportError):
                self._away_until = time.monotonic() + AWAY_SECONDS
                raise TimeoutError(NO_ANSWER) from None


Request = tuple[str, str, dict[str, Any]]
"""Method, path and body."""

_senders: WeakKeyDictionary[asyncio.AbstractEventLoop, _Sender] = WeakKeyDictionary()


class Board:
    """One flow run's artifacts: its progress, updated in place, and pages that stay; and its labels and tags."""

    count = 0  # of this process

    def __init__(self, flow_run_id: str) -> None:
        self._flow_run_id = flow_run_id
        self._progress: Callable[[], Progress] | None = None
        self._final = False
        self._waiting = ""
        self._due: list[Callable[[], Request | None]] = []
        self._ending = False
        self._id = ""
        self._sent: tuple[float, str] | None = None
        self._said = False
        self._closing = asyncio.Event()

    def show(self, progress: Callable[[], Progress]) -> None:
        """Show from now on what `progress` returns each time that it is asked."""
        self._progress = progress

    def finish(self, progress: Callable[[], Progress], page: Callable[[], Page]) -> None:
        """Show how it ended; both are made later, outside of the run."""
        self._progress, self._final = progress, True
        self._due.append(lambda: ("POST", "/artifacts/", {**page().artifact(), "flow_run_id": self._flow_run_id}))

    def label(self, name: str, value: str) -> None:
        """Leave a label on the run, for programs; it is there before the run's last state is."""
        self._due.append(lambda: ("PATCH", f"/flow_runs/{self._flow_run_id}/labels", {name: value}))

    def tag(self, tags: list[str]) -> None:
        """Give the run these tags, for people who filter by them."""
        self._due.append(lambda: ("PATCH", f"/flow_runs/{self._flow_run_id}", {"tags": tags}))

    @contextlib.contextmanager
    def waits_of(self, client: Client) -> Iterator[None]:
        """Show, and put into the run's log, when a server is waited for and when it answers again."""

        def hear(event: dict[str, Any]) -> None:
            if event["event"] == "waiting":
                self._wait(f"{client.server.label}: {event['message']}" if event["message"] else "", client)

        key = f"board {self._flow_run_id}"
        client.listen(key, hear)
        try:
            yield
        finally:
            client.unlisten(key)

    async def keep_posting(self) -> None:
        """Hand over what is new, again and again, and after `close` until nothing is left."""
        pause = FIRST_SECONDS
        while not self._closing.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), max(pause, SHARE_SECONDS * Board.count))
            pause = PAUSE_SECONDS
            await self._post()
        while not self._ending or self._due:
            if self._ending:
                await asyncio.sleep(AGAIN_SECONDS)
            await self._post()

    def close(self) -> None:
        """Have the last things handed over."""
        self._closing.set()

    def leave(self, outer: Board | None) -> None:
        """Leave what Prefect has not taken to the run around this one; without one it is lost."""
        if outer is not None:
            outer._due += self._due
        elif self._due:
            self._complain(TimeoutError(NO_ANSWER))

    def _wait(self, words: str, client: Client) -> None:
        kind = words.removeprefix(f"{client.server.label}: ").partition(":")[0]
        if not words:
            self._log(logging.WARNING, f"{client.server.label} answers again")
        elif kind not in self._waiting:
            self._log(logging.WARNING, words)
        self._waiting = words

    async def _post(self) -> None:
        """Hand over what is due, in its order, and the progress; what Prefect does not answer to stays due."""
        send = _senders.setdefault(asyncio.get_running_loop(), _Sender()).send
        if self._closing.is_set() and not self._ending:
            self._ending = True
            self._due.append(lambda: self._showing(self._now()))
        with contextlib.suppress(TimeoutError):
            while self._due:
                with self._complaining():
                    if (request := self._due[0]()) is not None:
                        await send(*request)
                self._due.pop(0)
            with self._complaining():
                now = self._now()
                if not self._ending and (request := self._showing(now)) is not None:
                    answer = await send(*request)
                    self._id = self._id or answer.json()["id"]
                    self._sent = now

    def _showing(self, now: tuple[float, str] | None) -> Request | None:
        """Return what shows the progress; None where it is shown, or there is nothing to say."""
        if now is None or now == self._sent:
            return None
        body = {"data": now[0], "description": f"{now[1]}\n\nAs of {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC."}
        if self._id:
            return "PATCH", f"/artifacts/{self._id}", body
        return "POST", "/artifacts/", {**body, "type": "progress", "flow_run_id": self._flow_run_id}

    def _now(self) -> tuple[float, str] | None:
        """Return the progress to show, in percent and words; None as long as there is nothing to say."""
        if self._progress is None and not (self._waiting or self._id):
            return None
        progress = self._progress() if self._progress else Progress(0.0, "Nothing has been submitted yet.")
        words = [progress.words]
        if self._closing.is_set() and not self._final:
            interruption = Interruption.current()
            reason = f" ({interruption.reason})" if interruption is not None and interruption.reason else ""
            words.insert(0, f"**This run has ended{reason}.** How it stood last:")
        elif self._waiting and not self._final:
            words.insert(0, f"**{self._waiting}**")
        return round(100 * progress.share, 1), "\n\n".join(words)

    @contextlib.contextmanager
    def _complaining(self) -> Iterator[None]:
        """Say what is wrong, of many kinds and none the run's concern; that nobody answers is passed on."""
        try:
            yield
        except TimeoutError:
            raise
        except Exception as error:
            self._complain(error)

    def _complain(self, error: Exception) -> None:
        if not self._said:
            self._said = True
            words = (str(error).strip().splitlines() or [type(error).__name__])[0]
            self._log(logging.WARNING, f"Prefect does not take this run's artifacts: {words}. The run goes on.")

    def _log(self, level: int, words: str) -> None:
        _run_log.log(level, "%s", words, extra={"flow_run_id": self._flow_run_id})


def board() -> Board | None:
    """Return the board of the present flow run; None outside of one."""
    return _board.get()


@contextlib.asynccontextmanager
async def connected_in_run(server: Server) -> AsyncIterator[Client]:
    """Give the client of a server, as `connected` does; the present run shows when it has to wait for it."""
    async with connected(server) as client:
        present = board()
        with contextlib.nullcontext() if present is None else present.waits_of(client):
            yield client


@contextlib.asynccontextmanager
async def board_of(flow_run_id: str) -> AsyncIterator[Board]:
    """Give a flow run its board, until the block ends; then Prefect has a moment to take what is left."""
    new, outer = Board(flow_run_id), _board.get()
    token = _board.set(new)
    posting = asyncio.create_task(new.keep_posting(), name="artifacts")
    Board.count += 1
    try:
        yield new
    finally:
        new.close()
        Board.count -= 1
        _board.reset(token)
        interruption = Interruption.current()
        hurried = interruption is not None and interruption.reason
        patience = HURRIED_SECONDS if hurried else END_SECONDS if outer is None else INNER_SECONDS
        await asyncio.wait([posting], timeout=patience)
        posting.cancel()
        new.leave(outer)


def _in_a_run(record: logging.LogRecord) -> bool:
    return FlowRunContext.get() is not None or TaskRunContext.get() is not None


def _log_to_prefect() -> None:
    """Have what we log inside runs stand in the runs' logs in Prefect, without anybody's configuration."""
    everything, of_runs = APILogHandler(), APILogHandler()
    everything.addFilter(_in_a_run)
    logging.getLogger("sessionflow").addHandler(everything)
    _run_log.addHandler(of_runs)
    _run_log.propagate = False


_log_to_prefect()
