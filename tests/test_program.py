"""What all job programs share: progress lines, and how they end."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from jobs.program import Progress

WAITING = """
import time
from jobs.program import run
def main():
    try:
        print("began", flush=True)
        time.sleep(60)
    finally:
        print("cleaned up", flush=True)
run(main)
"""


def test_progress_is_shown_at_the_beginning_and_once_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(100, "MB")
    for done in range(1, 1000):
        progress.show(done)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["progress 1/100 MB", "progress 100/100 MB"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_lets_it_clean_up_and_is_one_sentence(number: signal.Signals, code: int) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", WAITING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "began\n"
    program.send_signal(number)
    said, errors = program.communicate(timeout=20)
    assert (program.returncode, said, errors) == (code, "cleaned up\n", f"ended on request ({number.name})\n")
