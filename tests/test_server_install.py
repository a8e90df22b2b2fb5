"""The server side is put on a real server whose account has an empty home; the wheels travel along."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tasks import wheels
from tasks.server_install import plan
from tasks.server_python import Python, parse_pythons
from tests.repacked import repack
from tests.sshd import Sshd

CORE = ("filelock", "pyyaml", "xxhash")
StartSshd = Callable[..., Sshd]
ROOT = Path(__file__).parents[1]
DEBIAN = Python("/usr/bin/python3", (3, 11, 2), "CPython", "Linux", "x86_64", 64, "glibc 2.36", venv=True)


class Lab:
    """A server with an account of its own, described as `lab`, and the command that talks about it."""

    def __init__(self, sshd: Sshd, folder: Path) -> None:
        self.sshd = sshd
        self.home = sshd._folder / f"home-{sshd.account}"
        self.root = self.home / ".local" / "share" / "sessionflow"
        self.volume = sshd._folder / "volume"  # the account cannot enter pytest's own folders
        self.folder = folder
        self.volume.mkdir()
        entry = pwd.getpwnam(sshd.account)
        os.chown(self.volume, entry.pw_uid, entry.pw_gid)
        self.environment = {**os.environ, "XDG_CONFIG_HOME": str(folder / "config"), "COLUMNS": "200"}
        self.environment["PYTHONPATH"] = str(ROOT)
        self.describe()

    def describe(self, **more: object) -> None:
        """Add or replace the description."""
        file = self.folder / "server.yaml"
        fields = {"host": self.sshd.host, "port": self.sshd.port, "user": self.sshd.account}
        files = {"key_file": str(self.sshd.key_file), "known_hosts_file": str(self.sshd.known_hosts_file)}
        file.write_text(yaml.safe_dump({**fields, **files, "storage_root": str(self.volume), **more}))
        done = self("add", "lab", "--file", str(file), "--replace")
        assert done.returncode == 0, done.stderr

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "flows.cli", "server", *words],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def install(self, wheels: Path, *words: str) -> subprocess.CompletedProcess[str]:
        return self("install", "lab", "--wheels", str(wheels), *words)


@pytest.fixture
def lab(own_sshd: StartSshd, tmp_path: Path) -> Lab:
    return Lab(own_sshd(account="nobody"), tmp_path)


@pytest.fixture(scope="module")
def core_wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return repack(tmp_path_factory.mktemp("wheels"), *CORE)


def test_the_server_side_is_installed_into_an_empty_home_and_once_only(lab: Lab, core_wheels: Path) -> None:
    done = lab.install(core_wheels, "--with", "")
    assert done.returncode == 0, done.stderr
    assert "In service now: core." in done.stdout
    assert "answers: sessionflow" in done.stdout
    assert (lab.root / "core").is_symlink()
    again = lab.install(Path("/does/not/exist"), "--with", "")  # no wheel is looked for any more
    assert again.returncode == 0, again.stderr
    assert "Nothing to do" in again.stdout


@pytest.mark.slow
def test_an_install_that_was_interrupted_leaves_the_old_version_and_is_finished_by_the_next(
    lab: Lab, core_wheels: Path, tmp_path: Path
) -> None:
    assert lab.install(core_wheels, "--with", "").returncode == 0
    before = (lab.root / "core").readlink()
    (folder,) = (path for path in (lab.root / "versions").iterdir() if path.is_dir())
    half = lab.root / "versions" / f"{folder.name}.1"
    subprocess.run(["cp", "-a", str(folder), str(half)], check=True)
    (half / "complete").unlink()
    next((half / "lib").rglob("filelock/__init__.py")).unlink()
    broken = repack(tmp_path / "broken", *CORE)
    for wheel in broken.glob("xxhash*"):
        wheel.write_bytes(wheel.read_bytes()[:-100])
    failed = lab.install(broken, "--with", "", "--again")
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    assert (lab.root / "core").readlink() == before
    done = lab.install(core_wheels, "--with", "", "--again")
    assert done.returncode == 0, done.stderr
    assert (lab.root / "core").readlink() == Path("versions") / half.name
    later = lab.install(core_wheels, "--with", "")
    assert "Nothing to do" in later.stdout
    assert (lab.root / "core").readlink() == Path("versions") / half.name


def test_a_server_side_that_runs_keeps_to_its_version(lab: Lab, core_wheels: Path) -> None:
    assert lab.install(core_wheels, "--with", "").returncode == 0
    python = lab.root / "core" / "bin" / "python"
    shown = "import trackers, sys; print(trackers.__file__); print(sys.prefix)"
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run([python, "-P", "-c", shown], capture_output=True, text=True, check=True, env=environment)
    module, prefix = done.stdout.split()
    assert "/versions/" in module
    assert prefix == str(lab.root / "core")


@pytest.mark.slow
def test_versions_are_said_by_environment_and_a_server_without_them_is_told(
    lab: Lab, core_wheels: Path, tmp_path: Path
) -> None:
    missing = lab("check", "lab")
    assert missing.returncode == 1
    assert "failure  server side" in missing.stdout
    assert "sessionflow server install lab" in missing.stdout
    assert "skipped  volumes" in missing.stdout
    assert lab.install(core_wheels, "--with", "").returncode == 0
    old = lab.root / "behavior" / "lib" / "python3.11" / "site-packages" / "sessionflow-0.0.9.dist-info"
    old.mkdir(parents=True)
    (lab.root / "behavior" / "bin").mkdir()
    (lab.root / "behavior" / "bin" / "python").symlink_to("/usr/bin/python3")
    checked = lab("check", "lab")
    assert "it has sessionflow 0.0.9" in checked.stdout
    greeted = subprocess.run(
        [sys.executable, "-m", "flows.cli", "status", "Project", "--server", "lab"],
        env=lab.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "behavior 0.0.9" in greeted.stderr
    assert "sessionflow server install lab" in greeted.stderr
    refused = lab.install(core_wheels, "--with", "", "--again")
    assert refused.returncode == 0  # core is not in the way
    assert old.exists()


@pytest.mark.slow
def test_what_has_to_be_activated_for_it_stands_around_the_installed_server_side(lab: Lab, core_wheels: Path) -> None:
    python = str(lab.root / "core" / "bin" / "python")
    lab.describe(environments={"core": {"activate": "echo loading\nexport LOADED=yes", "python": python}})
    done = lab.install(core_wheels, "--with", "")
    assert done.returncode == 0, done.stderr
    assert "answers: sessionflow" in done.stdout
    lab.describe(environments={"core": {"activate": "false", "python": python}})
    assert "failure  server side" in lab("check", "lab").stdout


def test_an_environment_of_the_lab_is_left_alone(lab: Lab, core_wheels: Path) -> None:
    lab.describe(environments={"core": {"python": "/opt/conda/envs/flow/bin/python"}})
    refused = lab.install(core_wheels)
    assert refused.returncode == 2
    assert "not ours to change" in refused.stderr
    assert not lab.root.exists()


def test_a_server_without_a_new_enough_python_is_told_so(lab: Lab, core_wheels: Path) -> None:
    refused = lab.install(core_wheels, "--python", "/opt/python3.9")
    assert refused.returncode == 1
    assert "/opt/python3.9" in refused.stderr
    assert not lab.root.exists()


def test_wheels_that_are_not_there_are_said_with_the_command_that_brings_them(lab: Lab, tmp_path: Path) -> None:
    refused = lab.install(tmp_path)
    assert refused.returncode == 1
    assert f"{tmp_path} does not have all of them" in refused.stderr
    assert "--wheels FOLDER: pip download" in refused.stderr
    missing = lab.install(tmp_path / "missing")
    assert missing.returncode == 2
    assert f"{tmp_path / 'missing'} is no folder of this computer. Nothing was changed" in missing.stderr
    assert not (lab.root / "core").exists()


@pytest.mark.slow
def test_manifest_and_behavior_share_a_folder_and_their_jobs_start(lab: Lab, tmp_path: Path) -> None:
    payload = ("numpy", "polars", "polars-runtime-32")
    done = lab.install(repack(tmp_path / "wheels", *CORE, *payload))
    assert done.returncode == 0, done.stderr
    assert (lab.root / "manifest").readlink() == (lab.root / "behavior").readlink()
    checked = lab("check", "lab")
    assert checked.returncode == 0, checked.stdout
    for name in ("core", "manifest", "behavior"):
        assert f"ok       environment {name}" in checked.stdout


@pytest.mark.slow
def test_this_computer_gets_environments_that_its_jobs_find_by_name(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    python = home / ".local" / "share" / "sessionflow" / "report" / "bin" / "python"
    environment = {**os.environ, "HOME": str(home), "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    environment["SESSIONFLOW_STORAGE"] = str(tmp_path)

    def server(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows.cli", "server", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    failed = server("install", "local", "--with", "report", "--wheels", str(tmp_path / "none"))
    assert failed.returncode == 2
    assert not python.exists()
    done = server("install", "local", "--with", "report")
    if "could not be had" in done.stderr:
        pytest.skip("no network to fetch wheels from")
    assert done.returncode == 0, done.stderr
    assert "Nothing to do" in server("install", "local", "--with", "report").stdout
    checked = server("check", "local")
    assert "ok       environment report" in checked.stdout, checked.stdout
    assert "matplotlib 3" in checked.stdout
    assert "server install local --with suite2p" in checked.stdout
    asked = "from trackers.site import *; print(Site(None).interpreter('report'))"
    found = subprocess.run([sys.executable, "-c", asked], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(python)


def test_our_own_wheel_is_the_same_each_time_and_has_what_the_server_side_needs(tmp_path: Path) -> None:
    name, content = wheels.own_wheel()
    assert wheels.own_wheel() == (name, content)
    (tmp_path / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / name) as wheel:
        assert {"trackers/unpack.py", "tasks/environments/core.txt", "jobs/manifest.py"} <= set(wheel.namelist())
    place = tmp_path / "place"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(place)]
    subprocess.run([*pip, str(tmp_path / name)], check=True)
    again = "from tasks import wheels; import hashlib; print(hashlib.sha256(wheels.own_wheel()[1]).hexdigest())"
    made = [
        subprocess.run(
            [sys.executable, "-P", "-c", again],
            env={**os.environ, "PYTHONPATH": str(where)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for where in (ROOT, place)
    ]
    assert made[0] == made[1]  # also out of an installed wheel


def test_the_core_needs_what_the_project_declares() -> None:
    declared = (ROOT / "pyproject.toml").read_text()
    for requirement in wheels.requirements("core"):
        assert f'"{requirement}"' in declared


def test_equal_environments_are_one_folder_and_another_python_is_another_one() -> None:
    core, payload = plan(["manifest", "behavior"], DEBIAN, "digest", "1.0")
    assert (core.names, payload.names) == (("core",), ("manifest", "behavior"))
    other = plan([], Python(**{**DEBIAN.__dict__, "version": (3, 12, 1)}), "digest", "1.0")
    assert other[0].folder != core.folder
    assert plan([], Python(**{**DEBIAN.__dict__, "version": (3, 11, 9)}), "digest", "1.0")[0].folder == core.folder


@pytest.mark.parametrize(
    ("libc", "first", "others", "never"),
    [
        (
            "glibc 2.36",
            "manylinux_2_36_x86_64",
            ["manylinux2014_x86_64", "manylinux_2_17_x86_64"],
            "manylinux_2_37_x86_64",
        ),
        ("glibc 2.17", "manylinux_2_17_x86_64", ["manylinux1_x86_64"], "manylinux_2_28_x86_64"),
        ("musl 1.2.4", "musllinux_1_2_x86_64", ["musllinux_1_1_x86_64"], "manylinux2014_x86_64"),
    ],
)
def test_the_wheels_are_those_that_run_on_the_servers_libc(
    libc: str, first: str, others: list[str], never: str
) -> None:
    platforms = Python(**{**DEBIAN.__dict__, "libc": libc}).platforms()
    assert platforms[0] == first
    assert set(others) <= set(platforms)
    assert never not in platforms


def test_what_the_search_for_a_python_prints_is_read_and_judged() -> None:
    text = "Welcome to the cluster!\n" + "\n".join(
        json.dumps(each)
        for each in (
            {"path": "python3.13"},
            {"path": "/usr/bin/python3", "version": [3, 9, 18]},
            {**DEBIAN.__dict__, "version": [3, 11, 2], "venv": False},
            {**DEBIAN.__dict__, "version": [3, 12, 2], "libc": "musl 1.2.4"},
        )
    )
    problems = [each.problem for each in parse_pythons(text)]
    assert problems == ["does not start", "is 3.9.18", "has no module venv (Debian: python3-venv)", ""]
