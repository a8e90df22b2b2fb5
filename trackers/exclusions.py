"""Sessions that people have taken out of processing: a file that says who did, when and why."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from trackers.commands import on_session
from trackers.errors import BadInputError, FileSystemError, NotFoundError, TrackerCorruptError
from trackers.files import atomic_write, dump_yaml, load_yaml, locked, make_directory
from trackers.layout import SessionPaths
from trackers.processes import this_account

FILE = "exclusion.yaml"  # in tracking_data; a session is excluded as long as it is there


@dataclass(frozen=True)
class Exclusion:
    """Why a session is processed by nothing.

    Attributes:
        requested_by: who said so, as they say; not verified.
        user: the account that wrote it.
        since: UTC, ISO 8601.
    """

    reason: str
    requested_by: str = ""
    user: str = field(default_factory=this_account)
    since: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def describe(self) -> str:
        """Return the end of a sentence that begins with "excluded", for people."""
        who = f"by {self.requested_by} (unverified), as user {self.user}" if self.requested_by else f"by {self.user}"
        return f"{who}, on {self.since[:16].replace('T', ' ')} UTC: {self.reason.rstrip('.')}"


def exclusion_words(paths: SessionPaths) -> str:
    """Say who excluded a session, when and why; empty where nobody did.

    A file that cannot be read excludes as well: whoever wrote it wanted the session left alone.
    """
    try:
        data = load_yaml(_file(paths), "As long as it is there, it excludes the session.")
        return Exclusion(**{key: str(data[key]) for key in ("reason", "requested_by", "user", "since")}).describe()
    except FileNotFoundError:
        return ""
    except KeyError as error:
        return f"by somebody, as {_file(paths)} says, which does not say {error}"
    except (TrackerCorruptError, FileSystemError) as error:
        return f"by somebody: {str(error).rstrip('.')}"


def include_command(paths: SessionPaths) -> str:
    """Return the command that puts a session back into processing."""
    return on_session(paths.storage_directory, "include")


def exclude(paths: SessionPaths, reason: str, requested_by: str) -> str:
    """Take a session out of processing, also a broken one; what runs on it is left alone. Returns the words.

    Raises:
        BadInputError: there is no such session, or no reason was given; nothing was changed.
    """
    _check(paths)
    if not (reason := " ".join(reason.split())):
        raise BadInputError(f"{paths} was not excluded: no reason was given. Say why, for those who come after you.")
    excluded = Exclusion(reason, requested_by)
    make_directory(paths.tracking_data)
    with locked(_file(paths)):
        atomic_write(_file(paths), dump_yaml(asdict(excluded)))
    return excluded.describe()


def include(paths: SessionPaths) -> str:
    """Put a session back into processing; returns the words of what excluded it, empty where nothing did.

    Raises:
        BadInputError: there is no such session.
        FileSystemError: the file could not be removed; the session is still excluded.
    """
    _check(paths)
    words = exclusion_words(paths)
    if not words:
        return ""
    with locked(_file(paths)):
        try:
            with contextlib.suppress(FileNotFoundError):
                _file(paths).unlink()
        except OSError as error:
            raise FileSystemError(
                f"{_file(paths)} could not be removed: {error.strerror}. The session is still excluded."
            ) from error
    return words


def _file(paths: SessionPaths) -> Path:
    return paths.tracking_data / FILE


def _check(paths: SessionPaths) -> None:
    """Refuse what does not exist; what a session says of itself may be broken."""
    paths.project_paths.check()
    if not paths.storage_directory.is_dir():
        raise NotFoundError(f"There is no session {paths} in {paths.volumes.storage}. Nothing was changed.")
