"""The environments that jobs run in: which there are, which version is in each, and whether their jobs could start."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from trackers.site import Environment, Site

VERSIONS = "versions"  # beside the environments that `server install` made: where they really are
DEFAULTS = ("core", "manifest", "behavior")  # what the pipelines of this package need
_NEEDS = {
    "core": ("jobs.checksum", "jobs.preparation", "jobs.archiving"),
    "manifest": ("jobs.manifest", "polars"),
    "behavior": ("jobs.behavior",),
}
_TRY = """\
import importlib, importlib.util, platform, sys
from importlib import metadata
required, *modules = sys.argv[1:]
if required or importlib.util.find_spec("jobs"):
    modules = modules if required else [name for name in modules if importlib.util.find_spec(name)]
    [importlib.import_module(name) for name in modules]
    print("sessionflow " + metadata.version("sessionflow"), end=", ")
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


def installed() -> list[str]:
    """Return the names of the environments that `server install` put beside this one."""
    root = Path(sys.prefix).parent
    if sys.prefix == sys.base_prefix or not (root / VERSIONS).is_dir():
        return []
    found = (entry.name for entry in os.scandir(root) if not entry.name.startswith("."))
    return sorted(name for name in found if os.path.exists(root / name / "bin" / "python"))  # noqa: PTH110 - never raises


def versions(site: Site | None) -> dict[str, str]:
    """Return the version of sessionflow in each installed or described environment, without starting any.

    Environments in which it cannot be seen, because they have another layout or are only activated, are left out.
    """
    folders = {name: Path(sys.prefix).parent / name for name in installed()}
    for name, environment in (site.environments if site else {}).items():
        folders.pop(name, None)
        if environment.python:
            folders[name] = Path(environment.python).parent.parent
        elif not environment.activate and name in installed():
            folders[name] = Path(sys.prefix).parent / name
    found = {name: version_in(folder) for name, folder in folders.items() if name != "core"}
    return {name: version for name, version in found.items() if version}


def version_in(prefix: Path) -> str:
    """Return the version of sessionflow in an environment; an empty string where it is not seen there."""
    infos = sorted(prefix.glob("lib/python*/site-packages/sessionflow-*.dist-info"))
    return infos[-1].name.removesuffix(".dist-info").partition("-")[2] if infos else ""


def names(site: Site) -> list[str]:
    """Return the environments of a site: those that our pipelines need, described ones, and installed ones."""
    return list(dict.fromkeys([*DEFAULTS, *site.environments, *installed()]))


def start(site: Site, name: str, seconds: float) -> Started:
    """Start an environment as a job does, and import what the jobs of that name need.

    Of an environment that only the site knows, it is enough that its interpreter starts.
    """
    needs = _NEEDS.get(name, (f"jobs.{name}",))
    words = (site.interpreter(name), "-P", "-c", _TRY, "required" if name in _NEEDS else "", *needs)
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
