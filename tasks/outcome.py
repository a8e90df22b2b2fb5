"""How flows and tasks end: a failure is a state with a sentence, not a stack trace."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from prefect import State
from prefect.states import Cancelled, Failed

from tasks.interruption import Interruption
from trackers.errors import SessionflowError

P = ParamSpec("P")
R = TypeVar("R")


def in_sentences(function: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Make a flow's or task's function end in a state that says what happened, where it would raise an error of ours.

    A cancellation that a person asked for ends it as Cancelled; every other one is passed on.
    """

    @functools.wraps(function)
    async def ended(*args: P.args, **kwargs: P.kwargs) -> Any:
        try:
            return await function(*args, **kwargs)
        except SessionflowError as error:
            return Failed(message=str(error), data=error)
        except asyncio.CancelledError:
            interruption = Interruption.current()
            if interruption is None or not interruption.reason:
                raise
            return Cancelled(message=interruption.reason)

    return ended


async def carried_out(task: Any, *args: Any, **kwargs: Any) -> Any:
    """Run a Prefect task and return its result; a failure is raised, and stands in its run as a sentence."""
    return await result_of(await task(*args, return_state=True, **kwargs))


async def result_of(state: State[Any]) -> Any:
    """Return what a run returned, also where it failed with a report; raise what it failed with otherwise.

    Raises:
        CancelledError: a person's cancel ended it.
        Exception: whatever ended it.
    """
    if state.is_cancelled():
        raise asyncio.CancelledError(state.message)
    result = await state.aresult(raise_on_failure=False)
    if isinstance(result, BaseException):
        raise result
    return result


async def to_the_end(work: Awaitable[R]) -> R:
    """Await something that must not stop half-way; a cancel that comes meanwhile is passed on after it."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
