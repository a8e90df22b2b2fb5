"""Looks after submissions that somebody follows, and says what has changed: one loop for all of them."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trackers.errors import SessionflowError
from trackers.work import Work

TICK_SECONDS = 0.1  # one look into one folder: has any job script announced something?
SHORTEST_SECONDS, LONGEST_SECONDS = 0.5, 10.0  # between looks at a submission that announced nothing

Emit = Callable[[dict[str, Any]], None]
View = Callable[[Any, Any], dict[str, Any]]


@dataclass
class _Followed:
    work: Work
    number: int
    submission_id: str
    last: dict[str, Any] = field(default_factory=dict)
    interval: float = SHORTEST_SECONDS
    due: float = 0.0


class Watcher:
    """Follows submissions until they can go no further on their own; reports each change once."""

    def __init__(self, emit: Emit, view: View) -> None:
        self._emit = emit
        self._view = view
        self._followed: dict[str, _Followed] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def follow(self, key: str, work: Work, number: int, submission_id: str, seen: dict[str, Any]) -> None:
        """Report what changes from `seen` on, as events with `key`."""
        with self._lock:
            self._followed[key] = _Followed(work, number, submission_id, seen)
            if not self._thread.is_alive():
                self._thread.start()

    def stop(self) -> None:
        """End the loop; what it followed goes on without it."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(TICK_SECONDS):
            with self._lock:
                followed = dict(self._followed)
            ids = {item.submission_id for item in followed.values()}
            announced = _announced({item.work.target.site.announcements for item in followed.values()}, ids)
            now = time.monotonic()
            for key, item in followed.items():
                if item.submission_id in announced or now >= item.due:
                    self._look(key, item)

    def _look(self, key: str, item: _Followed) -> None:
        try:
            submission = item.work.settle(item.number)
            view = self._view(item.work, submission)
        except (SessionflowError, OSError) as error:
            self._emit({"event": "trouble", "key": key, "message": str(error)})
            item.interval = LONGEST_SECONDS
        else:
            changed = view != item.last
            if changed:
                item.last = view
                self._emit({"event": "submission", "key": key, "view": view})
            item.interval = SHORTEST_SECONDS if changed else min(item.interval * 1.5, LONGEST_SECONDS)
            if not submission.open or all(job["ended"] or job["blocked"] for job in view["jobs"]):
                self._drop(key, item)
        item.due = time.monotonic() + item.interval

    def _drop(self, key: str, item: _Followed) -> None:
        with self._lock:
            if self._followed.get(key) is item:
                del self._followed[key]


def _announced(folders: set[Path], ids: set[str]) -> set[str]:
    """Return which of the submissions have jobs that announced something, and take their announcements away."""
    found = set()
    for folder in folders:
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                submission_id = entry.name.removeprefix("sessionflow-").split("-")[0]
                if submission_id in ids:
                    found.add(submission_id)
                    Path(entry.path).unlink(missing_ok=True)
    return found
