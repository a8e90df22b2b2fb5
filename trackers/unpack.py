"""Sent as text to a server that has nothing of ours yet: make an environment out of wheels, and put it in service.

Python 3.11 and its standard library are all that it needs: no pip, no root, no network.

The program itself comes first on standard input, then a tar of the wheels where there are any. Its argument is one of

    {"root": …, "unpack": FOLDER, "wheels": {NAME: SHA256, …}}
    {"root": …, "switch": {NAME: FOLDER, …}}
    {"root": …}

Every environment lies in `versions/FOLDER` and stays there unchanged; `root/NAME` is a link to the one in service. The
last line that is printed is a JSON object: `error`, or `complete` folders and `links`.
"""

import compileall
import errno
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import sys
import tarfile
import tempfile
import time
import typing
import venv
import zipfile

COMPLETE = "complete"  # a file that is written last
KEPT_SECONDS = 14 * 86400  # programs that began under an old version may still run
PIECE_BYTES = 1 << 20
SMALL_BYTES = 5_000_000  # what is compiled at once; the rest compiles itself when it is first used
# Programs that run keep to the version that they began with, also after the link has been pointed to another one.
REAL_PATHS = "import os, sys; sys.path[:] = [os.path.realpath(path) if path else path for path in sys.path]\n"


def unpack(versions: pathlib.Path, folder: str, wheels: dict[str, str]) -> None:
    """Make `versions/folder` out of the wheels on standard input; leave one that is complete as it is."""
    target = versions / folder
    if (target / COMPLETE).exists():
        return
    if target.exists():  # an install that was interrupted
        shutil.rmtree(target)
    venv.EnvBuilder(symlinks=True, with_pip=False).create(target)
    packages = next(target.glob("lib/python*/site-packages"))
    left, size = dict(wheels), 0
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as tar:
        for member in tar:
            file = tar.extractfile(member)
            with tempfile.TemporaryFile(dir=target) as wheel:  # one may be larger than a login node's memory
                if file is None or left.pop(member.name, None) != _copied(file, wheel):
                    raise ValueError(f"{member.name} did not arrive as it was sent")
                _extract(wheel, packages)
            size += member.size
    if left:
        raise ValueError(f"{', '.join(left)} did not arrive")
    (packages / "sessionflow_real_paths.pth").write_text(REAL_PATHS)
    if size < SMALL_BYTES:
        compileall.compile_dir(packages, quiet=2)
    (target / COMPLETE).write_text("")


def _copied(source: typing.IO[bytes], target: typing.IO[bytes]) -> str:
    """Copy a file to another one; return its SHA-256."""
    digest = hashlib.sha256()
    while piece := source.read(PIECE_BYTES):
        digest.update(piece)
        target.write(piece)
    return digest.hexdigest()


def _extract(content: typing.IO[bytes], packages: pathlib.Path) -> None:
    with zipfile.ZipFile(content) as wheel:
        for info in wheel.infolist():
            parts = pathlib.PurePosixPath(info.filename).parts
            if parts and parts[0].endswith(".data"):
                if len(parts) < 3 or parts[1] not in ("purelib", "platlib"):
                    continue  # scripts and headers, which nothing of ours calls
                parts = parts[2:]
            if info.is_dir():
                continue
            if not parts or ".." in parts or info.filename.startswith("/"):
                raise ValueError(f"a wheel has the impossible file name {info.filename!r}")
            path = packages.joinpath(*parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            with wheel.open(info) as source, path.open("wb") as file:
                shutil.copyfileobj(source, file)


def switch(root: pathlib.Path, links: dict[str, str]) -> None:
    """Point each name to its folder, and remove versions that have been out of service for long."""
    versions = root / "versions"
    for name, folder in links.items():
        link = root / name
        if link.exists() and not link.is_symlink():
            raise ValueError(f"{link} is in the way: it was not made by `server install`; move it away first")
        if not (versions / folder / COMPLETE).exists():
            raise ValueError(f"{versions / folder} is not complete")
        if link.is_symlink() and link.exists():
            os.utime(link.resolve())  # from now on it is out of service
        temporary = root / f".{name}.new"
        if temporary.is_symlink():
            temporary.unlink()
        temporary.symlink_to(pathlib.Path("versions") / folder)
        temporary.replace(link)
    used = set(_links(root).values())
    for old in versions.iterdir():
        if old.is_dir() and old.name not in used and time.time() - old.stat().st_mtime > KEPT_SECONDS:
            shutil.rmtree(old, ignore_errors=True)


def _links(root: pathlib.Path) -> dict[str, str]:
    return {path.name: path.readlink().name for path in root.iterdir() if path.is_symlink() and path.name[0] != "."}


def _lock(versions: pathlib.Path) -> None:
    """Let one install at a time work here; the lock ends with this process."""
    descriptor = os.open(versions / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise ValueError("another install is at work here; wait for its end") from None


def main(plan: dict[str, typing.Any]) -> dict[str, typing.Any]:
    """Carry out one plan; return what is there afterwards."""
    root = pathlib.Path(plan["root"]).absolute()
    versions = root / "versions"
    if "unpack" in plan or "switch" in plan:
        versions.mkdir(parents=True, exist_ok=True)
        _lock(versions)
    if "unpack" in plan:
        try:
            unpack(versions, plan["unpack"], plan["wheels"])
        except BaseException:  # half of it is of no use, and may have filled the volume
            shutil.rmtree(versions / plan["unpack"], ignore_errors=True)
            raise
    if "switch" in plan:
        switch(root, plan["switch"])
    complete = sorted(mark.parent.name for mark in versions.glob(f"*/{COMPLETE}"))
    return {"complete": complete, "links": _links(root) if root.is_dir() else {}}


if __name__ == "__main__":
    try:
        answer = main(json.loads(sys.argv[1]))
    except (ValueError, OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, StopIteration) as problem:
        answer = {"error": f"{problem}" or type(problem).__name__}
    print(json.dumps(answer))
    sys.exit(1 if "error" in answer else 0)
