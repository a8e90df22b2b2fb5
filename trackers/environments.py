"""The environments that jobs run in: which there are, which version is in each, and whether their jobs could start."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from trackers.commands import install_command
from trackers.errors import EnvironmentMissingError
from trackers.graph import PYTHON, Job
from trackers.site import LIGHT, Environment, Site, installed_python, installed_root, runs_installed

_NEEDS = {  # what the jobs of an environment import
    "core": ("jobs.checksum", "jobs.preparation", "jobs.archiving"),
    "manifest": ("jobs.manifest", "polars"),
    "behavior": ("jobs.behavior",),
    "suite2p": ("jobs.torchvision_operators", "suite2p", "scipy.ndimage", "polars"),
    "video": ("jobs.program", "cv2", "numpy", "polars"),
    "forging": ("jobs.program", "pynwb", "nwbinspector", "ndx_pose", "polars"),
    "report": ("jobs.program", "matplotlib.figure", "numpy", "polars"),
    "deeplabcut": ("jobs.torchvision_operators", "deeplabcut", "polars"),
}
_SHOWN = {  # whose versions a check tells
    "manifest": "polars",
    "behavior": "polars numpy",
    "suite2p": "suite2p torch numpy",
    "video": "opencv-python-headless numpy",
    "forging": "pynwb nwbinspector ndx-pose",
    "report": "matplotlib polars",
    "deeplabcut": "deeplabcut torch numpy",
}
PAYLOADS = tuple(name for name in _NEEDS if name not in LIGHT)
_TRY = """\
import importlib, importlib.util, platform, sys
from importlib import metadata
shown, required, *modules = sys.argv[1:]
if required or importlib.util.find_spec("jobs"):
    modules = modules if required else [name for name in modules if importlib.util.find_spec(name)]
    [importlib.import_module(name) for name in modules]
    print("sessionflow " + metadata.version("sessionflow"), end=", ")
    [print(name, metadata.version(name), end=", ") for name in shown.split()]
print("Python " + platform.python_version())
"""


@dataclass(frozen=True)
class Started:
    """What came of starting an environment's interpreter and importing what its jobs need.

    Attributes:
        ok: whether all of it can be imported.
        words: its versions, or the last line of what went wrong.
    """

    ok: bool
    words: str


@dataclass(frozen=True)
class Lack:
    """Why an environment cannot be used, and what to do."""

    problem: str
    remedy: str


def installed() -> list[str]:
    """Return the names of the environments that `server install` made and that are used here."""
    root = installed_root()
    if not root.is_dir():
        return []
    return sorted(p.name for p in root.iterdir() if not p.name.startswith(".") and installed_python(p.name))


def versions(site: Site | None) -> dict[str, str]:
    """Return the version of sessionflow in each installed or described environment, without starting any.

    Environments in which it cannot be seen, because they have another layout or are only activated, are left out.
    """
    folders = {name: installed_root() / name for name in installed()}
    for name, environment in (site.environments if site else {}).items():
        folders.pop(name, None)
        if environment.python:
            folders[name] = Path(environment.python).parent.parent
        elif not environment.activate and name in installed():
            folders[name] = installed_root() / name
    found = {name: version_in(folder) for name, folder in folders.items() if name != "core"}
    return {name: version for name, version in found.items() if version}


def version_in(prefix: Path) -> str:
    """Return the version of sessionflow in an environment; an empty string where it is not seen there."""
    infos = sorted(prefix.glob("lib/python*/site-packages/sessionflow-*.dist-info"))
    return infos[-1].name.removesuffix(".dist-info").partition("-")[2] if infos else ""


def names(site: Site) -> list[str]:
    """Return the environments of a site: those that our pipelines need, described ones, and installed ones."""
    return list(dict.fromkeys([*LIGHT, *site.environments, *installed()]))


def start(site: Site, name: str, seconds: float) -> Started:
    """Start an environment as a job does, and import what the jobs of that name need.

    Of an environment that only the site knows, it is enough that its interpreter starts.
    """
    needs = _NEEDS.get(name, (f"jobs.{name}",))
    required = "required" if name in _NEEDS else ""
    words = (site.interpreter(name), "-P", "-c", _TRY, _SHOWN.get(name, ""), required, *needs)
    try:
        done = subprocess.run(
            activated(site.environment(name), words),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
            stdin=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        return Started(False, f"it had not started after {seconds:g} s")
    except OSError as error:
        return Started(False, f"{error.filename or words[0]}: {error.strerror or error}")
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return Started(done.returncode == 0, lines[-1].strip() if lines else f"exit code {done.returncode}")


def activated(environment: Environment, words: tuple[str, ...]) -> tuple[str, ...]:
    """Return a command behind the site's own shell words, as a job script has them."""
    if not environment.activate:
        return words
    return ("bash", "-c", f'{{\n{environment.activate}\n}} >&2 || exit 1\nexec "$@"', "bash", *words)


def require(site: Site, jobs: Iterable[Job]) -> None:
    """Refuse jobs whose environment is not there; what only the job's own activation can tell is left to it.

    Raises:
        EnvironmentMissingError: with the command that installs what is missing.
    """
    for name in dict.fromkeys(job.environment for job in jobs if PYTHON in job.command):
        if (lack := lacking(site, name)) is not None:
            raise EnvironmentMissingError(f"{lack.problem}. Nothing was submitted. {lack.remedy}")


def lacking(site: Site, name: str) -> Lack | None:
    """Return what is wrong with an environment that jobs need; None where nothing is, as far as can be seen here."""
    described = site.environment(name)
    if described.activate or (described.python and shutil.which(described.python)):
        return None
    if described.python:
        return Lack(
            f"The environment {name!r} is not there: the description of the server names {described.python}, which "
            "cannot be started",
            f"Mend that, or take `environments: {name}` out of the description and run: {install_command(name)}",
        )
    if installed_python(name) or _own(name):
        return None
    return Lack(
        f"The environment {name!r}, which these jobs need, is not installed", f"Install it: {install_command(name)}"
    )


def hindering(site: Site, pipeline: str) -> Lack | None:
    """Return what is wrong with the environment of a pipeline's name, before its jobs are known; None where nothing is.

    Whether a lab's own programs need it shows when they are submitted; see `require`.
    """
    return None if pipeline in site.own_programs else lacking(site, pipeline)


def missing(site: Site) -> list[str]:
    """Return the payloads whose environment is neither installed nor described here."""
    return [n for n in PAYLOADS if n not in site.environments and not installed_python(n) and not _own(n)]


def _own(name: str) -> bool:
    """Whether the environment that this program runs in has what the jobs of that name import."""
    if runs_installed() and name != "core":
        return False
    try:
        return name in _NEEDS and all(importlib.util.find_spec(module) for module in _NEEDS[name])
    except ModuleNotFoundError:  # of the package that a module is in
        return False
