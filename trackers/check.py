"""What a server's own side can say of it: environments, volumes, scheduler; every question has a time-out."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from trackers import environments
from trackers.site import LIGHT, Site

VOLUME_SECONDS = 30.0  # a network file system that hangs, hangs for ever
START_SECONDS = 60.0  # an environment of many gigabytes on a cold network file system
SCHEDULER_SECONDS = 150.0
INSTALL = "sessionflow server install {name}"  # the manager fills in how it calls the server
Result = Literal["ok", "warning", "failure", "skipped"]


@dataclass(frozen=True)
class Finding:
    """What one step of a check found.

    Attributes:
        words: what is so.
        remedy: what to do about it, where it is not as it should be.
    """

    step: str
    result: Result
    words: str
    remedy: str = ""


@dataclass(frozen=True)
class Wish:
    """What the jobs of a pipeline ask for, as far as it is known before there is a session.

    Attributes:
        label: pipeline, or pipeline/job.
        cpus, memory_gb, minutes, gpus: what a first attempt asks for; GB are 10^9 bytes.
        maximum_memory_gb, maximum_minutes: how far retries may go.
    """

    label: str
    cpus: int = 1
    memory_gb: float = 1.0
    minutes: int = 60
    gpus: int = 0
    maximum_memory_gb: float = 0.0
    maximum_minutes: int = 0


def check(site: Site, wishes: list[Wish]) -> list[dict[str, Any]]:
    """Ask everything at once, and return what was found, in order."""
    from trackers import check_slurm, check_volumes

    groups: list[Group] = [
        Group(f"environment {name}", START_SECONDS + 5, lambda name=name: environment(site, name))  # type: ignore[misc]
        for name in environments.names(site)
    ]
    groups.append(Group("environments", VOLUME_SECONDS, lambda: not_installed(site)))
    storage, working = site.volumes.storage, site.volumes.working
    groups.append(Group("storage volume", VOLUME_SECONDS, lambda: check_volumes.volume("storage", storage)))
    if working != storage:
        groups.append(Group("working volume", VOLUME_SECONDS, lambda: check_volumes.volume("working", working)))
    if site.scheduler == "slurm":
        groups.append(Group("Slurm", SCHEDULER_SECONDS, lambda: check_slurm.slurm(site, wishes)))
    else:
        groups.append(Group("jobs", VOLUME_SECONDS, lambda: own_processes(wishes)))
    return [asdict(finding) for group in groups for finding in group.findings()]


class Group:
    """Steps that follow each other, in a thread that nobody waits for longer than the group's time."""

    def __init__(self, step: str, seconds: float, steps: Callable[[], Iterator[Finding]]) -> None:
        self._step = step
        self._seconds = seconds
        self._steps = steps
        self._found: list[Finding] = []
        self._thread = threading.Thread(target=self._work, name=f"check of {step}", daemon=True)
        self._thread.start()

    def findings(self) -> list[Finding]:
        """Return what was found in time."""
        self._thread.join(self._seconds)
        if not self._thread.is_alive():
            return self._found
        late = Finding(
            *(self._step, "failure", f"no answer within {self._seconds:g} s"),
            "Try it by hand on the server; where it is a network volume, ask the administrator.",
        )
        return [*self._found, late]

    def _work(self) -> None:
        try:
            for finding in self._steps():
                self._found.append(finding)
        except Exception as error:  # a step must not hide the others
            words = f"{type(error).__name__}: {error}"
            self._found.append(Finding(self._step, "failure", words, "This is an error of sessionflow: report it."))


def environment(site: Site, name: str) -> Iterator[Finding]:
    """Find out whether the jobs of an environment could start there."""
    started = environments.start(site, name, START_SECONDS)
    step, where = f"environment {name}", site.interpreter(name)
    described = site.environment(name)
    if started.ok:
        yield Finding(step, "ok", f"{started.words} ({where})")
    elif described.python or described.activate:
        yield Finding(
            *(step, "failure", f"{where}: {started.words}"),
            f"The description names this environment: mend it on the server, or take `environments: {name}` out of "
            f"the description and run: {INSTALL}",
        )
    else:
        which = "" if name in LIGHT else f" --with {name}"
        yield Finding(step, "failure", f"{where}: {started.words}", f"Install it: {INSTALL}{which}")


def not_installed(site: Site) -> Iterator[Finding]:
    """Name the environments that are not there, whose pipelines this server cannot run."""
    if absent := environments.missing(site):
        yield Finding(
            *("environments", "skipped", f"not installed: {', '.join(absent)}; jobs that need them are refused"),
            f"{INSTALL} --with {','.join(absent)}",
        )


def own_processes(wishes: list[Wish]) -> Iterator[Finding]:
    """Compare what jobs ask for with the server itself, which runs them as its own processes."""
    from trackers.shares import core_count

    cores, memory = core_count(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    words = f"they run as processes of the server itself, which has {cores} cores and {memory:.0f} GB"
    large = [wish for wish in wishes if wish.memory_gb > memory or wish.cpus > cores]
    if not large:
        yield Finding("jobs", "ok", words)
        return
    asked = ", ".join(f"{wish.label} ({wish.cpus} cores, {wish.memory_gb:g} GB)" for wish in large)
    yield Finding(
        *("jobs", "warning", f"{words}; more is asked for by {asked}"),
        "Such jobs run alone, and may run out of memory; `resources` in the description changes what they ask for.",
    )
