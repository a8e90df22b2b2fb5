"""Taking a session's lock with everything that must be known first: live jobs, dead owners, older incarnations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from trackers.commands import on_session
from trackers.errors import FileSystemError, SessionLockedError, TrackerCorruptError
from trackers.lock import Holder, LockState
from trackers.names import ProcessingPipelines
from trackers.ownership import OpenSubmission, admit
from trackers.processes import this_account
from trackers.submission import digest_of
from trackers.targets import Target
from trackers.work import Work


def acquire(
    target: Target, holder: Holder, wish: Mapping[str, dict[str, Any]], dead: LockState | None = None
) -> Holder:
    """Take a session's lock.

    Args:
        target: the session.
        holder: who asks; what is granted may carry another manager id, the one that live jobs carry.
        wish: the settings of every pipeline that the manager may run, by member name.
        dead: the lock's state as it was when its owner was found dead; it is taken from exactly that one.

    Raises:
        SessionLockedError: somebody works on it, or live jobs admit only their continuation.
    """
    admission = admit(_open_submissions(target), _digests(target, wish), holder.manager_id, this_account())
    if admission.refusal:
        ending = f": {_cancel(target)}" if admission.cancel else ""
        raise SessionLockedError(
            f"{target.name} cannot be taken: {admission.refusal}. Nothing was changed.", f"{admission.remedy}{ending}"
        )
    found = target.lock.read()
    asked_before = found.holder is not None and found.holder.incarnation == holder.incarnation  # the answer was lost
    state = found if dead is None or asked_before else dead
    if dead is None and not _ours(state, holder):
        raise target.lock.refusal(state, f"Manager {holder.manager_id} was refused")
    holder = replace(holder, manager_id=admission.manager_id, target=target.name)
    granted = target.lock.take_over(state, holder)  # compare and swap: of two that came this far, one is refused
    _finish_trackers(target)
    return granted


def live_jobs(target: Target) -> list[str]:
    """Return the jobs of a session that run, wait, or cannot be asked about, as `PIPELINE/NUMBER JOB`."""
    found = []
    for pipeline, folder in target.all_submissions().items():
        submission = folder.current()
        if submission is None or not submission.open:
            continue
        work = Work(target, pipeline)
        work.ask()  # what cannot be asked about keeps its last state, and so counts as live
        found += [f"{submission.name} {job}" for job in work.running(work.refresh(submission.number))]
    return found


def force_release(target: Target, *, abandon: bool = False) -> LockState | None:
    """Free a session's lock on a person's word; return whom it was taken from, None where the file was corrupt.

    Raises:
        SessionLockedError: jobs still run or wait, and `abandon` was not given.
    """
    if not abandon and (jobs := live_jobs(target)):
        raise SessionLockedError(
            f"{target.name} has jobs that still run or wait: {', '.join(jobs)}. The lock was left as it is. "
            f"Leave them to themselves with `{target.lock.release_command} --abandon`, "
            f"or end them with: {_cancel(target)}"
        )
    try:
        state = target.lock.read()
    except (TrackerCorruptError, FileSystemError):
        state = None
    target.lock.force_release()
    return state


def _cancel(target: Target) -> str:
    return on_session(target.paths.storage_directory, "cancel")


def _ours(state: LockState, asking: Holder) -> bool:
    """Whether the lock is free, or held by an earlier process of the same manager or flow run."""
    if state.free or state.manager_id == asking.manager_id:
        return True
    return state.holder is not None and asking.flow_run_id != "" and state.holder.flow_run_id == asking.flow_run_id


def _open_submissions(target: Target) -> list[OpenSubmission]:
    live = {name.split(" ")[0] for name in live_jobs(target)}
    found = []
    for folder in target.all_submissions().values():
        submission = folder.current()
        if submission is not None and submission.open:
            found.append(
                OpenSubmission(
                    submission.pipeline.name,
                    submission.digest,
                    submission.manager_id,
                    submission.account,
                    submission.name in live,
                )
            )
    return found


def _digests(target: Target, wish: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    return {
        name: digest_of(target.name, ProcessingPipelines[name], settings)
        for name, settings in wish.items()
        if name in ProcessingPipelines.__members__
    }


def _finish_trackers(target: Target) -> None:
    """Write the trackers that a manager left behind when it died between closing a record and saying so."""
    for pipeline, folder in target.all_submissions().items():
        submission = folder.current()
        if submission is None or submission.open:
            continue
        try:
            state = target.tracker(pipeline).read()
        except TrackerCorruptError:
            continue
        if state.running and state.manager_id == submission.manager_id:
            Work(target, pipeline).write_tracker(submission)
