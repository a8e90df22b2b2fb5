"""Whether a session passes quality control: the checks of its report, and what a person has overruled."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trackers.errors import BadInputError, NotFoundError, SessionDataError
from trackers.files import atomic_write, locked, make_directory
from trackers.layout import SessionPaths
from trackers.processes import this_account

QC = "report/qc.json"  # below the results: {"checks": [{"name": …, "verdict": "pass", "fail" or "unknown", …}, …]}
VERDICTS = "verdicts.json"  # in tracking_data: {check: {"verdict": …, "reason": …, "by": …, …}, …}
PASS, FAIL = "pass", "fail"
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True)
class Overruling:
    """A person's verdict on one check, which counts before the report's own.

    Attributes:
        by: who said so, as they say; not verified.
        user: the account that wrote it.
        since: UTC, ISO 8601.
    """

    verdict: str
    reason: str
    by: str = ""
    user: str = ""
    since: str = ""

    def describe(self) -> str:
        """Return a sentence for people."""
        when = f", on {self.since[:16].replace('T', ' ')} UTC" if self.since else ""
        who = self.by if self.by == self.user or not self.user else f"{self.by} (unverified), as user {self.user}"
        return f"{self.verdict.capitalize()}, says {who}{when}: {self.reason.rstrip('.')}."


def quality_objection(paths: SessionPaths) -> str:
    """Say why a session does not pass quality control; empty where it does.

    A person's verdict on a check counts before the report's own. A session without a report does not pass; a check
    whose source is missing is no objection, unless that is so of all of them.
    """
    try:
        found = quality(paths)
    except SessionDataError as error:
        return str(error)
    if found is None:
        return "it has no quality control yet: run its report first"
    if failed := sorted(check["name"] for check in found if check["verdict"] == FAIL):
        return f"quality control says no: {', '.join(failed)}"
    passed = any(check["verdict"] == PASS for check in found)
    return "" if passed else "quality control could check nothing of it: see its report"


def quality(paths: SessionPaths) -> list[dict[str, Any]] | None:
    """Return the checks of a session as they count; an overruled one says `measured` and `overruled`, too.

    None where it has no report.

    Raises:
        SessionDataError: qc.json or verdicts.json cannot be read.
    """
    places = (directory / QC for directory in (paths.processed_data, paths.archived_data))
    path = next((place for place in places if place.exists()), None)
    if path is None:
        return None
    words = overrulings(paths)
    try:
        checks = [{**check, "name": str(check["name"]), "verdict": str(check["verdict"])} for check in _checks(path)]
    except _UNREADABLE as error:
        raise SessionDataError(f"its quality control cannot be read ({error!r}): run its report again") from None
    known = {check["name"] for check in checks}
    checks += [{"name": name, "verdict": "unknown"} for name in words if name not in known]
    return [
        {**check, "verdict": word.verdict, "measured": check["verdict"], "overruled": word.describe()}
        if (word := words.get(check["name"]))
        else check
        for check in checks
    ]


def row(paths: SessionPaths) -> dict[str, Any]:
    """Return a session's line of a project's table: its checks, or a `problem`; both are empty without a report."""
    names = {"animal": paths.animal, "session": paths.session}
    try:
        return {**names, "checks": quality(paths) or [], "problem": ""}
    except SessionDataError as error:
        return {**names, "checks": [], "problem": str(error)}


def overrulings(paths: SessionPaths) -> dict[str, Overruling]:
    """Return what people have overruled, by check.

    Raises:
        SessionDataError: verdicts.json cannot be read.
    """
    try:
        found = json.loads(_file(paths).read_bytes())
        known = Overruling.__dataclass_fields__
        return {
            name: Overruling(**{k: str(v) for k, v in word.items() if k in known} | {"verdict": str(word["verdict"])})
            for name, word in found.items()
        }
    except FileNotFoundError:
        return {}
    except _UNREADABLE as error:
        raise SessionDataError(
            f"{_file(paths)} cannot be read ({error!r}): correct it, or overrule its checks anew after removing it"
        ) from None


def overrule(paths: SessionPaths, check: str, verdict: str, reason: str, by: str) -> str:
    """Set a person's verdict on a check of a session's report; returns it in words.

    Raises:
        BadInputError: the session has no such check, or no reason was given; nothing was changed.
        SessionDataError: qc.json or verdicts.json cannot be read; nothing was changed.
    """
    if not paths.storage_directory.is_dir():
        raise NotFoundError(f"There is no session {paths} in {paths.volumes.storage}. Nothing was changed.")
    if verdict not in (PASS, FAIL):
        raise BadInputError(f"{verdict!r} is no verdict; say {PASS} or {FAIL}. Nothing was changed.")
    if not (reason := " ".join(reason.split())):
        raise BadInputError(f"No reason was given. {paths} was not changed. Say why, for those who come after you.")
    found = quality(paths)
    if found is None:
        raise BadInputError(f"{paths} has no quality control yet: run its report first. Nothing was changed.")
    if check not in (names := [c["name"] for c in found]):
        raise BadInputError(f"{paths} has no check {check!r}; it has {', '.join(names)}. Nothing was changed.")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    word = Overruling(verdict, reason, by or this_account(), this_account(), now)
    make_directory(paths.tracking_data)
    with locked(_file(paths)):
        words = overrulings(paths) | {check: word}
        atomic_write(_file(paths), json.dumps({n: asdict(w) for n, w in words.items()}, indent=1).encode())
    return word.describe()


def _checks(path: Path) -> Any:
    return json.loads(path.read_bytes())["checks"]


def _file(paths: SessionPaths) -> Path:
    return paths.tracking_data / VERDICTS
