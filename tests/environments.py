"""The environments of the payloads, for tests that run them for real."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def environment(name: str) -> Path:
    """Return the interpreter of an environment; the test is skipped where it is not installed."""
    folder = os.environ.get("SESSIONFLOW_TEST_ENVIRONMENTS")
    python = Path(folder or "/nonexistent") / name / "bin" / "python"
    if not python.exists():
        pytest.skip(f"set SESSIONFLOW_TEST_ENVIRONMENTS to a folder that has {name}/bin/python")
    return python
