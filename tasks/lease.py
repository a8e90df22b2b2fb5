"""The lease: a session's lock, or a dataset's and its sessions', from before the first job until after the last one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Collection
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL

from tasks.client import Client
from tasks.interruption import Interruption
from tasks.outcome import carried_out, in_sentences, to_the_end
from trackers.errors import AuthenticationError, HostKeyError, SessionLockedError, UnreachableError
from trackers.lock import Holder
from trackers.manager import NOBODY, manager_id_of_flow_run
from trackers.ownership import SWEEP, FlowRunFact, Liveness, owner_liveness
from trackers.processes import ProcessIdentity

ABANDON_SECONDS, RELEASE_SECONDS = 10.0, 300.0  # for a server that is out of reach at a flow's end
SWEEP_SECONDS, SWEEP_PAUSE_SECONDS = 120.0, 0.2  # how long a sweeper is waited for, and between looks
STAYS = (
    "The lock of %s stays, and jobs that run go on; start the same again to continue them, or end them with "
    "`sessionflow cancel`: %s"
)
logger = logging.getLogger("sessionflow")


@dataclass
class Lease:
    """A session, or a dataset with its sessions, that is ours.

    Attributes:
        manager_id: the manager that holds it; where jobs of an earlier one still run, that one's id.
        sessions: those that are locked for a dataset, in the order in which they were taken.
        abandon: why the lock must stay when the run ends; empty as long as it can be given back.
    """

    client: Client
    target: dict[str, str]
    manager_id: int
    incarnation: str
    sessions: tuple[dict[str, str], ...] = ()
    abandon: str = ""

    async def ask(self, call: str, **arguments: Any) -> Any:
        """Ask the server side as the holder of this lease."""
        return await self.client.ask(call, **self.target, incarnation=self.incarnation, **arguments)

    async def ask_within(self, seconds: float, call: str, **arguments: Any) -> Any:
        """Ask as the holder of this lease, but give up on a server that is out of reach for so long."""
        return await self.client.ask_within(seconds, call, **self.target, incarnation=self.incarnation, **arguments)


Asked = dict[tuple[str, str], tuple[FlowRunFact, str]]
"""What Prefect has said of flow runs, by API and id."""

_lease: ContextVar[Lease | None] = ContextVar("lease", default=None)
_held: set[int] = set()  # the leases of this process that have not been given back


@contextlib.asynccontextmanager
async def leased(
    client: Client,
    target: dict[str, str],
    wish: dict[str, dict[str, Any]],
    who: Holder,
    sessions: Collection[dict[str, str]] = (),
) -> AsyncIterator[Lease]:
    """Hold the lock of a session, or of a dataset and all its sessions; flows that are called inside share it.

    Args:
        client: of the server that has the session.
        target: project, animal, session; or project, dataset, and for an animal in it that one.
        wish: settings of every pipeline that may run, by member name: what of it still runs is continued.
        who: what the lock is to say of us.
        sessions: of a dataset; all of them are locked, or nothing.

    Raises:
        SessionLockedError: somebody else works on one; says who, what is known of them, and how to clear it.
    """
    if (outer := _lease.get()) is not None and outer.client is client and outer.target == target:
        yield outer
        return
    lease: Lease = await _taken(client, target, wish, who, sessions)
    _held.add(id(lease))
    token = _lease.set(lease)
    try:
        yield lease
    finally:
        _lease.reset(token)
        interruption = Interruption.current()
        if interruption is not None and interruption.reason:
            await give_back(lease)  # without Prefect, which may be closing
        else:
            await to_the_end(carried_out(release_lock, lease))


async def _taken(
    client: Client,
    target: dict[str, str],
    wish: dict[str, dict[str, Any]],
    who: Holder,
    sessions: Collection[dict[str, str]],
) -> Lease:
    """Take the lock; a cancel that comes meanwhile is obeyed after it has been given back."""
    taking: asyncio.Future[Lease] = asyncio.ensure_future(carried_out(take_lock, client, target, wish, who, sessions))
    try:
        return await to_the_end(taking)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception, asyncio.CancelledError):
            await give_back(taking.result())
        raise


@task(name="lock", task_run_name="lock", persist_result=False, cache_policy=NO_CACHE)  # a cached lock would be no lock
@in_sentences
async def take_lock(
    client: Client,
    target: dict[str, str],
    wish: dict[str, dict[str, Any]],
    who: Holder,
    sessions: Collection[dict[str, str]] = (),
) -> Lease:
    """Take the lock, from a dead owner where facts say that it is dead; with `sessions`, theirs as well, or none.

    Nobody is waited for who works: of two flows that want some of the same sessions one is refused, and since both take
    them in the same order, the other one is not.
    """
    granted = await _patiently(client, target, wish, who)
    lease = Lease(client, target, int(granted["manager_id"]), str(granted["incarnation"]))
    who = replace(who, manager_id=lease.manager_id)
    try:
        for session in sorted(sessions, key=lambda names: tuple(names.values())):
            lease.sessions += (session,)  # before the answer, which may be lost
            await _patiently(client, session, wish, who, target)
    except BaseException:
        if (await client.ask("lock_show", **target))["live_jobs"]:  # an earlier manager's, that were to be continued
            lease.abandon = "its jobs run on, but not all of its sessions could be locked again"
        await give_back(lease)
        raise
    return lease


@task(name="release", task_run_name="release", persist_result=False, cache_policy=NO_CACHE)
@in_sentences
async def release_lock(lease: Lease) -> None:
    """Give the lock back, or mark it as abandoned where jobs may still run."""
    await give_back(lease)


async def give_back(lease: Lease) -> None:
    """Do what `release_lock` does, outside Prefect; where the server is out of reach, the lock stays.

    The next run, or the sweeper, finds that its owner has gone. A lock that stays is said.
    """
    try:
        await _give_back(lease)
    finally:
        _held.discard(id(lease))
        if not _held:
            Interruption.leave_soon()


async def _give_back(lease: Lease) -> None:
    name = "/".join(lease.target.values()) + (" and of its sessions" if lease.sessions else "")
    if lease.abandon:
        _say_that_it_stays(name, lease.abandon)
    for target in (*reversed(lease.sessions), lease.target):
        ours = replace(lease, target=target)
        with contextlib.suppress(SessionLockedError):  # it has passed to somebody else: not ours to give
            try:
                if lease.abandon:
                    await ours.ask_within(ABANDON_SECONDS, "lock_update", changes={"abandoned": lease.abandon})
                else:
                    await ours.ask_within(RELEASE_SECONDS, "lock_release", manager_id=lease.manager_id)
            except (UnreachableError, AuthenticationError, HostKeyError) as error:
                _say_that_it_stays(name, error)
                return


def _say_that_it_stays(name: str, reason: object) -> None:
    logger.warning(STAYS, name, reason)
    Interruption.stays.setdefault(name, STAYS % (name, reason))


def holder(flow_run_id: str, flow_run_name: str, outermost_run_id: str, requested_by: str, pipeline: str) -> Holder:
    """Describe this process as the holder of a lock; its manager id is the outermost flow run's."""
    return Holder(
        manager_id_of_flow_run(outermost_run_id),
        requested_by=requested_by,
        flow_run_id=flow_run_id,
        flow_run_name=flow_run_name,
        prefect_api=PREFECT_API_URL.value() or "",
        pipeline=pipeline,
        process=ProcessIdentity.of_this_process(),
    )


async def _patiently(
    client: Client,
    target: dict[str, str],
    wish: dict[str, dict[str, Any]],
    who: Holder,
    held_for: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Take one lock, for a dataset where that is given, after a sweeper that may hold it for a moment."""
    patience = time.monotonic() + SWEEP_SECONDS
    asked = {"holder": asdict(who), "wish": wish, "held_for": held_for}
    while True:
        try:
            return await _granted(client, target, asked)
        except SessionLockedError:
            if time.monotonic() > patience or not await _in_passing(client, target):
                raise
        await asyncio.sleep(SWEEP_PAUSE_SECONDS)


async def _granted(client: Client, target: dict[str, str], asked: dict[str, Any]) -> dict[str, Any]:
    try:
        return await _acquire(client, target, asked)
    except SessionLockedError as refusal:
        found = await client.ask("lock_show", **target)
        if found["manager_id"] in (None, NOBODY):
            raise
        word, words = await liveness(found["holder"])
        if word != "dead":
            raise refusal.with_facts(f"{words}{_live_jobs(found)}") from None
        dead = {"manager_id": found["manager_id"], "holder": found["holder"]}
        return await _acquire(client, target, {**asked, "dead": dead})


async def _in_passing(client: Client, target: dict[str, str]) -> bool:
    """Tell whether a session was held by a sweeper only, which gives it back at once, or has been given back."""
    found = await client.ask("lock_show", **target)
    if found["manager_id"] == NOBODY:
        return not found["live_jobs"]  # else it was the jobs that did not admit us
    return found["holder"] is not None and found["holder"]["pipeline"] == SWEEP


async def _acquire(client: Client, target: dict[str, str], asked: dict[str, Any]) -> dict[str, Any]:
    granted: dict[str, Any] = await client.ask("lock_acquire", **target, **asked)
    return granted


async def liveness(details: dict[str, Any] | None, asked: Asked | None = None) -> tuple[Liveness, str]:
    """Tell whether the owner of a lock or record is dead, and what was asked, in words.

    Args:
        details: what the holder file, or a project's record, says of it; None where it says nothing.
        asked: what has been asked already; each flow run is asked about once.
    """
    if details is None:
        return "unknown", "Nothing could be asked about it."
    if details.get("abandoned"):
        return "dead", "It said itself that it has left."
    identity = details.get("process")
    gone = ProcessIdentity(**identity).gone() if identity else None
    run = str(details.get("prefect_api") or ""), str(details.get("flow_run_id") or "")
    asked = {} if asked is None else asked
    if run not in asked:
        asked[run] = await _flow_run(*run)
    fact, said = asked[run]
    process = {True: "has ended", False: "lives", None: "cannot be asked about from this computer"}[gone]
    return owner_liveness(fact, gone), f"Prefect says of its flow run: {said}; its process {process}."


async def _flow_run(api: str, flow_run_id: str) -> tuple[FlowRunFact, str]:
    if not flow_run_id:
        return FlowRunFact.UNKNOWN, "it has none"
    if not api or api != PREFECT_API_URL.value():
        # no other API is asked: the holder file can be written by a whole group, and our login must not go anywhere
        return FlowRunFact.UNKNOWN, "it belongs to another Prefect server than ours"
    try:
        async with get_client() as client:
            state = (await client.read_flow_run(flow_run_id)).state  # type: ignore[arg-type]
    except Exception as error:
        return FlowRunFact.UNKNOWN, f"no answer ({type(error).__name__})"
    if state is None:
        return FlowRunFact.UNKNOWN, "it has no state"
    return (FlowRunFact.TERMINAL if state.is_final() else FlowRunFact.ACTIVE), state.name or state.type.value


def _live_jobs(found: dict[str, Any]) -> str:
    jobs = found.get("live_jobs") or []
    return f" Its jobs {', '.join(jobs)} still run or wait." if jobs else " The scheduler knows of no job of it."
