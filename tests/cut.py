"""The server side, ended by kill -9 at one chosen step: `python -m tests.cut serve` with two names in its environment.

CUT_FILE holds when: `12`, the twelfth step, or `sbatch 2`, the second step of that kind. The first process that comes
there takes the file away and dies; the ones after it live. Steps are what changes the world outside: a file written,
touched, a Slurm program run, a request answered; each is counted just before it happens, and a file that is written
in place once more when it is there, and empty.
CUT_STEPS is the file in which they are listed; CUT_PAUSE, seconds, how long dying takes; CUT_SUBMIT_SECONDS how long
sbatch may take.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from trackers import files, lock, results, server, slurm, slurm_handover, slurm_queue, submission, tracker, work

_counts: Counter[str] = Counter()
_counting = threading.Lock()
_cut, _steps = Path(os.environ["CUT_FILE"]), Path(os.environ["CUT_STEPS"])


def step(kind: str) -> None:
    """Count a step; end the process where it is the chosen one."""
    with _counting:
        _counts[kind] += 1
        with _steps.open("a") as file:
            file.write(f"{kind}\n")
        here = {str(_counts.total()), f"{kind} {_counts[kind]}"}
        if _cut.exists() and _cut.read_text() in here:
            _cut.rename(_cut.with_name(_cut.name + ".done"))
            time.sleep(float(os.environ.get("CUT_PAUSE", "0")))
            os.kill(os.getpid(), signal.SIGKILL)


def counted(function: Any, kind: Any) -> Any:
    """Return a function that counts a step before it does what it does."""

    def replacement(*args: Any, **kwargs: Any) -> Any:
        step(kind(*args))
        return function(*args, **kwargs)

    return replacement


def write_text(path: Path, text: str) -> int:
    """Write in place, as pathlib does, with a step in between."""
    step(f"write {path.name}")
    with path.open("w") as file:
        step(f"empty {path.name}")
        return file.write(text)


def install() -> None:
    """Put the counting versions in the place of the real ones."""
    atomic_write = counted(files.atomic_write, lambda path, *_: f"write {path.name}")
    for module in (lock, results, submission, tracker, work):
        setattr(module, "atomic_write", atomic_write)  # noqa: B010
    ask_slurm = counted(slurm_queue.ask_slurm, lambda *words: words[0])
    for module in (slurm, slurm_handover, slurm_queue):
        setattr(module, "ask_slurm", ask_slurm)  # noqa: B010
    Path.touch = counted(Path.touch, lambda path, *_: f"touch {path.name}")  # type: ignore[method-assign]
    Path.write_text = write_text  # type: ignore[assignment,method-assign]
    slurm_handover.SUBMIT_SECONDS = float(os.environ.get("CUT_SUBMIT_SECONDS", slurm_handover.SUBMIT_SECONDS))
    real_answer = server.answer

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        reply = real_answer(request)
        step(f"answer {request.get('call')}")
        return reply

    server.answer = answer


if __name__ == "__main__":
    install()
    sys.exit(server.main(sys.argv[1:]))
