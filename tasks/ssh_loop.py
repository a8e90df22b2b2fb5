"""The event loop on which a process uses its SSH connections, and how other loops and blocking calls meet it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")
_loop: asyncio.AbstractEventLoop | None = None
_starting = threading.Lock()


def ssh_loop() -> asyncio.AbstractEventLoop:
    """Return the loop on which every connection is used."""
    global _loop  # noqa: PLW0603 - there is one per process
    with _starting:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="ssh loop", daemon=True).start()
        return _loop


async def on_ssh_loop(
    work: Coroutine[Any, Any, Result], undo: Callable[[Result], Coroutine[Any, Any, None]] | None = None
) -> Result:
    """Run a coroutine on the SSH loop.

    Args:
        work: what to run.
        undo: takes back its result when whoever asked was cancelled meanwhile; without, the cancel reaches `work`.
    """
    future = asyncio.run_coroutine_threadsafe(work, ssh_loop())

    def take_back(late: Future[Result]) -> None:
        if undo and late.exception() is None:
            asyncio.run_coroutine_threadsafe(undo(late.result()), ssh_loop())

    try:
        await done(future)
    except asyncio.CancelledError:
        if undo:
            future.add_done_callback(take_back)
        else:
            future.cancel()
        raise
    return future.result()


async def done(future: Future[Any]) -> None:
    """Wait for another thread's future; a wait that is cancelled, or whose loop ends, leaves the future as it is."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    future.add_done_callback(lambda _: tell(loop, ready.set))
    await ready.wait()


def tell(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    """Let a loop call something soon, from another thread; a loop that has ended is left alone."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call)


async def in_thread(call: Callable[[], Result], undo: Callable[[Result], object] | None = None) -> Result:
    """Run what blocks in a daemon thread, which cannot keep the program from ending.

    Args:
        call: what blocks.
        undo: takes back the result when nobody waits for it any more.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def deliver(result: Result | None, error: BaseException | None) -> None:
        if future.cancelled():
            if undo and error is None:
                undo(result)  # type: ignore[arg-type]
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        try:
            outcome: tuple[Result | None, BaseException | None] = (call(), None)
        except BaseException as error:  # handed to whoever waits
            outcome = (None, error)
        tell(loop, lambda: deliver(*outcome))

    threading.Thread(target=work, name="ssh", daemon=True).start()
    try:
        return await future
    except asyncio.CancelledError:
        if undo and future.done() and not future.cancelled() and not future.exception():
            undo(future.result())
        raise
