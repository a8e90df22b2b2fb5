"""Programs that stand in front of Slurm's own on a login's PATH: they hang, fail, or answer nonsense."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.daemon import MARK, program

# What can be done instead of the program, which is "$REAL", called as "$NAME", with its arguments in "$@".
HANGS = "exec sleep 1000"
FAILS = 'echo "$NAME: error: Unable to contact slurm controller (connect failure)" >&2; exit 1'
PRINTS_GARBAGE = "head -c 400 /dev/urandom"
PRINTS_HALF = 'all=$("$REAL" "$@"); printf %s "${all:0:${#all} / 2}"'
DOES_IT_BUT_TIMES_OUT = """"$REAL" "$@" >/dev/null
echo "$NAME: error: Batch job submission failed: Socket timed out on send/recv operation" >&2; exit 1"""


def late(seconds: float) -> str:
    """Return lines with which a program does its work so much later, and says at once that it has."""
    call = """setsid bash -c 'sleep "$LATE"; exec "$REAL" "$@"' "$NAME" "$@" </dev/null >/dev/null 2>&1 &"""
    return f"export REAL LATE={seconds:g}; {call}"


HEAD = """#!/bin/bash
REAL={real} NAME={name}
export {mark}={folder}
"""
SOME_TIMES = """for turn in {turns}/*; do rm "$turn" 2>/dev/null && mine=1 && break; done
[ "$mine" ] || exec "$REAL" "$@"
"""


def wrap(folder: Path, name: str, text: str, times: int = 0) -> None:
    """Put lines of shell into `folder/bin` in a program's place; `times` calls are treated so, 0 means all."""
    unwrap(folder, name)
    head = HEAD.format(real=program(name), name=name, mark=MARK, folder=folder)
    if times:
        turns = folder / "bin" / f".{name}"
        turns.mkdir()
        for turn in range(times):
            (turns / str(turn)).touch()
        head += SOME_TIMES.format(turns=turns)
    file = folder / "bin" / f".{name}.new"
    file.write_text(f"{head}{text}\n")
    file.chmod(0o755)
    file.rename(folder / "bin" / name)  # a call never meets half of it


def unwrap(folder: Path, *names: str) -> None:
    """Take away what `wrap` put there; without names all of it."""
    for name in names or [file.name for file in (folder / "bin").glob("[!.]*")]:
        (folder / "bin" / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "bin" / f".{name}", ignore_errors=True)
