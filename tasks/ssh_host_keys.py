"""Whether a server is the one that it says it is: known_hosts files, read as OpenSSH reads them, and never written."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from tasks.ssh_config import DEFAULT_PORT, Hop
from trackers.errors import HostKeyError


@dataclass(frozen=True)
class KnownKey:
    """One line of a known_hosts file.

    Attributes:
        marker: "", "@revoked" or "@cert-authority".
        names: patterns with commas between them, or one hashed name.
        kind: like "ssh-ed25519".
        blob: the public key as it is sent.
    """

    file: Path
    line: int
    marker: str
    names: str
    kind: str
    blob: bytes

    def means(self, name: str) -> bool:
        """Whether the line speaks of the host that known_hosts calls `name`."""
        if self.names.startswith("|1|"):
            return _is_hash_of(self.names, name)
        patterns = self.names.lower().split(",")
        if any(_fits(name, pattern[1:]) for pattern in patterns if pattern.startswith("!")):
            return False
        return any(_fits(name, pattern) for pattern in patterns)


def read(files: Sequence[Path]) -> list[KnownKey]:
    """Return what the files say, in order; files that are not there say nothing.

    Raises:
        HostKeyError: a file is there and cannot be read.
    """
    known: list[KnownKey] = []
    for file in files:
        try:
            known += _lines(file, file.read_text(encoding="utf-8", errors="replace"))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise HostKeyError(f"{file} cannot be read: {error}. No connection was made.") from error
    return known


def of_host(hop: Hop) -> list[KnownKey]:
    """Return the keys that a server may present; a key that is known without the port counts, as with OpenSSH."""
    known = [key for key in read(hop.known_hosts_files) if key.marker != "@cert-authority"]
    return next((found for name in _names(hop) if (found := [key for key in known if key.means(name)])), [])


def check(hop: Hop, kind: str, blob: bytes, *, direct: bool) -> None:
    """Let a presented key pass only if it is known.

    Args:
        hop: the server.
        kind: the key's type, like "ssh-ed25519".
        blob: the public key as it was sent.
        direct: whether the server can be asked without going through another one.

    Raises:
        HostKeyError: it is not; the message has the fingerprint and the commands.
    """
    known = of_host(hop)
    same = [key for key in known if key.blob == blob]
    presented = f"{hop.place} presented the host key {kind} {fingerprint(blob)}"
    if revoked := next((key for key in same if key.marker == "@revoked"), None):
        raise HostKeyError(
            f"{presented}, which {revoked.file}, line {revoked.line}, marks as revoked. The connection was ended "
            "before anything was sent. Ask the server's administrator."
        )
    if same:
        return
    files = [str(file) for file in hop.known_hosts_files]
    others = [key for key in known if not key.marker]
    if others:
        remove = "; ".join(
            shlex.join(["ssh-keygen", "-R", next(filter(key.means, _names(hop))), "-f", str(key.file)])
            for key in {other.file: other for other in others}.values()
        )
        told = ", ".join(f"{key.kind} {fingerprint(key.blob)} ({key.file}, line {key.line})" for key in others)
        raise HostKeyError(
            f"{presented}, but known is {told}. Either the server was set up anew, or somebody stands in between. "
            "The connection was ended before anything was sent. Compare the fingerprint with the one that the server's "
            f"administrator gives; only if they are the same, remove the old key: {remove} and add the new one: "
            f"{_adding(hop, kind, blob, direct=direct)}"
        )
    raise HostKeyError(
        f"{presented}, which is not in {' or '.join(files)}. The connection was ended before anything was sent. "
        "Compare the fingerprint with the one that the server's administrator gives; only if they are the same, "
        f"add the key: {_adding(hop, kind, blob, direct=direct)}"
    )


def fingerprint(blob: bytes) -> str:
    """Return a public key's fingerprint as ssh-keygen writes it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def _adding(hop: Hop, kind: str, blob: bytes, *, direct: bool) -> str:
    """Return the command that adds a key; behind another server, or under an alias, ssh-keyscan would not do."""
    file = shlex.quote(str(hop.known_hosts_files[0]))
    folder = hop.known_hosts_files[0].parent
    first = "" if folder.is_dir() else f"mkdir -p -m 700 {shlex.quote(str(folder))} && "
    if direct and hop.host.lower() in _names(hop):
        scan = [
            "ssh-keyscan",
            *(["-p", str(hop.port)] if hop.port != DEFAULT_PORT else []),
            "-t",
            _short(kind),
            hop.host,
        ]
        return f"{first}{shlex.join(scan)} >> {file}"
    return f"{first}echo {shlex.quote(f'{hop.known_as} {kind} {base64.b64encode(blob).decode()}')} >> {file}"


def _names(hop: Hop) -> list[str]:
    host = hop.host.lower()
    return [hop.known_as, host] if hop.known_as == f"[{host}]:{hop.port}" else [hop.known_as]


def _short(kind: str) -> str:
    return "ecdsa" if kind.startswith("ecdsa") else kind.removeprefix("ssh-")


def _lines(file: Path, text: str) -> Iterator[KnownKey]:
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        marker = words.pop(0) if words and words[0].startswith("@") else ""
        if len(words) < 3 or words[0].startswith("#"):
            continue
        try:
            blob = base64.b64decode(words[2], validate=True)
        except binascii.Error:
            continue  # OpenSSH skips it as well
        yield KnownKey(file, number, marker, words[0], words[1], blob)


def _fits(name: str, pattern: str) -> bool:
    """Whether a name fits a pattern with `*` and `?`; brackets are brackets."""
    return fnmatchcase(name, pattern.replace("[", "[[]"))


def _is_hash_of(hashed: str, name: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part, validate=True) for part in hashed[3:].split("|"))
    except ValueError:
        return False
    return hmac.compare_digest(hmac.digest(salt, name.encode(), "sha1"), digest)
