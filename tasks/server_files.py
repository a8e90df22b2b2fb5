"""The descriptions of this account's servers: one file each, written whole, readable by this account alone."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import tempfile
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tasks.servers import Server, in_words, servers_directory
from trackers.errors import BadInputError, FileSystemError

LOCAL = "local"  # what `server check` calls this computer
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.ASCII)
_CREDENTIALS = ("username", "host", "storage_root", "working_root", "shared_directory_name")
_PLACEHOLDER = "YourNetID"  # what sl-shared-assets writes where nobody has filled it in


def path_of(name: str) -> Path:
    """Return where a server's description lies, or would.

    Raises:
        BadInputError: that is no name for a server.
    """
    if not _NAME.fullmatch(name) or name == LOCAL or name.endswith((".yaml", ".yml")):
        raise BadInputError(
            f"{name!r} cannot name a server: use letters, digits, _ . -, 63 at most, and neither {LOCAL!r} nor the "
            "name of a file. Nothing was done."
        )
    return servers_directory() / f"{name}.yaml"


def names() -> list[str]:
    """Return the names of the servers that are described."""
    return sorted(path.stem for path in servers_directory().glob("*.yaml"))


def add(name: str, file: Path, *, replace: bool = False) -> bool:
    """Keep a description under a name, as its author wrote it; return False where it was there already.

    Raises:
        BadInputError: it is no good, or the name is taken and `replace` not given.
        FileSystemError: it cannot be written.
    """
    path = path_of(name)
    try:
        text = file.read_bytes()  # once: it may be a pipe
    except OSError as error:
        raise BadInputError(f"{file} cannot be read: {error}. Nothing was done.") from None
    server = Server.from_text(text, file)
    if server.name not in ("", name):
        raise BadInputError(
            f"{file} describes the server {server.name!r}, which cannot be added as {name!r}. Nothing was done. "
            "Take the line `name:` out of it, or add it under that name."
        )
    _require_usable(file, server)
    return _keep(path, text, replace=replace)


def add_credentials(name: str, file: Path, *, replace: bool = False) -> tuple[bool, bool]:
    """Describe a server by a credentials file of sl-shared-assets 5.1.0; the password is not taken over.

    Returns:
        whether anything was written, and whether the file holds a password.

    Raises:
        BadInputError: it is no such file, or the name is taken and `replace` not given.
        FileSystemError: the description cannot be written.
    """
    path = path_of(name)
    data = _credentials(file)
    fields: dict[str, Any] = {"host": data["host"], "user": data["username"], "storage_root": data["storage_root"]}
    if data["working_root"] != data["storage_root"]:
        fields["working_root"] = data["working_root"]
    fields |= {"shared_directory_name": data["shared_directory_name"], "scheduler": "slurm"}
    try:
        _require_usable(file, Server(**fields))
    except ValidationError as error:
        raise BadInputError(f"{file} describes no server: {in_words(error)}. Nothing was done.") from None
    text = f"# Imported from {file.name}; every field is explained in docs/servers.md.\n" + yaml.safe_dump(
        fields, sort_keys=False, allow_unicode=True
    )
    return _keep(path, text.encode(), replace=replace), bool(data.get("password"))


def remove(name: str) -> Path:
    """Remove a server's description; return where it was.

    Raises:
        BadInputError: there is none.
    """
    path = path_of(name)
    try:
        path.unlink()
    except FileNotFoundError:
        known = ", ".join(names()) or "none"
        raise BadInputError(f"There is no server {name!r}; known are: {known}. Nothing was done.") from None
    return path


def _require_usable(file: Path, server: Server) -> None:
    """Refuse what no server can be reached by, or have."""
    for field, word in (("host", server.host), ("user", server.user)):
        if word.startswith("-") or len(word.split()) > 1:
            raise BadInputError(f"{file}: {field} cannot begin with a dash or hold a space. Nothing was done.")


def _credentials(file: Path) -> dict[str, str]:
    """Read a credentials file; no message repeats what it holds, for one of its values is a password."""
    try:
        data = yaml.safe_load(file.read_bytes())
    except OSError as error:
        raise BadInputError(f"{file} cannot be read: {error.strerror}. Nothing was done.") from None
    except (yaml.YAMLError, ValueError):
        raise BadInputError(f"{file} is no YAML. Nothing was done.") from None
    values: dict[str, Any] = data if isinstance(data, dict) else {}
    wrong = [name for name in _CREDENTIALS if not isinstance(values.get(name), str) or not values[name].strip()]
    if wrong:
        raise BadInputError(
            f"{file} is no credentials file of sl-shared-assets 5.1.0: it does not say {', '.join(wrong)}. "
            "Nothing was done."
        )
    if values["username"] == _PLACEHOLDER:
        raise BadInputError(f"{file} names no account: its username is {_PLACEHOLDER!r} still. Nothing was done.")
    return values


def _keep(path: Path, content: bytes, *, replace: bool) -> bool:
    """Write a description, unless the same is there."""
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == content:
            return False
        if not replace:
            raise BadInputError(
                f"There is another server {path.stem!r} already, described in {path}. Nothing was done. "
                "Pass --replace to put this one in its place; look at the other with: "
                f"sessionflow server show {shlex.quote(path.stem)}"
            )
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.")  # 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)  # noqa: PTH105
        except BaseException:
            os.unlink(temporary)  # noqa: PTH108
            raise
    except OSError as error:
        raise FileSystemError(f"{path} could not be written: {error.strerror}. Nothing was changed.") from error
    return True
