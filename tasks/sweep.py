"""The sweeper's decisions: who is dead is asked on this side, what became of the jobs on the server's."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict
from typing import Any

from tasks.client import Client
from tasks.lease import Asked, liveness
from tasks.outcome import to_the_end
from tasks.reports import Finding, SweepReport
from trackers.errors import SessionflowError, SessionLockedError
from trackers.lock import Holder
from trackers.manager import NOBODY
from trackers.ownership import Liveness


async def swept(client: Client, projects: Collection[str] = (), who: Callable[[], Holder] | None = None) -> SweepReport:
    """Find what dead managers left behind, and repair it; nothing is held between the looks at two sessions.

    Args:
        client: of the server.
        projects: which; none: all.
        who: makes what each lock says of us while it is being swept; None: only say what would be done.

    Raises:
        NotFoundError: there is no such project.
    """
    seen = await client.ask("sweep_look", projects=list(projects))
    asked: Asked = {}
    findings: list[Finding] = []
    for candidate in seen["candidates"]:
        findings += [Finding(candidate["name"], report, "person") for report in candidate["reports"]]
        finding = decided(candidate, *await _owner(candidate, asked))
        if finding is not None and finding.outcome in ("found", "left") and who is not None:
            finding = await to_the_end(_repaired(client, candidate, finding, who()))
        if finding is not None:
            findings.append(finding)
    return SweepReport(int(seen["sessions"]), tuple(findings))


def decided(candidate: dict[str, Any], word: Liveness, words: str) -> Finding | None:
    """Decide what is to be done about a candidate; None where it is none.

    Args:
        candidate: see `trackers.sweep.Candidate`.
        word: whether its owner is dead; "dead" also where it has none.
        words: by which facts.
    """
    name, hindrances = candidate["name"], [str(hindrance) for hindrance in candidate["hindrances"]]
    nothing = not candidate["plan"] and not hindrances
    if nothing or word == "alive" or (candidate["lockable"] and candidate["seen"] is None):  # an unreadable lock
        return None
    found = f"{candidate['who']}. {words}" if not _free(candidate) else words
    if candidate["lockable"] and not _free(candidate):
        found = f"locked by {found}"
    if word == "unknown":
        clear = f" If that manager is gone for good: {candidate['release']}" if candidate["lockable"] else ""
        return Finding(name, found, "person", f"It is not touched.{clear}")
    if hindrances:
        return Finding(name, found, "left", f"{'; '.join(hindrances)}.")
    return Finding(name, found, "found", f"{'; '.join(candidate['plan'])}.")


async def _repaired(client: Client, candidate: dict[str, Any], finding: Finding, who: Holder) -> Finding:
    """Have a candidate repaired, as it is by then, and say what came of it."""
    names = {key: candidate[key] for key in ("project", "animal", "session", "dataset", "number", "seen")}
    try:
        outcome = await client.ask("sweep_repair", **names, holder=asdict(who))
    except SessionLockedError as refusal:  # another sweeper, or a rerun: it does what is to be done
        return Finding(finding.target, finding.found, "left", str(refusal))
    except SessionflowError as error:
        return Finding(finding.target, finding.found, "failed", str(error))
    if outcome["left"]:
        return Finding(finding.target, finding.found, "left", f"{'; '.join(outcome['left'])}.")
    return Finding(finding.target, finding.found, "repaired", f"{'; '.join(outcome['done'])}.")


async def _owner(candidate: dict[str, Any], asked: Asked) -> tuple[Liveness, str]:
    """Tell whether a candidate's owner is dead, by which facts; of what is free, nobody is the owner."""
    return ("dead", "Nobody holds it.") if _free(candidate) else await liveness(candidate["owner"], asked)


def _free(candidate: dict[str, Any]) -> bool:
    """Whether nobody holds a session or dataset; a project's records have an owner each."""
    return bool(candidate["lockable"]) and candidate["seen"] is not None and candidate["seen"]["manager_id"] == NOBODY
