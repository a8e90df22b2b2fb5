"""What people are told without looking: a message for each new failure, and a digest of the night.

They go to Prefect's notification blocks that SESSIONFLOW_NOTIFY names (`slack-webhook/lab,mail/me`). A part of the
watch of `sessionflow up`; what each block was told is kept in a file: nothing is told twice or lost when that restarts,
and what one block did not take is tried again with that one alone.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Any

from prefect.blocks.abstract import NotificationBlock, NotificationError
from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.utilities.urls import url_for

from flows.labels import CUT_OFF, IN_PROGRESS, LOG_LABEL, TAGGED
from trackers.errors import BadInputError
from trackers.files import atomic_write

NOTIFY_VARIABLE = "SESSIONFLOW_NOTIFY"
DIGEST_VARIABLE = "SESSIONFLOW_DIGEST"  # HH:MM, in this computer's time zone
DIGEST_TIME = "07:00"
SESSION_FLOW, PROJECT_FLOW = "process-session", "process-project"
REMEMBERED = timedelta(days=90)  # a failure that was told; one that comes back later is new
LATE = timedelta(minutes=10)  # an end may be reported late, or by a clock that is slow
LISTED = 20  # sessions in one message
_PAGE = 200
_ELSEWHERE = (IN_PROGRESS, CUT_OFF)


@dataclass
class Told:
    """What has been told already through one block.

    Attributes:
        since: failures that ended later have not been looked at; ISO 8601.
        failures: when each was told, by what failed and why.
        digest: until when the last digest told; ISO 8601.
    """

    since: str
    digest: str
    failures: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, name: str, now: datetime) -> Told:
        """Read it; for a new block, and where it cannot be read, what was before now counts as told."""
        try:
            return cls(**json.loads(path.read_bytes())[name])
        except (OSError, ValueError, TypeError, KeyError):
            return cls(now.isoformat(), now.isoformat())


@dataclass(frozen=True)
class Failure:
    """A run that failed.

    Attributes:
        what: the run's name; the session's where it has one.
        cause: the first sentence, without the names of what failed: equal for what fails for one reason.
        words: the same sentence as the run says it.
    """

    what: str
    cause: str
    words: str
    log: str
    url: str

    @property
    def key(self) -> str:
        """What failed and why: the same again is not new."""
        return f"{self.what}: {self.cause}"


async def tell(path: Path, now: datetime) -> list[str]:
    """Send each block what is new, and the digest when it is time; return what was sent, or not taken, a line each.

    Args:
        path: the file that remembers.
        now: with its zone.

    """
    names = [name for name in os.environ.get(NOTIFY_VARIABLE, "").replace(" ", "").split(",") if name]
    records = {name: Told.read(path, name, now) for name in names}
    said: list[str] = []
    for name, told in records.items():
        try:
            async for subject in _tell(await _block(name), told, now):
                _keep(path, records)
                said.append(f"{name}: {subject}")
        except Exception as error:  # of many kinds, and of this block; the others are told all the same
            why = error.log if isinstance(error, NotificationError) else str(error)
            said.append(f"{name}: {' '.join(why.split()) or type(error).__name__}; it is tried again every minute")
        _keep(path, records)
    return said


async def _tell(block: NotificationBlock, told: Told, now: datetime) -> AsyncIterator[str]:
    """Send one block what it was not told yet, and note it in `told`; give the subject of each message."""
    async with get_client() as client:
        failed = await _failed(client, datetime.fromisoformat(told.since) - LATE)
        new = {failure.key: failure for failure in map(failure_of, failed) if failure.key not in told.failures}
        for cause in dict.fromkeys(failure.cause for failure in new.values()):
            subject, body = failure_message([failure for failure in new.values() if failure.cause == cause])
            await _send(block, subject, body)
            told.failures |= {key: now.isoformat() for key, failure in new.items() if failure.cause == cause}
            yield subject
        told.since = max([told.since, *(_end(run).isoformat() for run in failed)])
        due = digest_due(datetime.fromisoformat(told.digest), now, os.environ.get(DIGEST_VARIABLE) or DIGEST_TIME)
        if due is not None:
            message = digest_message(await _ended(client, datetime.fromisoformat(told.digest), due))
            if message is not None:
                await _send(block, *message)
            told.digest = due.isoformat()
            if message is not None:
                yield message[0]
    old = (now - REMEMBERED).isoformat()
    told.failures = {key: when for key, when in told.failures.items() if when > old}


def failure_of(run: FlowRun) -> Failure:
    """Return what is told of a failed run."""
    names = {str(value) for key, value in (run.parameters or {}).items() if key in (*TAGGED, "session") and value}
    message = str(run.state.message or run.state.name) if run.state else "it failed"
    cause = words = message.strip().splitlines()[0] if message.strip() else "it failed"
    for name in sorted(names, key=len, reverse=True):
        cause = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", "…", cause)
    cause = re.sub(r"…(/…)+", "…", cause)
    link = url_for("flow-run", obj_id=run.id) or ""
    return Failure(run.name, cause, words, str((run.labels or {}).get(LOG_LABEL, "")), link)


def failure_message(failures: list[Failure]) -> tuple[str, str]:
    """Return subject and text about runs that failed for one reason."""
    first = failures[0]
    others = f" and {len(failures) - 1} more" if len(failures) > 1 else ""
    lines = [first.cause if others else first.words, ""]
    for failure in failures[:LISTED]:
        lines += [failure.what, f"  {failure.url}", *([f"  log: {failure.log}"] if failure.log else [])]
    if len(failures) > LISTED:
        lines.append(f"… and {len(failures) - LISTED} more.")
    return f"sessionflow: {first.what}{others} failed", "\n".join(lines)


def digest_due(last: datetime, now: datetime, at: str) -> datetime | None:
    """Return the moment at which a digest became due since the last one; None where none did.

    Args:
        last: until when the last one told.
        now: with its zone.
        at: when it is due, in this computer's time zone: each day at that time, also where clocks were changed since.

    Raises:
        BadInputError: `at` is no time of day.
    """
    try:
        of_day = time.fromisoformat(at)
        if of_day.tzinfo is not None:
            raise ValueError(at)
    except ValueError:
        raise BadInputError(f"{DIGEST_VARIABLE} is {at!r}, and should be a time of day like 07:00.") from None
    today = now.astimezone().date()
    moments = [datetime.combine(day, of_day).astimezone() for day in (today, today - timedelta(days=1))]
    moment = next(moment for moment in moments if moment <= now)
    return moment if last < moment else None


def digest_message(runs: list[FlowRun]) -> tuple[str, str] | None:
    """Return subject and text about the sessions that were processed; None where none was."""
    if not runs:
        return None
    bad = [run for run in runs if run.state_type is not None and run.state_type.value in ("FAILED", "CRASHED")]
    ended = [run for run in runs if run.state_type is not None and run.state_type.value == "CANCELLED"]
    good = len(runs) - len(bad) - len(ended)
    counts = [f"{good} succeeded", f"{len(bad)} failed", *([f"{len(ended)} cancelled"] if ended else [])]
    lines = [f"Sessions since the last digest: {', '.join(counts)}."]
    for failure in map(failure_of, bad[:LISTED]):
        lines += ["", failure.what, f"  {failure.words}", f"  {failure.url}"]
    if len(bad) > LISTED:
        lines += ["", f"… and {len(bad) - LISTED} more."]
    return f"sessionflow: {', '.join(counts)}", "\n".join(lines)


async def _send(block: NotificationBlock, subject: str, body: str) -> None:
    with block.raise_on_failure():  # else Slack's and Teams' say nothing of a message that was not taken
        await block.notify(body, subject)


async def _block(name: str) -> NotificationBlock:
    """Return a notification block.

    Raises:
        BadInputError: there is none of that name, or it is no notification block.
    """
    try:
        block = await Block.aload(name)
    except ValueError as error:
        raise BadInputError(f"{NOTIFY_VARIABLE} names {name!r}, and Prefect has no such block: {error}") from None
    if not isinstance(block, NotificationBlock):
        raise BadInputError(f"{NOTIFY_VARIABLE} names {name!r}, which is no notification block.")
    return block


async def _failed(client: PrefectClient, since: datetime) -> list[FlowRun]:
    """Return the runs that have failed: of sessions, and started by themselves.

    A project's repeats what its sessions say; it is told where none of them failed, as when its server was away.
    """
    wanted = {"state": {"type": {"any_": ["FAILED", "CRASHED"]}}, "end_time": {"after_": since.isoformat()}}
    runs = await _runs(client, wanted, {})
    flows = {flow.id: flow.name for flow in await client.read_flows(limit=_PAGE)}
    chosen = []
    for run in runs:
        name = flows.get(run.flow_id, "")
        if _end(run) <= since or (name != SESSION_FLOW and run.parent_task_run_id is not None):
            continue
        if name != PROJECT_FLOW or not await _sessions_failed(client, run):
            chosen.append(run)
    return chosen


async def _sessions_failed(client: PrefectClient, run: FlowRun) -> bool:
    """Whether a project's run failed by its sessions, which are told themselves; a crash is told beside them."""
    if run.state_type is not None and run.state_type.value == "CRASHED":
        return False
    failed = {"state": {"type": {"any_": ["FAILED", "CRASHED"]}}, "parent_flow_run_id": {"any_": [str(run.id)]}}
    return bool(await _runs(client, failed, {"name": {"any_": [SESSION_FLOW]}}))


async def _ended(client: PrefectClient, since: datetime, until: datetime) -> list[FlowRun]:
    """Return the sessions' runs that ended between two moments."""
    ended = {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]}}}
    times = {"end_time": {"after_": since.isoformat(), "before_": until.isoformat()}}
    return await _runs(client, {**ended, **times}, {"name": {"any_": [SESSION_FLOW]}})


async def _runs(client: PrefectClient, wanted: dict[str, Any], flows: dict[str, Any]) -> list[FlowRun]:
    """Return the runs of some flows, without those whose work somebody else does, or a new run."""
    found: list[FlowRun] = []
    while True:
        page = await client.read_flow_runs(
            flow_filter=FlowFilter.model_validate(flows) if flows else None,
            flow_run_filter=FlowRunFilter.model_validate(wanted),
            sort=FlowRunSort.END_TIME_DESC,
            limit=_PAGE,
            offset=len(found),
        )
        found += page
        if len(page) < _PAGE:
            return [run for run in found[::-1] if run.state is None or run.state.name not in _ELSEWHERE]


def _end(run: FlowRun) -> datetime:
    assert run.end_time is not None  # noqa: S101 - it has ended
    return run.end_time


def _keep(path: Path, records: dict[str, Told]) -> None:
    found = {name: asdict(told) for name, told in records.items()}
    atomic_write(path, json.dumps(found, indent=1).encode())
