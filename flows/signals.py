"""SIGTERM stays ours while flows run inside a flow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from prefect import flow_engine

from tasks.interruption import Interruption

_engine: Any = flow_engine
_prefects = _engine.capture_sigterm


@contextlib.contextmanager
def _capture_sigterm() -> Iterator[None]:
    """Let the engine of an inner run leave the signal alone.

    It would take it for the tenths of a second until the run's own code begins, and raise in the middle of whatever
    happens then. With many sessions some run always begins, so a project that is ended would leave jobs behind.
    """
    with contextlib.nullcontext() if Interruption.current() is not None else _prefects():
        yield


def keep_signals() -> None:
    """Have it so in this process."""
    _engine.capture_sigterm = _capture_sigterm
