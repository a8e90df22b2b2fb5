"""The environments that jobs of the science pipelines run in, for tests that run such jobs for real."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "SESSIONFLOW_TEST_ENVIRONMENTS"


def environment(name: str) -> Path:
    """Return an environment's interpreter; a test is skipped, with the commands that make it, where it is not there."""
    folder = os.environ.get(VARIABLE, "")
    python = Path(folder or "/nonexistent") / name / "bin" / "python"
    if not python.exists():
        pytest.skip(
            f"no environment {name}: run `python3 -m venv ENVS/{name} && ENVS/{name}/bin/pip install -r "
            f"tasks/environments/{name}.txt && ENVS/{name}/bin/pip install --no-deps -e .`, and set {VARIABLE}=ENVS, "
            "as an absolute path"
        )
    return python
