"""What `sessionflow up` needs to know before it starts anything: address, database, login and key."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import secrets
import socket
import sqlite3
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.fernet import Fernet

from flows import PREFECT_SETTINGS
from trackers.errors import BadInputError, FileSystemError

POOL = "sessionflow"
USER = "sessionflow"  # of the generated login
UNTOLD = "login-untold"  # a start that did not get as far as to tell the login leaves that to the next
HEARTBEAT_SECONDS = 60  # how often a flow run says that it lives
_HANDED_ON = ("PREFECT_HOME", "PREFECT_PROFILE", "PREFECT_SERVER_", "PREFECT_API_", "SESSIONFLOW_", "XDG_CONFIG_HOME")


@dataclass(frozen=True)
class Tls:
    """Files that let a server prove who it is: the certificate with its chain, and its private key."""

    certificate: Path
    key: Path

    def check(self) -> None:
        """Refuse files that a server could not use.

        Raises:
            BadInputError: one is not there, is not what it should be, or others can read the key.
        """
        try:
            x509.load_pem_x509_certificates(self.certificate.read_bytes())
            mode = self.key.stat().st_mode
            self.key.read_bytes()
        except (OSError, ValueError) as error:
            raise BadInputError(f"The TLS files cannot be used: {error}. Nothing was started.") from None
        if mode & 0o007:
            raise BadInputError(
                f"Everybody on this computer can read the private key {self.key}. Nothing was started. "
                f"Run: chmod 600 {self.key}"
            )

    @property
    def name(self) -> str:
        """The first name that the certificate proves, by which clients have to call the server."""
        certificate = x509.load_pem_x509_certificates(self.certificate.read_bytes())[0]
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            for kind in (x509.DNSName, x509.IPAddress):
                for name in names.get_values_for_type(kind):
                    return str(name)
        except x509.ExtensionNotFound:
            pass
        return socket.getfqdn()

    @property
    def self_signed(self) -> bool:
        """Whether no authority stands behind it, so that clients have to be given the certificate itself."""
        certificate = x509.load_pem_x509_certificates(self.certificate.read_bytes())[0]
        return certificate.issuer == certificate.subject


@dataclass(frozen=True)
class UpSettings:
    """All that the parts are started with; what Prefect's own settings say has been taken over.

    Attributes:
        home: Prefect's, PREFECT_HOME.
        api: the address of the API, for clients on this computer.
        database: its URL as Prefect wants it; empty: SQLite in `home`.
        login: `name:password`; who has it may do everything.
        encryption_key: of what blocks keep secret.
        fresh: whether the login was made by us, and has not been told yet.
        drain_seconds: how long runs get to end by themselves when everything stops.
    """

    home: Path
    host: str
    port: int
    api: str
    tls: Tls | None
    database: str
    login: str
    encryption_key: str
    fresh: bool
    storage_limit: int
    working_limit: int
    drain_seconds: float

    @property
    def folder(self) -> Path:
        """Where `up` keeps what is its own: login, key, lock and logs."""
        return state_folder(self.home)

    def environment(self) -> dict[str, str]:
        """Return the environment of every part; flows that the worker starts inherit it."""
        settings = {
            **PREFECT_SETTINGS,
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
            # in memory, as usual, a server that ends forgets who holds the limits' slots: they are then taken for ever
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            "PREFECT_SERVER_UI_API_URL": "/api",  # where the UI came from: right through tunnels too
        }
        fixed = {
            "PREFECT_HOME": str(self.home),
            "PREFECT_SERVER_API_HOST": self.host,
            "PREFECT_SERVER_API_PORT": str(self.port),
            "PREFECT_SERVER_API_AUTH_STRING": self.login,
            "PREFECT_SERVER_ENCRYPTION_KEY": self.encryption_key,
            **({"PREFECT_SERVER_DATABASE_CONNECTION_URL": self.database} if self.database else {}),
        }
        return {**settings, **os.environ, **fixed, **self.client()}

    def client(self) -> dict[str, str]:
        """Return the settings by which a client reaches the server."""
        ca = {"PREFECT_API_SSL_CERT_FILE": str(self.tls.certificate)} if self.tls and self.tls.self_signed else {}
        return {"PREFECT_API_URL": self.api, "PREFECT_API_AUTH_STRING": self.login, **ca}

    def worker_environment(self) -> dict[str, str]:
        """Return the worker's environment: flows need neither the database nor the key."""
        hidden = ("DATABASE_CONNECTION_URL", "DATABASE_PASSWORD", "SERVER_ENCRYPTION_KEY", "SERVER_API_AUTH_STRING")
        return {key: value for key, value in self.environment().items() if not key.endswith(hidden)}


def state_folder(home: Path) -> Path:
    """Return where `up` keeps what is its own, for this account alone.

    Raises:
        FileSystemError: it cannot be made.
    """
    folder = home / "sessionflow"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise FileSystemError(f"{folder} cannot be used: {error.strerror}. Nothing was started.") from None
    return folder


def settle(
    *,
    host: str,
    database: str,
    certificate: Path | None,
    key: Path | None,
    open_without_tls: bool,
    storage_limit: int,
    working_limit: int,
    drain_seconds: float,
) -> UpSettings:
    """Decide what the parts are started with, from the options and from Prefect's own settings.

    Raises:
        BadInputError: they contradict each other, or would open what must not be open; nothing was started.
    """
    from prefect.settings import get_current_settings

    known = get_current_settings()
    host, port = host or str(known.server.api.host), known.server.api.port
    if not 0 < port < 65536:
        raise BadInputError(f"{port} is no port: PREFECT_SERVER_API_PORT is 1 to 65535. Nothing was started.")
    if (certificate is None) != (key is None):
        raise BadInputError("--tls-certificate and --tls-key go together. Nothing was started.")
    tls = Tls(certificate.absolute(), key.absolute()) if certificate and key else None
    if tls:
        tls.check()
    if not tls and not open_without_tls and not _loopback(host):
        raise BadInputError(
            f"{host} is not this computer alone: the login would cross the network readable for all, and with it "
            "everybody can run commands as this account, which holds the cluster key. Nothing was started. Give "
            "--tls-certificate and --tls-key, or leave the address at 127.0.0.1 and come through `ssh -L`; "
            "--open-without-tls does it all the same."
        )
    api = _api(host, port, tls)
    _check_api(known.api.url or "", api)
    home = Path(known.home)
    folder = state_folder(home)
    configured = known.server.api.auth_string.get_secret_value() if known.server.api.auth_string else ""
    login, made = (configured, False) if configured else _kept(folder / "login", _new_login)
    if made:
        (folder / UNTOLD).touch()
    fresh = not configured and (folder / UNTOLD).exists()
    encryption_key = (
        os.environ.get("PREFECT_SERVER_ENCRYPTION_KEY")
        or _kept(folder / "encryption-key", lambda: _key_of_the_database(home) or Fernet.generate_key().decode())[0]
    )
    return UpSettings(
        *(home, host, port, api, tls, database_url(database), login, encryption_key, fresh),
        storage_limit=storage_limit,
        working_limit=working_limit,
        drain_seconds=drain_seconds,
    )


def database_url(given: str = "") -> str:
    """Return the database's URL with the driver that Prefect needs: as given, else as Prefect's settings say.

    Raises:
        BadInputError: it is neither SQLite nor Postgres.
    """
    from prefect.settings import get_current_settings

    configured = get_current_settings().server.database.connection_url
    url = given or (configured.get_secret_value() if configured else "")
    scheme, colon, rest = url.partition(":")
    drivers = {"postgres": "postgresql+asyncpg", "postgresql": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}
    if url and not (colon and scheme in (*drivers, *drivers.values())):
        raise BadInputError(
            f"{scheme or url!r} is no database for Prefect. Nothing was done. "
            "Give postgresql://NAME@HOST/DATABASE, or leave it out for SQLite."
        )
    return f"{drivers.get(scheme, scheme)}:{rest}" if url else ""


def handed_on() -> dict[str, str]:
    """Return what of this environment a unit of systemd has to repeat; no secret is among it."""
    secret = ("AUTH_STRING", "ENCRYPTION_KEY", "PASSWORD", "CONNECTION_URL", "API_KEY", "CUSTOM_HEADERS")
    chosen = {key: value for key, value in sorted(os.environ.items()) if key.startswith(_HANDED_ON)}
    return {key: value for key, value in chosen.items() if not key.endswith(secret)}


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _api(host: str, port: int, tls: Tls | None) -> str:
    here = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - it is not bound here
    name = tls.name if tls else here
    return f"{'https' if tls else 'http'}://{f'[{name}]' if ':' in name else name}:{port}/api"


def _check_api(named: str, ours: str) -> None:
    """Refuse to start one server and talk to another."""
    one, other = urlsplit(named), urlsplit(ours)
    if named and (one.port, one.scheme) != (other.port, other.scheme):
        raise BadInputError(
            f"PREFECT_API_URL names {named}, but the server that is started here would answer at {ours}. Nothing was "
            "started. Unset it (also `prefect config unset PREFECT_API_URL`), or set PREFECT_SERVER_API_PORT to its "
            "port."
        )


def _new_login() -> str:
    return f"{USER}:{secrets.token_urlsafe(18)}"


def _kept(path: Path, make: Callable[[], str]) -> tuple[str, bool]:
    """Return what a file of this account keeps; where there is none, make it, once.

    Returns:
        the text, and whether it was made just now.
    """
    try:
        if path.exists() and (text := path.read_text().strip()):
            path.chmod(0o600)
            return text, False
        text = make()
        descriptor, temporary = tempfile.mkstemp(dir=path.parent)  # 0600
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{text}\n")
        os.replace(temporary, path)  # noqa: PTH105
    except OSError as error:
        raise FileSystemError(f"{path} cannot be used: {error.strerror}. Nothing was started.") from None
    return text, True


def _key_of_the_database(home: Path) -> str:
    """Return the key that an earlier server put into its own database: what that one keeps secret needs it."""
    path = home / "prefect.db"
    if not path.is_file():
        return ""
    try:
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            found = database.execute("SELECT value FROM configuration WHERE key = 'ENCRYPTION_KEY'").fetchone()
    except sqlite3.Error:  # not yet a database of Prefect's: there is none
        return ""
    return str(json.loads(found[0])["fernet_key"]) if found else ""
