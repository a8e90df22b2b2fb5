"""Looks after submissions that somebody follows, and says what has changed: one loop, and one question, for all."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Container, Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trackers.errors import SessionflowError
from trackers.scheduler import Scheduler
from trackers.submission import Submission
from trackers.work import Work

TICK_SECONDS = 0.1  # one look into one folder: has any job script announced something?
SHORTEST_SECONDS, LONGEST_SECONDS = 0.5, 30.0  # between questions as long as nothing is announced
WIDENING = 1.5

Emit = Callable[[dict[str, Any]], None]
View = Callable[[Any, Any], dict[str, Any]]


@dataclass
class _Followed:
    work: Work
    submission: Submission
    scheduler: Scheduler
    last: dict[str, Any] = field(default_factory=dict)
    fingerprint: Hashable = None

    @property
    def waits(self) -> bool:
        """Whether a job of it waits to be handed over, and can be now."""
        last = [self.submission.last(job.name) for job in self.submission.live_jobs()]
        if all(attempt.scheduler_id for attempt in last):
            return False
        return self.scheduler.due(self.work.folder, self.submission)


class Watcher:
    """Follows submissions until they can go no further on their own; reports each change once."""

    def __init__(self, emit: Emit, view: View) -> None:
        self._emit = emit
        self._view = view
        self._followed: dict[str, _Followed] = {}
        self._ids: set[str] = set()  # of the followed submissions
        self._folders: frozenset[Path] = frozenset()  # in which their jobs announce
        self._gap = 0.0
        self._announced: set[str] = set()
        self._asked, self._due, self._interval = 0.0, 0.0, SHORTEST_SECONDS
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def follow(self, key: str, work: Work, number: int, seen: dict[str, Any]) -> None:
        """Report what changes from `seen` on, as events with `key`."""
        submission = work.folder.read(number)
        followed = _Followed(work, submission, work.scheduler(submission), seen)
        with self._lock:
            self._followed[key] = followed
            self._ids.add(submission.id)
            self._folders |= {work.target.site.announcements}
            self._gap = max(self._gap, followed.scheduler.shortest_gap_seconds)
            self._interval = SHORTEST_SECONDS
            self._due = min(self._due, time.monotonic() + SHORTEST_SECONDS)
            if not self._thread.is_alive():
                self._thread.start()

    def stop(self) -> None:
        """End the loop; what it followed goes on without it."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(TICK_SECONDS):
            with self._lock:
                if not self._followed:
                    continue
                folders, ids, gap = self._folders, self._ids, self._gap
            # one look into a folder: this runs ten times a second, also with a thousand submissions that wait
            self._announced |= announced(folders, ids)
            now = time.monotonic()
            if now >= self._due or (self._announced and now >= self._asked + gap):
                with self._lock:
                    followed = dict(self._followed)
                try:
                    self._look_at_all(followed)
                except Exception as error:  # the loop must not end: nobody would be told of anything any more
                    self._due = time.monotonic() + self._interval
                    for key in followed:
                        self._say_trouble(key, error)

    def _look_at_all(self, followed: dict[str, _Followed]) -> None:
        """Ask once, then look at those of which there may be news."""
        heard, self._announced = self._announced, set()
        self._asked = time.monotonic()
        for scheduler, submissions in _by_scheduler(followed.values()):
            scheduler.ask(submissions)
        changed = False
        for key, item in followed.items():
            fingerprint = item.scheduler.fingerprint(item.submission)
            if fingerprint is None or fingerprint != item.fingerprint or item.submission.id in heard or item.waits:
                item.fingerprint = fingerprint
                changed |= self._look(key, item)
        self._interval = SHORTEST_SECONDS if changed or heard else min(self._interval * WIDENING, LONGEST_SECONDS)
        self._due = time.monotonic() + self._interval

    def _look(self, key: str, item: _Followed) -> bool:
        """Bring one submission up to date; tell whether anything about it has changed."""
        try:
            item.submission = item.work.settle(item.submission.number)
            view = self._view(item.work, item.submission)
        except Exception as error:  # of one submission; the others are looked after all the same
            self._say_trouble(key, error)
            return False
        changed = view != item.last
        if changed:
            item.last = view
            self._emit({"event": "submission", "key": key, "view": view})
        if not item.submission.open or all(job["over"] for job in view["jobs"]):
            self._drop(key, item)
        return changed

    def _say_trouble(self, key: str, error: Exception) -> None:
        known = isinstance(error, SessionflowError)
        words = str(error) if known else f"{type(error).__name__}: {error}"
        kind = type(error).__name__ if known else SessionflowError.__name__
        self._emit({"event": "trouble", "key": key, "error": {"type": kind, "message": words, "exit_code": 1}})

    def _drop(self, key: str, item: _Followed) -> None:
        with self._lock:
            if self._followed.get(key) is item:
                del self._followed[key]
                self._ids = {other.submission.id for other in self._followed.values()}


def announced(folders: Iterable[Path], ids: Container[str]) -> set[str]:
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


def _by_scheduler(followed: Iterable[_Followed]) -> list[tuple[Scheduler, list[Submission]]]:
    groups: dict[str, tuple[Scheduler, list[Submission]]] = {}
    for item in followed:
        groups.setdefault(item.submission.scheduler, (item.scheduler, []))[1].append(item.submission)
    return list(groups.values())
