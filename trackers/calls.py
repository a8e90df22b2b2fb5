"""Everything that the server side answers, by name: plain data in, plain data out."""

from __future__ import annotations

import os
import platform
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

from trackers import arrivals as arriving
from trackers import commands, environments, exclusions, facts, known_settings, leases, publication, quality, sweep
from trackers.errors import BadInputError, TrackerCorruptError
from trackers.graph import Graph
from trackers.layout import SessionPaths
from trackers.lock import Holder, LockState
from trackers.names import ProcessingPipelines
from trackers.processes import ProcessIdentity, this_account
from trackers.protocol import PROTOCOL
from trackers.results import own_version
from trackers.settings import project_files
from trackers.site import Site
from trackers.targets import Target
from trackers.views import view
from trackers.work import Request, Work

Call = Callable[[dict[str, Any]], Any]


def hello(arguments: dict[str, Any]) -> dict[str, Any]:
    """Say who answers, with the versions in the environments of the site, and this computer's time."""
    return {
        "protocol": PROTOCOL,
        "version": own_version(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "host": socket.gethostname(),
        "user": this_account(),
        "pid": os.getpid(),
        "environments": environments.versions(_site(arguments) if "site" in arguments else None),
        "time": time.time(),
    }


def check(arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Say what of environments, volumes and scheduler is as jobs need it, and what to do about the rest."""
    from trackers.check import Wish, check  # long, and asked by people only

    return check(_site(arguments), [Wish(**wish) for wish in arguments.get("wishes") or []])


def describe(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of a session; of a dataset those of its `sessions` as well, each named by animal and session."""
    target = _target(arguments)
    if target.dataset:
        return facts.describe_dataset(target, [_session(target, names) for names in arguments.get("sessions") or ()])
    return facts.describe(target, thorough=bool(arguments.get("thorough")))


def status(arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row for every session of a project."""
    return facts.project_status(
        _site(arguments), str(arguments.get("project") or ""), str(arguments.get("animal") or "")
    )


def project_settings(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return what has been set for a pipeline that works on a whole project, and the file to set more in."""
    project, pipeline = _target(arguments).project_paths, _pipeline(arguments)
    resolved = known_settings.project_settings(project, pipeline)
    return {"path": str(project_files(project)[-1]), "settings": known_settings.chosen(pipeline, resolved)}


def settings(arguments: dict[str, Any]) -> dict[str, dict[str, tuple[Any, str]]]:
    """Return every setting that holds for a session, by pipeline and name: its value, and where it comes from."""
    return known_settings.shown(_target(arguments).paths, dict(arguments.get("overrides") or {}))


def datasets(arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the facts of every dataset of a project that this account has."""
    return [facts.describe_dataset(dataset, []) for dataset in facts.datasets_of(_target(arguments))]


def discard_previous(arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Remove the results that were kept when others took their place, of a session or of all animals of a dataset."""
    target = _existing(arguments)
    inside = facts.datasets_of(target) if target.dataset and not target.animal else ()
    targets = [target, *(t for t in inside if t.dataset == target.dataset and t.animal)]
    return publication.discard_previous(targets, _pipeline(arguments) if arguments.get("pipeline") else None)


def why(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the facts, result records and history of a session or dataset."""
    target = _existing(arguments)
    return {
        "facts": facts.describe_dataset(target, []) if target.dataset else facts.describe(target),
        "results": facts.results(target),
        "history": facts.history(target),
    }


def lock_acquire(arguments: dict[str, Any]) -> dict[str, Any]:
    """Take a lock, from a dead owner where `dead` says whom; a session's also for the dataset `held_for`."""
    target = _target(arguments)
    dead = _lock_state(arguments["dead"]) if arguments.get("dead") else None
    dataset = Target.from_json(target.site, arguments["held_for"]) if arguments.get("held_for") else None
    wish = dict(arguments.get("wish") or {})
    return asdict(leases.acquire(target, _holder(arguments["holder"]), wish, dead, dataset))


def lock_update(arguments: dict[str, Any]) -> dict[str, Any]:
    """Change details of the holder."""
    changes = {key: tuple(v) if isinstance(v, list) else v for key, v in dict(arguments["changes"]).items()}
    return asdict(_target(arguments).lock.update(str(arguments["incarnation"]), **changes))


def lock_release(arguments: dict[str, Any]) -> None:
    """Give a lock back."""
    _target(arguments).lock.release(int(arguments["manager_id"]), str(arguments["incarnation"]))


def lock_show(arguments: dict[str, Any]) -> dict[str, Any]:
    """Say who holds a session or dataset, which jobs are live, and for which dataset a session is held."""
    target = _existing(arguments)
    found = facts.lock_facts(target)
    holding = target.held_for(_holder(found["holder"])) if found["holder"] else None
    if holding is None:
        return {**found, "live_jobs": _live_jobs(target), "held_for": ""}
    live = [*_live_jobs(target), *(f"{job} of {holding.name}" for job in _live_jobs(holding))]
    return {**found, "live_jobs": live, "held_for": holding.name, "cancel": holding.command("cancel")}


def lock_force(arguments: dict[str, Any]) -> dict[str, Any]:
    """Free a lock on a person's word."""
    state = leases.force_release(_existing(arguments), abandon=bool(arguments.get("abandon")))
    return {"taken_from": state.describe() if state else "an unreadable lock file"}


def tracker_show(arguments: dict[str, Any]) -> dict[str, Any]:
    """Say what a tracker holds."""
    target, pipeline = _existing(arguments), _pipeline(arguments)
    return {**facts.pipeline_facts(target, pipeline), "path": str(target.tracker(pipeline).file_path)}


def tracker_reset(arguments: dict[str, Any]) -> None:
    """Reset a tracker on a person's word."""
    _existing(arguments).tracker(_pipeline(arguments)).abort()


def submit(arguments: dict[str, Any]) -> dict[str, Any]:
    """Open or continue a submission."""
    target = _leased(arguments)
    work = Work(target, _pipeline(arguments))
    request = Request(
        graph=Graph.from_json(arguments["graph"]),
        settings=dict(arguments.get("settings") or {}),
        manager_id=int(arguments["manager_id"]),
        reprocess=bool(arguments.get("reprocess")),
        discard_curation=bool(arguments.get("discard_curation")),
        requested_by=str(arguments.get("requested_by") or ""),
        flow_run_id=str(arguments.get("flow_run_id") or ""),
        prefect_api=str(arguments.get("prefect_api") or ""),
        process=_process(arguments.get("process")),
        id=str(arguments.get("request_id") or ""),
    )
    submission = work.submit(request)
    if target.lockable:
        holder = target.lock.check_incarnation(str(arguments["incarnation"]))
        if submission.name not in holder.submissions:
            target.lock.update(holder.incarnation, submissions=(*holder.submissions, submission.name))
    return view(work, submission)


def watch(arguments: dict[str, Any]) -> dict[str, Any]:
    """Bring a submission up to date and show it; while serving, report its changes from then on."""
    work, number = followed_work(arguments)
    if not arguments.get("just_seen"):
        work.ask()
    return view(work, work.settle(number))


def followed_work(arguments: dict[str, Any]) -> tuple[Work, int]:
    """Return the pipeline, and the number of its submission, that a request to `watch` means."""
    return Work(_leased(arguments), _pipeline(arguments)), int(arguments["number"])


def cancel_all(arguments: dict[str, Any]) -> dict[str, list[str]]:
    """End the jobs of a target's open submissions, of one manager or of all, and close those that have no process left.

    Returns:
        the submissions that were `ended`, those of which a process is `left`, and the ids of both's `requests`.
    """
    target = _leased(arguments) if "incarnation" in arguments else _existing(arguments)
    manager_id = arguments.get("manager_id")
    outcome: dict[str, list[str]] = {"ended": [], "left": [], "requests": []}
    for pipeline, folder in target.all_submissions().items():
        submission = folder.current()
        if submission is None or not submission.open or manager_id not in (None, submission.manager_id):
            continue
        work = Work(target, pipeline)
        gone = work.cancel(submission.number)
        if gone:
            work.finish(submission.number, keep_logs=True, facts={})
        outcome["ended" if gone else "left"].append(submission.name)
        outcome["requests"].append(submission.request_id)
    return outcome


def finish(arguments: dict[str, Any]) -> dict[str, Any]:
    """Close a submission none of whose jobs runs; `notes` are what its jobs have to say of a success."""
    work = Work(_leased(arguments), _pipeline(arguments))
    submission = work.finish(
        int(arguments["number"]), keep_logs=bool(arguments.get("keep_logs")), facts=dict(arguments.get("facts") or {})
    )
    records = facts.results(work.target) if submission.status == "succeeded" else []
    notes = [note for record in records if record["submission"] == submission.name for note in record["notes"]]
    return {**view(work, submission), "notes": notes}


def sweep_look(arguments: dict[str, Any]) -> dict[str, Any]:
    """List what dead managers may have left behind, of some projects or of all."""
    return sweep.look(_site(arguments), [str(project) for project in arguments.get("projects") or ()])


def sweep_repair(arguments: dict[str, Any]) -> dict[str, Any]:
    """Repair one session or dataset, or close one manifest, whose owner was found dead."""
    seen = _lock_state(arguments["seen"]) if arguments.get("seen") else None
    return sweep.repair(_target(arguments), int(arguments.get("number") or 0), seen, _holder(arguments["holder"]))


def exclude(arguments: dict[str, Any]) -> dict[str, str]:
    """Take a session out of processing, with a reason."""
    reason, who = str(arguments.get("reason") or ""), str(arguments.get("requested_by") or "")
    paths = _paths(arguments)
    return {"excluded": exclusions.exclude(paths, reason, who), "include": exclusions.include_command(paths)}


def include(arguments: dict[str, Any]) -> dict[str, str]:
    """Put a session back into processing; says what had excluded it."""
    return {"was_excluded": exclusions.include(_paths(arguments))}


def qualities(arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row for every session of a project that has a report or could have one: its checks, or a problem."""
    site, project = _site(arguments), str(arguments.get("project") or "")
    target = Target.from_json(site, {"project": project})
    names = facts.sessions_of(target, str(arguments.get("animal") or ""))
    return [quality.row(SessionPaths(site.volumes, project, *name)) for name in names]


def overrule(arguments: dict[str, Any]) -> dict[str, str]:
    """Set a person's verdict on a check of a session's report; returns the check's words, and how to renew the page."""
    check, verdict, reason, who = (str(arguments.get(k) or "") for k in ("check", "verdict", "reason", "requested_by"))
    paths = _paths(arguments)
    words = quality.overrule(paths, check, verdict, reason, who)
    return {"overruled": words, "page": commands.run(ProcessingPipelines.REPORT, paths, "--reprocess")}


def arrivals(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return which sessions have arrived, in every project that wants them processed then; see `trackers.arrivals`."""
    return arriving.arrivals(_site(arguments), arguments.get("waiting") or (), str(arguments.get("watch") or ""))


def awaited(arguments: dict[str, Any]) -> dict[str, str]:
    """Say what a session lacks that may still come, also where it has no folder yet; see `trackers.arrivals`."""
    return {"lacking": arriving.lacking(_paths(arguments))}


def arrival(arguments: dict[str, Any]) -> dict[str, Any]:
    """Say whether a project's sessions are processed on arrival, after switching that `on` or `off` where asked to."""
    target = _target(arguments)
    match arguments.get("switch"):
        case "on":
            arriving.switch_on(target, str(arguments.get("requested_by") or ""))
        case "off":
            arriving.switch_off(target)
    found = arriving.arrival_of(target)
    return {"on": found is not None, "words": found.describe() if found else ""}


def where(arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """List the folders of a session, or of all of an animal's, with size and state."""
    from trackers.places import SECONDS, places  # asked by people only

    project, animal, session = (str(arguments.get(key) or "") for key in ("project", "animal", "session"))
    return places(_site(arguments), project, animal, session, float(arguments.get("seconds") or SECONDS))


def _site(arguments: dict[str, Any]) -> Site:
    return Site.from_json(arguments.get("site") or {})


def _target(arguments: dict[str, Any]) -> Target:
    return Target.from_json(_site(arguments), arguments)


def _live_jobs(target: Target) -> list[str]:
    try:
        return leases.live_jobs(target)
    except (TrackerCorruptError, OSError) as error:  # who holds it can be said all the same
        return [f"(unknown: {getattr(error, 'path', target.state_directory)} cannot be read)"]


def _existing(arguments: dict[str, Any]) -> Target:
    """Return a target that is there, a dataset too."""
    target = _target(arguments)
    target.check()
    return target


def _session(target: Target, names: dict[str, Any]) -> Target:
    """Return one of the sessions of a dataset's project."""
    return Target.from_json(target.site, {"project": target.project, **names})


def _paths(arguments: dict[str, Any]) -> SessionPaths:
    """Return a session's places, also where what it says of itself is broken."""
    names = (str(arguments.get(key) or "") for key in ("project", "animal", "session"))
    return SessionPaths(_site(arguments).volumes, *names)


def _leased(arguments: dict[str, Any]) -> Target:
    """Return the target, after checking that whoever asks still holds it; a project has no lock."""
    target = _target(arguments)
    if target.lockable:
        target.lock.check_incarnation(str(arguments.get("incarnation") or ""))
    return target


def _pipeline(arguments: dict[str, Any]) -> ProcessingPipelines:
    name = str(arguments.get("pipeline") or "")
    try:
        return ProcessingPipelines[name]
    except KeyError:
        known = ", ".join(ProcessingPipelines.__members__)
        raise BadInputError(f"{name!r} is no pipeline; known are {known}. Nothing was done.") from None


def _lock_state(data: dict[str, Any]) -> LockState:
    return LockState(data["manager_id"], _holder(data["holder"]) if data.get("holder") else None)


def _process(data: dict[str, Any] | None) -> ProcessIdentity | None:
    return ProcessIdentity(**data) if data else None


def _holder(data: dict[str, Any]) -> Holder:
    known = {f.name for f in fields(Holder)}
    values = {key: value for key, value in data.items() if key in known}
    values["process"] = _process(values.get("process"))
    values["submissions"] = tuple(values.get("submissions") or ())
    if not values.get("user"):
        values["user"] = this_account()
    return Holder(**values)


CALLS: dict[str, Call] = {
    call.__name__: call
    for call in (
        *(hello, check, describe, status, settings, project_settings, datasets, why),
        *(lock_acquire, lock_update, lock_release, lock_show, lock_force),
        *(tracker_show, tracker_reset),
        *(submit, watch, cancel_all, finish),
        *(sweep_look, sweep_repair),
        *(exclude, include, where),
        *(qualities, overrule, discard_previous),
        *(arrivals, awaited, arrival),
    )
}
