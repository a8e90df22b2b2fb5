"""The program that answers the manager: cheap to start, versioned, and not to be ended by a bad line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest


def serve(*lines: bytes) -> list[dict[str, Any]]:
    """Return the answers to some lines; the server side must end well by itself."""
    served = subprocess.run(
        [sys.executable, "-m", "trackers", "serve"],
        input=b"\n".join(lines) + b"\n",
        capture_output=True,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},  # as in most locales
    )
    return [json.loads(line) for line in served.stdout.splitlines()]


@pytest.mark.parametrize(
    "line", [b"no JSON", b"[1]", b'{"call": "\xff"}', b'{"call": ' + b"[" * 100_000, b'{"call": []}']
)
def test_a_bad_line_is_answered_and_the_next_one_as_well(line: bytes) -> None:
    answers = serve(line, b'{"id": 2, "call": "hello"}')
    assert len(answers) == 2
    assert [a["error"]["exit_code"] for a in answers if "error" in a] == [2]
    assert [a["id"] for a in answers if "result" in a] == [2]


@pytest.mark.parametrize(
    "changes", [{"arguments": [1]}, {"arguments": "x"}, {"arguments": {"site": {"storage": "/tmp", "pythons": "x"}}}]
)
def test_arguments_that_are_none_are_bad_input(changes: dict[str, Any]) -> None:
    (answer,) = serve(json.dumps({"call": "status", **changes}).encode())
    assert answer["error"]["exit_code"] == 2


def test_a_volume_with_a_line_break_in_its_path_is_refused_before_anything_else() -> None:
    arguments = {"site": {"storage": "/data\nx"}, "project": "Project"}
    (answer,) = serve(json.dumps({"call": "status", "arguments": arguments}).encode())
    assert "'/data\\nx' has a line break" in answer["error"]["message"]


def test_another_version_is_refused_in_words() -> None:
    (answer,) = serve(b'{"id": 1, "call": "hello", "protocol": 99}')
    assert "Install the same version" in answer["error"]["message"]


def test_the_server_side_imports_filelock_yaml_and_xxhash_and_nothing_else_from_outside() -> None:
    program = (
        "import sys; before = set(sys.modules); import trackers.server\n"
        "files = [getattr(sys.modules[name], '__file__', None) for name in set(sys.modules) - before]\n"
        "outside = [file.split('site-packages/')[1] for file in files if file and 'site-packages/' in file]\n"
        "print(*sorted({file.split('/')[0] for file in outside}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"_yaml", "filelock", "xxhash", "yaml"}
