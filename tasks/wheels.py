"""Wheels for a server: our own, built from what runs here, and those that it needs, fetched here for the server."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib
import importlib.util
import io
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from tasks.server_python import Python
from trackers.errors import BadInputError, SessionflowError

PACKAGES = ("flows", "jobs", "tasks", "trackers")
REQUIREMENTS = Path(__file__).parent / "environments"  # one file for each environment
FETCH_SECONDS = 7200.0  # for gigabytes over a slow line
WITHOUT_WHEEL = ("scanimage-tiff-reader", "filterpy")  # published as source, with nothing to compile
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same files make the same wheel
_WHEEL = "Wheel-Version: 1.0\nGenerator: sessionflow\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_LAST_LINES = 5


def environments() -> list[str]:
    """Return the names of the environments that can be installed."""
    return sorted(path.stem for path in REQUIREMENTS.glob("*.txt"))


def requirements(name: str) -> list[str]:
    """Return what an environment needs from elsewhere, a requirement a line.

    Raises:
        BadInputError: there is no such environment.
    """
    path = REQUIREMENTS / f"{name}.txt"
    if name not in environments():
        raise BadInputError(
            f"There is no environment {name!r}; known are {', '.join(environments())}. Nothing was done."
        )
    found: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        words = line.partition("#")[0].strip()
        if words.startswith("-r "):
            found += requirements(words.removeprefix("-r ").strip().removesuffix(".txt"))
        elif words:
            found.append(words)
    return found


def own_wheel() -> tuple[str, bytes]:
    """Return name and content of a wheel of the sessionflow that runs here, installed or as a checkout."""
    version = metadata.version("sessionflow")
    files: dict[str, bytes] = {}
    for package in PACKAGES:
        folder = Path(str(importlib.import_module(package).__file__)).parent
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
                files[f"{package}/{path.relative_to(folder).as_posix()}"] = path.read_bytes()
    info = f"sessionflow-{version.replace('-', '_')}.dist-info"
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: sessionflow\nVersion: {version}\n".encode()
    files[f"{info}/WHEEL"] = _WHEEL.encode()
    files[f"{info}/RECORD"] = "".join([*map(_record, files.items()), f"{info}/RECORD,,\n"]).encode()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            wheel.writestr(entry, data)
    return f"{info.removesuffix('.dist-info')}-py3-none-any.whl", content.getvalue()


@contextlib.contextmanager
def fetched(wanted: list[str], python: Python, folder: Path | None) -> Iterator[list[Path]]:
    """Give the files of the wheels that satisfy requirements on a server, as long as the block lasts.

    Args:
        wanted: requirements.
        python: what they are to run under.
        folder: has the wheels, where this computer cannot fetch them; None: they are fetched.

    Raises:
        BadInputError: there is no such folder.
        SessionflowError: they cannot be had; with pip's own words.
    """
    if folder is not None and not folder.is_dir():
        raise BadInputError(f"{folder} is no folder of this computer. Nothing was changed on the server.")
    with tempfile.TemporaryDirectory(prefix="sessionflow-wheels-") as place:
        source = ["--no-index", "--find-links", str(folder)] if folder else []
        options = ["--only-binary", ":all:", *python.tags()]
        if not folder and (without := [line for line in wanted if line.partition("==")[0] in WITHOUT_WHEEL]):
            source = ["--find-links", str(_made(without, Path(place) / "made"))]
        command = [*_pip(), "download", "--quiet", "--disable-pip-version-check", "--dest", place, *source, *options]
        try:
            done = subprocess.run(
                [*command, *wanted], capture_output=True, text=True, timeout=FETCH_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise SessionflowError(_not_had(f"pip had not ended after {FETCH_SECONDS:g} s", wanted, options)) from None
        if done.returncode:
            errors = [line for line in done.stderr.strip().splitlines() if line.startswith("ERROR")]
            said = "; ".join((errors or done.stderr.strip().splitlines())[-_LAST_LINES:])
            where = f"{folder} does not have all of them; " if folder else ""
            raise SessionflowError(_not_had(f"{where}pip says: {said}", wanted, options))
        yield sorted(Path(place).glob("*.whl"))


def _made(wanted: list[str], place: Path) -> Path:
    """Make wheels of what is published as source only; return their folder."""
    command = [*_pip(), "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--wheel-dir", str(place)]
    done = subprocess.run([*command, *wanted], capture_output=True, text=True, timeout=FETCH_SECONDS, check=False)
    if done.returncode:
        raise SessionflowError(_not_had(f"pip says: {done.stderr.strip()[-300:]}", wanted, []))
    for path in list(place.glob("*.whl")):  # named after the Python here, though there is nothing compiled for it
        path.rename(path.with_name("-".join([*path.name.split("-")[:2], "py3-none-any.whl"])))
    return place


def _not_had(problem: str, wanted: list[str], options: list[str]) -> str:
    by_hand = shlex.join(["pip", "download", "--dest", "wheels", *options, *wanted])
    return (
        f"The wheels for the server could not be had: {problem}. Nothing was changed on the server. Without internet "
        f"here, run this on a computer that has it, bring the folder here, and pass --wheels FOLDER: {by_hand}"
    )


def _pip() -> list[str]:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if found := shutil.which("pip3") or shutil.which("pip"):
        return [found]
    raise SessionflowError(
        f"There is no pip here to choose wheels with. Nothing was done. Run: {sys.executable} -m ensurepip"
    )


def _record(file: tuple[str, bytes]) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(file[1]).digest()).rstrip(b"=").decode()
    return f"{file[0]},sha256={digest},{len(file[1])}\n"
