"""What docs/launching.md and docs/examples show, done as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import launch
from tests.launching import LOGIN, SESSION, Lab, running_lab
from tests.prefect_server import REPOSITORY

PAGE = (REPOSITORY / "docs" / "launching.md").read_text()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running_lab(tmp_path_factory.mktemp("prefect")) as server:
        yield server


@pytest.fixture
def rig(lab: Lab, tmp_path: Path) -> Path:
    """A rig's folder with what is to be copied there, and a file that the documented command wrote."""
    shutil.copy(launch.__file__, tmp_path)
    shutil.copy(REPOSITORY / "docs" / "examples" / "acquisition.py", tmp_path)
    words = ["rig", "add", "mesoscope-1", "--api", lab.api, "--file", "rig.json"]
    done = run(lab, tmp_path, sys.executable, "-m", "flows.cli", *words)
    assert done.stdout.endswith(f"{lab.api} answers: 1 deployment.\n"), done.stderr
    return tmp_path


def run(lab: Lab, folder: Path, *words: str, known: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder; on a rig the environment knows nothing of the lab."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "PYTHONPATH"))}
    place = {"PREFECT_API_URL": lab.api, "PREFECT_API_AUTH_STRING": LOGIN, "PYTHONPATH": str(REPOSITORY)}
    own = {"HOME": str(folder), "USER": "ann", "XDG_STATE_HOME": "", "XDG_CONFIG_HOME": ""}
    environment = {**clean, **own, **(place if known else {})}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_lines_of_python_work(lab: Lab, rig: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    block = block.replace("wait=60", "wait=0.01")
    done = run(lab, rig, sys.executable, "-c", block)
    assert done.returncode == 0, done.stderr


def test_the_lines_for_the_shell_work(lab: Lab, rig: Path) -> None:
    (block,) = re.findall(r"## Shell\n\n(.*?)\n\nExit codes", PAGE, re.S)
    codes = []
    run_id = ""
    for line in block.replace("--wait 60", "--wait 0.01").splitlines():
        words = shlex.split(line.replace(" RUN", f" {run_id}"))
        assert words[0] == "sessionflow"
        done = run(lab, rig, sys.executable, "-m", "flows.cli", *words[1:])
        codes.append(done.returncode)
        run_id = (re.findall(r"flow-run/([0-9a-f-]{36})", done.stdout) or [run_id])[0]
    assert codes == [0, 4, 0, 4, 0]
    copied = [line.strip() for line in PAGE.splitlines() if line.startswith("    python launch.py")]
    for line in copied:
        done = run(lab, rig, sys.executable, *line.split()[1:], known=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert len(copied) == 2


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="curl or jq is not here")
def test_the_lines_for_rest_work(lab: Lab, rig: Path) -> None:
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE, re.S)
    done = run(lab, rig, "bash", "-euc", block)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-3:] == ["Scheduled", "null", "null"], done.stdout
    again = run(lab, rig, "bash", "-euc", f"{block}\necho $run")
    assert (
        again.stdout.splitlines()[-1] in again.stdout.splitlines()[:-1]
    )  # it has not ended, and the key gives it back


def test_the_example_launches_and_says_which_local_copies_may_go(lab: Lab, rig: Path) -> None:
    session = SESSION.replace("2025", "2024")
    done = run(lab, rig, sys.executable, "acquisition.py", "record", "Project", "305", session, known=False)
    assert "is started" in done.stdout, done.stderr
    (found,) = lab.of_session(session)
    assert found["parameters"]["requested_by"] == "ann@mesoscope-1"
    assert f"{session}: keep it." in run(lab, rig, sys.executable, "acquisition.py", "tidy", known=False).stdout
    lab.label(found["id"], launch.CHECKSUM_LABEL, "verified 2026-01-01T00:00:00Z")
    assert "may be removed" in run(lab, rig, sys.executable, "acquisition.py", "tidy", known=False).stdout
    assert run(lab, rig, sys.executable, "acquisition.py", known=False).returncode == 1
