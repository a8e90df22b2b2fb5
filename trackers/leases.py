"""Taking a lock with everything that must be known first: live jobs, dead owners, older incarnations."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from trackers.errors import FileSystemError, SessionLockedError, TrackerCorruptError
from trackers.lock import Holder, LockState
from trackers.names import ProcessingPipelines
from trackers.ownership import OpenSubmission, admit
from trackers.processes import this_account
from trackers.submission import Submission, digest_of
from trackers.targets import Target
from trackers.work import Work


def acquire(
    target: Target,
    holder: Holder,
    wish: Mapping[str, dict[str, Any]],
    dead: LockState | None = None,
    dataset: Target | None = None,
) -> Holder:
    """Take the lock of a session or dataset.

    Args:
        target: the session or dataset.
        holder: who asks; what is granted may carry another manager id, the one that live jobs carry.
        wish: the settings of every pipeline that the manager may run, by member name.
        dead: the lock's state as it was when its owner was found dead; it is taken from exactly that one.
        dataset: for which a session is taken; `holder` holds that already.

    Raises:
        SessionLockedError: somebody works on it, or live jobs admit only their continuation.
        StaleLeaseError: `holder` does not hold the dataset.
    """
    if dataset is not None:
        dataset.lock.check_incarnation(holder.incarnation)
    admission = admit(_open_submissions(target), _digests(target, wish), holder.manager_id, this_account())
    if admission.refusal:
        ending = f": {_cancel(target)}" if admission.cancel else ""
        raise SessionLockedError(
            f"{target.name} cannot be taken: {admission.refusal}. Nothing was changed.", f"{admission.remedy}{ending}"
        )
    found = target.lock.read()
    _refuse_for_jobs_of(target.held_for(found.holder), target, dataset)
    asked_before = found.holder is not None and found.holder.incarnation == holder.incarnation  # the answer was lost
    state = found if dead is None or asked_before else dead
    if dead is None and not _ours(state, holder):
        raise target.lock.refusal(state, f"Manager {holder.manager_id} was refused")
    holder = replace(
        holder,
        manager_id=admission.manager_id,
        target=(dataset or target).name,
        datasets=str(dataset.site.datasets) if dataset else "",
    )
    granted = target.lock.take_over(state, holder)  # compare and swap: of two that came this far, one is refused
    _finish_trackers(target)
    return granted


def live_jobs(target: Target) -> list[str]:
    """Return the jobs of a target that run, wait, or cannot be asked about, as `PIPELINE/NUMBER JOB`.

    Raises:
        OSError: this account may not look.
    """
    found = []
    for work, submission in open_work(target):
        work.ask()  # what cannot be asked about keeps its last state, and so counts as live
        found += [f"{submission.name} {job}" for job in work.running(work.refresh(submission.number))]
    return found


def open_work(target: Target) -> list[tuple[Work, Submission]]:
    """Return every pipeline of a target that has an open submission, with that.

    Raises:
        OSError: this account may not look.
    """
    with contextlib.suppress(FileNotFoundError):
        os.scandir(target.state_directory).close()  # another account's may be closed to us, which is not without jobs
    current = {pipeline: folder.current() for pipeline, folder in target.all_submissions().items()}
    return [(Work(target, pipeline), s) for pipeline, s in current.items() if s is not None and s.open]


def force_release(target: Target, *, abandon: bool = False) -> LockState | None:
    """Free a lock on a person's word; return whom it was taken from, None where the file was corrupt.

    Raises:
        SessionLockedError: jobs still run or wait, and `abandon` was not given.
    """
    try:
        state = target.lock.read()
    except (TrackerCorruptError, FileSystemError):
        state = None
    for busy in (target, target.held_for(state.holder) if state else None):
        if busy is not None and not abandon and (jobs := live_jobs(busy)):
            raise SessionLockedError(
                f"{busy.name} has jobs that still run or wait: {', '.join(jobs)}. The lock was left as it is. "
                f"Leave them to themselves with `{target.lock.release_command} --abandon`, "
                f"or end them with: {_cancel(busy)}"
            )
    target.lock.force_release()
    return state


def _refuse_for_jobs_of(holding: Target | None, session: Target, asking: Target | None) -> None:
    """Refuse a session that is held for a dataset whose jobs live, unless it is asked for by that dataset's manager."""
    if holding is None or (asking is not None and asking.state_directory == holding.state_directory):
        return  # whoever holds the dataset continues these jobs, or there are none
    if jobs := live_jobs(holding):
        raise SessionLockedError(
            f"{session.name} cannot be taken: it is held for the dataset {holding.name}, whose jobs {', '.join(jobs)} "
            "still run or wait. Nothing was changed.",
            f"Run that pipeline again to continue them, or end them with: {_cancel(holding)}",
        )


def _cancel(target: Target) -> str:
    return target.command("cancel")


def _ours(state: LockState, asking: Holder) -> bool:
    """Whether the lock is free, or held by an earlier process of the same manager or flow run."""
    if state.free or state.manager_id == asking.manager_id:
        return True
    return state.holder is not None and asking.flow_run_id != "" and state.holder.flow_run_id == asking.flow_run_id


def _open_submissions(target: Target) -> list[OpenSubmission]:
    live = {name.split(" ")[0] for name in live_jobs(target)}
    return [
        OpenSubmission(s.pipeline.name, s.digest, s.manager_id, s.account, s.name in live) for _, s in open_work(target)
    ]


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
