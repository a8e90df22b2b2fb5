"""Who may take a session's lock: pure rules over facts that others gathered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Liveness = Literal["dead", "alive", "unknown"]
SWEEP = "sweep"  # what a lock that a sweeper holds for a moment is for


class FlowRunFact(StrEnum):
    """What Prefect says of the holder's flow run."""

    TERMINAL = "terminal"
    ACTIVE = "active"
    UNKNOWN = "unknown"  # another API, a 404, no answer


def owner_liveness(flow_run: FlowRunFact, process_gone: bool | None) -> Liveness:
    """Tell whether a lock's owner is dead: by Prefect's word or the process's absence, never by age.

    Args:
        flow_run: what the API that the holder file names says.
        process_gone: whether its process has ended; None where that cannot be asked from this host.
    """
    if flow_run is FlowRunFact.TERMINAL or process_gone is True:
        return "dead"
    if flow_run is FlowRunFact.ACTIVE or process_gone is False:
        return "alive"
    return "unknown"


@dataclass(frozen=True)
class OpenSubmission:
    """An open submission, as far as taking the lock is concerned.

    Attributes:
        live: whether a job of it runs or waits, or could not be asked about.
        account: who submitted its jobs.
    """

    pipeline: str
    digest: str
    manager_id: int
    account: str
    live: bool


@dataclass(frozen=True)
class Admission:
    """Whether a lock may be taken, and as which manager.

    Attributes:
        manager_id: the manager to become: the recorded one where live jobs carry it, else the one that asked.
        refusal: why not; empty when admitted.
        remedy: what to do about it; where `cancel`, the command that ends the jobs completes it.
    """

    manager_id: int
    refusal: str = ""
    remedy: str = ""
    cancel: bool = False


def admit(submissions: Sequence[OpenSubmission], wish: Mapping[str, str], manager_id: int, account: str) -> Admission:
    """Decide whether live jobs admit a manager.

    Args:
        submissions: every open submission of the target.
        wish: the digests of what the manager would run, by pipeline.
        manager_id: the manager that asks.
        account: the account that it works under on the server.
    """
    live = [submission for submission in submissions if submission.live]
    for submission in live:
        if wish.get(submission.pipeline) != submission.digest:
            return Admission(
                manager_id,
                f"jobs of its {submission.pipeline} still run or wait, with other settings than asked for now",
                "Run the same pipeline again to continue them, or end them with",
                cancel=True,
            )
        if submission.account != account:
            return Admission(
                manager_id,
                f"jobs of its {submission.pipeline} still run or wait under the account {submission.account}; "
                f"only that account can continue them, and this is {account}",
                f"Ask {submission.account}.",
            )
    carried = {submission.manager_id for submission in live}
    if len(carried) > 1:
        return Admission(manager_id, "jobs of two managers still run or wait on it", "End them with", cancel=True)
    return Admission(carried.pop() if carried else manager_id)
