"""What managers that are gone left behind: found in one look over all targets, repaired one at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from trackers import leases
from trackers.attempts import closed
from trackers.errors import BadInputError, SessionflowError, SubmissionError
from trackers.facts import datasets_of, sessions_of
from trackers.layout import SHARED_ASSET_FOLDERS
from trackers.lock import Holder, LockState
from trackers.manager import NOBODY
from trackers.names import ProcessingPipelines, validate_name
from trackers.processes import this_account
from trackers.scheduler import Scheduler
from trackers.site import Site
from trackers.states import JobState, Sighting
from trackers.submission import Submission
from trackers.targets import Target
from trackers.tracker import reset_command
from trackers.work import Work

_CLOSE, _RELEASE = "close", "release the lock"
_NOWHERE = "the scheduler does not know it, and it may still turn up"


@dataclass
class Candidate:
    """A session or dataset, or one manifest of a project, that may have been left behind; who owns it the manager asks.

    Attributes:
        number: of the submission, for a project's manifest; what is locked has one owner for everything, and 0 here.
        lock: of a session or dataset; None where it cannot be read.
        owner: what the holder file or the record says of the owner; None where it says nothing.
        who: the same, for people.
        plan: what is to be done if the owner is dead, or nobody.
        hindrances: why it cannot be done now.
        reports: what no sweeper may touch, each with the command that clears it.
        opened: the open submissions.
        elsewhere: the open submissions of the dataset that a session is held for.
    """

    target: Target
    number: int = 0
    lock: LockState | None = None
    owner: dict[str, Any] | None = None
    who: str = ""
    plan: list[str] = field(default_factory=list)
    hindrances: list[str] = field(default_factory=list)
    reports: list[str] = field(default_factory=list)
    opened: list[tuple[Work, Submission]] = field(default_factory=list)
    elsewhere: list[tuple[Work, Submission]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data; `seen` is what a repair compares before it swaps."""
        names = {key: getattr(self.target, key) for key in ("project", "animal", "session", "dataset", "lockable")}
        seen = {"manager_id": self.lock.manager_id, "holder": self.owner} if self.lock is not None else None
        release = self.target.lock.release_command if self.target.lockable else ""
        told = {key: getattr(self, key) for key in ("number", "owner", "who", "plan", "hindrances", "reports")}
        return {**names, "name": self.target.name, "seen": seen, "release": release, **told}


def look(site: Site, projects: Collection[str]) -> dict[str, Any]:
    """Return every session, dataset and manifest that may have been left behind, of some projects or of all.

    Each scheduler is asked once, and what is wrong with one session does not hide the others. Nothing is changed, but
    that a job which Slurm has ended before it began can no longer begin.

    Raises:
        NotFoundError: there is no such project.
    """
    targets = [target for project in projects or _projects(site) for target in _targets(site, project)]
    found = _judged([candidate for target in targets for candidate in _candidates(target)])
    return {
        "sessions": sum(bool(target.session) for target in targets),
        "candidates": [candidate.to_json() for candidate in found],
    }


def repair(target: Target, number: int, seen: LockState | None, holder: Holder) -> dict[str, Any]:
    """Give what a dead manager left behind its true state, under a lease that is taken from exactly the seen owner.

    Returns:
        what was `done`, or why everything was `left` as it is.

    Raises:
        SessionLockedError: somebody else was faster; nothing was changed.
    """
    found = [candidate for candidate in _candidates(target) if candidate.number == number]
    candidate = next(iter(_judged(found)), None)
    if candidate is None:
        return {"done": [], "left": ["it has been repaired meanwhile"]}
    if candidate.hindrances:
        if not candidate.reports:  # else a tracker would be written that is not ours to write
            for work, submission in candidate.opened:
                work.refresh(submission.number)  # deadlines run from when something was first seen
        return {"done": [], "left": candidate.hindrances}
    done = [step for step in candidate.plan if not step.startswith((_CLOSE, _RELEASE))]
    if not target.lockable:
        return {"done": [*done, *_close(candidate)], "left": []}
    wish = {submission.pipeline.name: submission.settings for _, submission in candidate.opened}
    granted = leases.acquire(target, holder, wish, seen)  # also corrects trackers
    try:
        for now in _candidates(target):  # read again, for it is only now that nobody else changes it
            done += _close(now)
    except BaseException as error:
        with contextlib.suppress(SessionflowError, OSError):
            target.lock.update(granted.incarnation, abandoned=f"the sweeper could not finish: {error}")
        raise
    target.lock.release(granted.manager_id, granted.incarnation)
    return {"done": [*done, *([_RELEASE] if _RELEASE in candidate.plan else [])], "left": []}


def _candidates(target: Target) -> list[Candidate]:
    """Return what may have been left behind of one target, as its state files have it."""
    try:
        files = {path.name for path in target.state_directory.iterdir()}
        return [_locked(target, files)] if target.lockable else list(_manifests(target, files))
    except FileNotFoundError:
        return []
    except (SessionflowError, OSError) as error:
        return [Candidate(target, reports=[_words(error)])]


def _judged(found: Iterable[Candidate]) -> list[Candidate]:
    """Ask each scheduler once about all jobs, add what is to be done about them, and leave out what is in order."""
    found, schedulers = list(found), dict[str, tuple[Scheduler, list[Submission]]]()
    for candidate in found:
        for work, submission in (*candidate.opened, *candidate.elsewhere):
            schedulers.setdefault(submission.scheduler, (work.scheduler(submission), []))[1].append(submission)
    for scheduler, submissions in schedulers.values():
        scheduler.ask(submissions)
    for candidate in found:
        later, candidate.plan = candidate.plan, []
        try:
            for work, submission in candidate.opened:
                _consider(candidate, work, submission)
            for work, submission in candidate.elsewhere:
                if running := work.running(work.judged(submission)):
                    words = f"of {submission.name} on {work.target.name} still run or wait: {', '.join(running)}"
                    candidate.hindrances.append(words)
        except (SessionflowError, OSError) as error:
            candidate.hindrances.append(_words(error))
        candidate.plan += later
    return [c for c in found if c.plan or c.hindrances or c.reports]


def _locked(target: Target, files: set[str]) -> Candidate:
    candidate = Candidate(target)
    try:
        candidate.lock = target.lock.read()
        candidate.who = candidate.lock.describe()
        candidate.owner = asdict(candidate.lock.holder) if candidate.lock.holder else None
        if (dataset := target.held_for(candidate.lock.holder)) is not None:
            candidate.elsewhere = leases.open_work(dataset)
    except (SessionflowError, OSError) as error:
        candidate.reports.append(_words(error))
    current = _current_submissions(candidate) if "submissions" in files else {}
    for submission in current.values():
        if submission.open:
            candidate.opened.append((Work(target, submission.pipeline), submission))
    for pipeline in target.pipelines:
        if target.tracker(pipeline).file_path.name in files:
            _consider_tracker(candidate, pipeline, current.get(pipeline))
    if candidate.lock is not None and not candidate.lock.free:
        candidate.plan.append(_RELEASE)
    if candidate.opened and candidate.lock is not None and target.lock.read() != candidate.lock:
        return Candidate(target)  # somebody takes or releases it just now, and what was read does not go together
    return candidate


def _current_submissions(candidate: Candidate) -> dict[ProcessingPipelines, Submission]:
    found = {}
    for pipeline, folder in candidate.target.all_submissions().items():
        try:
            if (submission := folder.current()) is not None:
                found[pipeline] = submission
        except (SessionflowError, OSError) as error:
            candidate.reports.append(_words(error))
            candidate.hindrances.append(f"a record of {pipeline} cannot be read")
    return found


def _manifests(target: Target, files: set[str]) -> Iterator[Candidate]:
    """Yield a project's open submissions, which have an owner each: a project is not locked."""
    if target.project_paths.manifest_tracker.name in files:
        try:
            target.tracker(ProcessingPipelines.MANIFEST).read()
        except (SessionflowError, OSError) as error:
            yield Candidate(target, reports=[_words(error)])
    for pipeline, folder in target.all_submissions().items():
        for number in folder.numbers():
            try:
                submission = folder.read(number)
            except (SessionflowError, OSError) as error:
                yield Candidate(target, reports=[_words(error)])
                continue
            if submission.open:
                process = asdict(submission.process) if submission.process else None
                owner = {"process": process, "prefect_api": submission.prefect_api}
                candidate = Candidate(target, number, owner={**owner, "flow_run_id": submission.flow_run_id})
                asked = f", asked for by {submission.requested_by} (unverified)" if submission.requested_by else ""
                candidate.who = f"{submission.name} of manager {submission.manager_id}{asked}, open since "
                candidate.who += submission.opened[:19]
                candidate.opened.append((Work(target, pipeline), submission))
                yield candidate


def _consider(candidate: Candidate, work: Work, submission: Submission) -> None:
    """Add what is to be done about an open submission, and what hinders it."""
    judged = work.judged(replace(submission, orphaned=True))
    attempts = [(job.name, judged.last(job.name)) for job in judged.live_jobs()]
    sightings = work.scheduler(judged).look(work.folder, judged, attempts)
    standing = {job: _standing(work, judged, job, sightings[job]) for job, _ in attempts}
    doubtful = [f"{job} ({judged.last(job).reason or _NOWHERE})" for job, how in standing.items() if how == "doubtful"]
    running = [f"{job} {judged.last(job).state}" for job, how in standing.items() if how == "running"]
    tail = [job for job, how in standing.items() if how == "tail"]
    name = submission.name
    if doubtful:
        candidate.hindrances.append(f"of {name} could not be asked about: {', '.join(doubtful)}")
    if running and not submission.cancelling:
        candidate.hindrances.append(f"of {name} still run or wait: {', '.join(running)}")
    if (tail or running) and submission.account != this_account() and os.geteuid() != 0:
        candidate.hindrances.append(f"the jobs of {name} are the account {submission.account}'s, which can end them")
    if running:
        candidate.plan.append(f"end {', '.join(running)}: its cancel was interrupted")
    if tail:
        candidate.plan.append(f"cancel {', '.join(tail)}, which nothing will ever start")
    candidate.plan.append(f"{_CLOSE} {name} as {closed(judged).status}")


def _standing(work: Work, judged: Submission, job: str, sighting: Sighting) -> str:
    """Tell how a job stands that has not ended: doubtful, running, or tail, which nothing will ever start."""
    never = job in work.blocked(judged)
    if sighting.kind == "unknown" or (sighting.kind == "absent" and not never):
        return "doubtful"
    return "tail" if never or judged.last(job).state is JobState.PLANNED else "running"


def _consider_tracker(candidate: Candidate, pipeline: ProcessingPipelines, submission: Submission | None) -> None:
    """Add a tracker that a manager left behind, or that no sweeper may touch."""
    tracker = candidate.target.tracker(pipeline)
    problem = ""
    try:
        state = tracker.read()
    except (SessionflowError, OSError) as error:
        problem = _words(error)
    else:
        if not state.running:
            return
        if submission is not None and state.manager_id == submission.manager_id:
            if not submission.open:
                candidate.plan.append(f"correct the tracker of {pipeline}: {submission.name} has {submission.status}")
            return
        if candidate.lock is not None and state.manager_id == candidate.lock.manager_id != NOBODY:
            return  # its manager holds the lock; without it, it will be reported
        problem = (
            f"{tracker.file_path} is running under manager {state.manager_id}, which holds no lock and no record here. "
            f"If that manager is gone for good: {reset_command(tracker.file_path)}"
        )
    candidate.reports.append(problem)
    if submission is not None and submission.open:
        candidate.hindrances.append(f"the tracker of {pipeline} is not its record's")


def _close(candidate: Candidate) -> list[str]:
    """Close a candidate's open submissions; return what was done."""
    done = []
    for work, submission in candidate.opened:
        if submission.cancelling and not work.cancel(submission.number):
            raise SubmissionError(f"Processes of {submission.name} are left. Look for them on the server.")
        ended = work.finish(submission.number, keep_logs=True, facts={}, orphaned=True)
        done.append(f"{_CLOSE} {submission.name} as {ended.status}")
    return done


def _projects(site: Site) -> list[str]:
    """Return every folder of the storage volume that can be a project."""
    site.volumes.check()
    found = []
    for path in sorted(site.volumes.storage.iterdir()):
        with contextlib.suppress(BadInputError, OSError):
            validate_name(path.name, "project")
            if path.is_dir() and path.name not in SHARED_ASSET_FOLDERS and path != site.datasets:
                found.append(path.name)
    return found


def _targets(site: Site, project: str) -> list[Target]:
    """Return a project, its datasets of this account, and its sessions: datasets first, for they hold sessions."""
    target = Target.from_json(site, {"project": project})
    sessions = (Target(site, project, animal, session) for animal, session in sessions_of(target))
    return [target, *datasets_of(target), *sessions]


def _words(error: Exception) -> str:
    if isinstance(error, SessionflowError):
        return str(error)
    return f"{getattr(error, 'filename', None) or 'The file system'}: {getattr(error, 'strerror', None) or error}"
