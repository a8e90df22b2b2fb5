"""Prefect's database into a file, consistent while it is in use, and back; what a restore replaces is kept."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.engine import URL, make_url

from flows.up_settings import database_url
from trackers.errors import AlreadyRunningError, BadInputError, FileSystemError, SessionflowError

_SQLITE, _POSTGRES = b"SQLite format 3\0", b"PGDMP"
_EMPTY = "DROP SCHEMA public CASCADE; CREATE SCHEMA public;"


def backup_database(file: Path, database: str = "") -> str:
    """Copy the database into a new file, whole or not at all; return what was done, in words.

    Raises:
        BadInputError: there is no database, or the file exists.
        FileSystemError, SessionflowError: it could not be read or written.
    """
    url = make_url(database_url(database))
    if file.exists():
        raise BadInputError(f"{file} exists already. Nothing was done. Name another file.")
    with _whole(file) as temporary:
        if _is_sqlite(url):
            _copy_sqlite(_sqlite_path(url), temporary)
        else:
            _postgres(url, "pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--file={temporary}")
    return (
        f"Copied {_name(url)} to {file} ({file.stat().st_size:,} bytes). Keep the file `encryption-key` apart from it: "
        "without that key, nobody can read what blocks keep secret."
    )


def check_backup(file: Path, database: str = "") -> str:
    """Refuse a file that is no whole backup of such a database, and a database in use; return how it is called.

    Raises:
        BadInputError: it is none, or of the other kind of database.
        AlreadyRunningError: a server has the database open.
    """
    url = make_url(database_url(database))
    try:
        with file.open("rb") as opened:
            head = opened.read(len(_SQLITE))
    except OSError as error:
        raise BadInputError(f"{file} cannot be read: {error.strerror}. Nothing was changed.") from None
    kind = _SQLITE if _is_sqlite(url) else _POSTGRES
    if not head.startswith(kind):
        other = "SQLite" if head.startswith(_SQLITE) else "Postgres" if head.startswith(_POSTGRES) else ""
        what = f"a backup of {other}" if other else "no backup"
        raise BadInputError(f"{file} is {what}, and cannot be restored to {_name(url)}. Nothing was changed.")
    if kind is _SQLITE:
        with _sqlite(file) as opened_copy:
            _check_sqlite(opened_copy, file)
    else:
        _run("pg_restore", "--list", str(file))
    if users := _users(url):
        raise AlreadyRunningError(
            f"{_name(url)} is in use ({users}). Nothing was changed. End the server and whatever else uses it first."
        )
    return _name(url)


def restore_database(file: Path, database: str = "") -> str:
    """Put a backup that was checked into the database's place; return what was done, in words.

    Raises:
        FileSystemError, SessionflowError: it could not be done; the database is as it was.
    """
    url = make_url(database_url(database))
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    if _is_sqlite(url):
        path = _sqlite_path(url)
        old = path.with_name(f"{path.name}.replaced-{stamp}")
        _restore_sqlite(file, path, old)
    else:
        old = file.absolute().with_name(f"{url.database}.replaced-{stamp}.dump")
        backup_database(old, url.render_as_string(hide_password=False))
        _restore_postgres(url, file)
    kept = f" What it replaced is kept: {old}" if old.exists() else ""
    return f"Restored {_name(url)} from {file}.{kept}"


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _name(url: URL) -> str:
    return str(_sqlite_path(url)) if _is_sqlite(url) else url.render_as_string(hide_password=True)


def _sqlite_path(url: URL) -> Path:
    if not url.database or url.database == ":memory:":
        raise BadInputError(f"{url} is no file. Nothing was done.")
    return Path(url.database).absolute()


@contextlib.contextmanager
def _whole(file: Path) -> Iterator[Path]:
    """Have a file written beside its place, for this account alone, and put there when it is complete."""
    try:
        descriptor, name = tempfile.mkstemp(dir=file.absolute().parent, prefix=f".{file.name}.")
    except OSError as error:
        raise FileSystemError(f"{file} cannot be written: {error.strerror}. Nothing was done.") from None
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(file)
    except (OSError, sqlite3.Error) as error:
        raise FileSystemError(f"{file} cannot be written: {error}. Nothing was changed.") from None
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _sqlite(path: Path) -> Iterator[sqlite3.Connection]:
    if not path.is_file():
        raise BadInputError(f"There is no database {path}. Nothing was done.")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        yield connection


def _copy_sqlite(source: Path, copy: Path) -> None:
    """Copy a database that others may be writing to, at one moment of it."""
    with _sqlite(source) as connection, _sqlite(copy) as copied:
        connection.backup(copied)
        copied.execute("PRAGMA journal_mode=DELETE")  # one file, without others beside it
        _check_sqlite(copied, source)


def _check_sqlite(connection: sqlite3.Connection, path: Path) -> None:
    try:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error as error:
        found, tables = str(error), set()
    if found != "ok" or not {"flow_run", "alembic_version"} <= tables:
        raise BadInputError(f"{path} is no whole database of Prefect's ({found}). Nothing was changed.")


def _restore_sqlite(file: Path, path: Path, old: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _whole(path) as temporary:
        _copy_sqlite(file, temporary)
        if path.exists():
            with _sqlite(path) as replaced:  # what its journal holds goes into the file that is kept
                replaced.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                replaced.execute("PRAGMA journal_mode=DELETE")
            os.link(path, old)  # there is a database under its name at every moment
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _restore_postgres(url: URL, file: Path) -> None:
    """Replace everything in one transaction: it is all there, or nothing has changed."""
    with tempfile.NamedTemporaryFile(suffix=".sql") as script:
        _run("pg_restore", "--no-owner", "--no-privileges", f"--file={script.name}", str(file))
        _postgres(url, "psql", "-qX1", "-v", "ON_ERROR_STOP=1", "-c", _EMPTY, "-f", script.name)


def _users(url: URL) -> str:
    """Say who has the database open; empty: nobody that can be seen."""
    if not _is_sqlite(url):
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        count = int(_postgres(url, "psql", "-XAtc", query))
        return f"{count} connections" if count else ""
    path = _sqlite_path(url)
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if link.readlink() == path:
                found.append(link.parts[2])
    return f"by process {', '.join(sorted(set(found)))}" if found else ""


def _postgres(url: URL, *words: str) -> str:
    """Run one of Postgres's programs on the database; a password travels in the environment."""
    plain = url.set(drivername="postgresql", password=None).render_as_string(hide_password=False)
    return _run(*words, f"--dbname={plain}", environment={"PGPASSWORD": str(url.password)} if url.password else {})


def _run(*words: str, environment: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            words, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise BadInputError(
            f"{words[0]} is not installed here. Nothing was changed. It comes with Debian's postgresql-client."
        ) from None
    if done.returncode:
        raise SessionflowError(f"{words[0]} failed, and changed nothing:\n{done.stderr.strip()[-1000:]}")
    return done.stdout.strip()
