"""Where a server is: what its description says, completed by `~/.ssh/config` as OpenSSH's own client does it."""

from __future__ import annotations

import getpass
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trackers.errors import BadInputError

if TYPE_CHECKING:
    from paramiko import SSHConfig

DEFAULT_PORT = 22
MOST_JUMPS = 8  # more than that is a circle
SYSTEM_CONFIG = Path("/etc/ssh/ssh_config")
SYSTEM_KNOWN_HOSTS = (Path("/etc/ssh/ssh_known_hosts"), Path("/etc/ssh/ssh_known_hosts2"))
DEFAULT_KEYS = ("id_rsa", "id_ecdsa", "id_ed25519")  # OpenSSH's order


@dataclass(frozen=True)
class SshAddress:
    """What a server's description says; empty fields are left to `~/.ssh/config`.

    Attributes:
        host: name or address, or an alias of `~/.ssh/config`.
        key_file: a private key; one with a certificate beside it (`KEY-cert.pub`) is offered with it.
        known_hosts_file: the only file in which the host key is looked up; "" for the user's and the system's.
        interactive: the site wants one-time passwords, so connections go through the holder of `server login`.
        name: the server's name in messages.
    """

    host: str
    user: str = ""
    port: int = 0
    key_file: str = ""
    known_hosts_file: str = ""
    interactive: bool = False
    name: str = ""

    @property
    def label(self) -> str:
        """What commands call the server."""
        return self.name or self.host


@dataclass(frozen=True)
class Hop:
    """One server to log in to on the way; everything is decided.

    Attributes:
        known_as: its name in known_hosts files: `host`, `[host]:port` where the port is not 22, or HostKeyAlias.
        key_files: private keys in the order to try, whether or not they are there.
        named_keys: somebody has named them; else they are the usual ones.
        certificate_files: certificates that are not beside their key.
        only_these_keys: no other keys of the agent are offered.
        proxy_command: a program whose input and output are the connection; "" for TCP.
    """

    host: str
    port: int
    user: str
    known_as: str
    key_files: tuple[Path, ...]
    named_keys: bool
    certificate_files: tuple[Path, ...]
    only_these_keys: bool
    known_hosts_files: tuple[Path, ...]
    proxy_command: str

    @property
    def place(self) -> str:
        """Host and port for messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return json.loads(json.dumps(asdict(self), default=str))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Hop:
        """Read what `to_json` returned."""
        paths = ("key_files", "certificate_files", "known_hosts_files")
        return cls(**{**data, **{name: tuple(map(Path, data[name])) for name in paths}})


def route(address: SshAddress) -> tuple[Hop, ...]:
    """Return the servers to log in to, one through the other; the last one is the server itself.

    Raises:
        BadInputError: `~/.ssh/config` cannot be used.
    """
    from paramiko.ssh_exception import ConfigParseError

    try:
        return tuple(_hops(_config(), address, None, MOST_JUMPS))
    except ImportError as error:  # paramiko's only one: for Match exec
        raise _unusable("`Match exec` is not supported; give the server's host, user and port instead") from error
    except (ConfigParseError, UnicodeDecodeError, OSError, ValueError) as error:
        raise _unusable(str(error)) from error


def _hops(config: SSHConfig, address: SshAddress, jumps: str | None, left: int) -> Iterator[Hop]:
    if left == 0:
        raise _unusable(f"ProxyJump leads over more than {MOST_JUMPS} servers to {address.host}")
    options = config.lookup(address.host)
    jumps = options.get("proxyjump", "none") if jumps is None else jumps
    if jumps.lower() != "none":
        before, _, last = jumps.rpartition(",")
        yield from _hops(config, _jump(last), before or None, left - 1)
    yield _hop(options, address, alone=jumps.lower() == "none")


def _hop(options: dict[str, Any], address: SshAddress, *, alone: bool) -> Hop:
    user = address.user or options.get("user") or _local_user()
    given = [address.key_file] if address.key_file else []
    given += [file for file in options.get("identityfile", []) if file.lower() != "none"]
    home = Path.home() / ".ssh"
    host, port = options["hostname"], address.port or int(options.get("port", DEFAULT_PORT))
    in_known_hosts = host.lower() if port == DEFAULT_PORT else f"[{host.lower()}]:{port}"
    certificates = [options["certificatefile"]] if options.get("certificatefile", "none").lower() != "none" else []
    return Hop(
        host=host,
        port=port,
        user=user,
        known_as=options.get("hostkeyalias") or in_known_hosts,
        key_files=tuple(_path(file) for file in given) or tuple(home / name for name in DEFAULT_KEYS),
        named_keys=bool(given),
        certificate_files=tuple(_path(file) for file in certificates),
        only_these_keys=options.get("identitiesonly", "no").lower() == "yes",
        known_hosts_files=_known_hosts_files(options, address),
        proxy_command=(options.get("proxycommand") or "") if alone else "",
    )


def _known_hosts_files(options: dict[str, Any], address: SshAddress) -> tuple[Path, ...]:
    if address.known_hosts_file:
        return (_path(address.known_hosts_file),)
    users = options.get("userknownhostsfile")
    systems = options.get("globalknownhostsfile")
    return (
        *([_path(file) for file in shlex.split(users)] if users else [Path.home() / ".ssh" / "known_hosts"]),
        *([_path(file) for file in shlex.split(systems)] if systems else SYSTEM_KNOWN_HOSTS),
    )


def _jump(text: str) -> SshAddress:
    """Read one server of ProxyJump: `[user@]host[:port]`, where an IPv6 address stands in brackets."""
    text = text.strip().removeprefix("ssh://")
    found = re.fullmatch(r"(?:(?P<user>.+)@)?(?:\[(?P<bracketed>[^\]]+)\]|(?P<host>[^:\s/]+))(?::(?P<port>\d+))?", text)
    if not found:
        raise _unusable(f"ProxyJump {text!r} is not [user@]host[:port]")
    host = found["bracketed"] or found["host"]
    return SshAddress(host, user=found["user"] or "", port=int(found["port"] or 0))


def _config() -> SSHConfig:
    from paramiko import SSHConfig

    user = Path.home() / ".ssh" / "config"
    lines = [*_lines(user, user.parent), "Host *", *_lines(SYSTEM_CONFIG, SYSTEM_CONFIG.parent)]
    return SSHConfig.from_text("\n".join(lines))


def _lines(file: Path, folder: Path, block: str = "Host *", depth: int = 16) -> Iterator[str]:
    """Yield a configuration's lines with what it includes, which paramiko does not know.

    After an included file the block continues in which the Include stands.
    """
    if depth == 0 or not file.is_file():
        return
    for line in file.read_text(encoding="utf-8").splitlines():
        words = re.split(r"[\s=]+", line.strip(), maxsplit=1)
        keyword = words[0].lower()
        if keyword in ("host", "match"):
            block = line
        if keyword != "include":
            yield line
            continue
        for pattern in shlex.split(words[1]) if len(words) == 2 else []:
            for included in sorted(_matches(pattern, folder)):
                yield from _lines(included, folder, block, depth - 1)
                yield block


def _matches(pattern: str, folder: Path) -> list[Path]:
    path = folder / _path(pattern)
    return list(Path(path.anchor).glob(str(path.relative_to(path.anchor))))


def _path(text: str) -> Path:
    return Path(text.replace("%d", str(Path.home()))).expanduser()


def _local_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # an account without a name, on Windows without USERNAME
        return ""


def _unusable(problem: str) -> BadInputError:
    return BadInputError(f"~/.ssh/config cannot be used: {problem}. Nothing was done.")
