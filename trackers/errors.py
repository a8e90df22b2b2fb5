"""One family of errors. Each says what happened, to which file, what was left unchanged, and what to do next."""

from __future__ import annotations

from pathlib import PurePath


class SessionflowError(Exception):
    """The base of every error that a caller can act on; `exit_code` is the command line's.

    A `remedy` is what to do next, where the message ends with it and others may have something to say before.
    """

    exit_code = 1

    def __init__(self, message: str = "", remedy: str = "") -> None:
        super().__init__(f"{message} {remedy}".rstrip())
        self.remedy = remedy


class BadInputError(SessionflowError):
    """What was asked for cannot be done as asked; nothing was touched."""

    exit_code = 2


class InvalidNameError(BadInputError):
    """A name that must not become a path or meet a shell."""

    def __init__(self, what: str, name: object, reason: str) -> None:
        super().__init__(f"{name!r} cannot name {_article(what)} {what}: {reason}. Nothing was touched.")


class NotFoundError(BadInputError):
    """A project, animal, session or folder does not exist."""


class SessionDataError(BadInputError):
    """A session's own description is missing, unreadable, or contradicts its place."""


class NotEligibleError(BadInputError):
    """The target's type or state does not admit this pipeline."""


class CuratedError(BadInputError):
    """A run would replace what people have edited."""


class EnvironmentMissingError(BadInputError):
    """The environment that jobs need is not on the server; nothing was submitted."""


class TrackerCorruptError(SessionflowError):
    """A state file holds something that we did not write and cannot read."""

    def __init__(self, path: PurePath, problem: str, remedy: str) -> None:
        super().__init__(f"{path} cannot be read: {problem}. The file was left unchanged. {remedy}")
        self.path = path


class TrackerOwnedError(SessionflowError):
    """A tracker is running under another manager."""

    exit_code = 3


class SessionLockedError(SessionflowError):
    """The session is locked by another manager, or not by the one that asked."""

    exit_code = 3

    def with_facts(self, words: str) -> SessionLockedError:
        """Return the same refusal with more that is known about it; what to do next stays at the end."""
        return SessionLockedError(f"{str(self).removesuffix(self.remedy).rstrip()} {words}", self.remedy)


class AlreadyRunningError(SessionflowError):
    """What there can be only one of runs already."""

    exit_code = 3


class LockTimeoutError(SessionflowError, TimeoutError):
    """A `.lock` file could not be taken in time."""

    exit_code = 3

    def __init__(self, path: PurePath, seconds: float) -> None:
        super().__init__(
            f"{path} could not be locked within {seconds:g} s: another program holds it. Nothing was changed. "
            f"Try again; `fuser -v '{path}'` on the server names the program."
        )


class FileSystemError(SessionflowError):
    """The file system refused (read-only, full, no flock)."""


class SubmissionError(SessionflowError):
    """Jobs could not be handed to the scheduler."""


class NotYetError(SubmissionError):
    """It cannot be done as long as the scheduler cannot be asked: worth trying again, for as long as it takes."""


class JobFailedError(SessionflowError):
    """A job ended without success."""


class UnreachableError(SessionflowError, ConnectionError):
    """A server could not be reached, or the connection to it was lost: worth trying again, for as long as it takes."""


class CommandTimeoutError(SessionflowError, TimeoutError):
    """A command on a server did not end in time."""


class HostKeyError(SessionflowError):
    """The server's host key is unknown or has changed."""


class AuthenticationError(SessionflowError):
    """A server does not let this account in."""


class LoginNeededError(AuthenticationError):
    """A server lets this account in again once a person has logged in, or renewed a certificate."""


class PrefectError(SessionflowError):
    """Prefect's server cannot be reached, or has gone."""


class StaleLeaseError(SessionLockedError):
    """A request came from an incarnation that no longer holds the lock."""


def _article(noun: str) -> str:
    return "an" if noun[:1] in "aeiou" else "a"
