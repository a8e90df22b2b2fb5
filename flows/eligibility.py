"""What may run on a session, and what need not: pure rules over the facts that the server side described."""

from __future__ import annotations

from typing import Any

from trackers.known_settings import changes_of
from trackers.names import ProcessingPipelines, SessionTypes

Facts = dict[str, Any]

_ALL = frozenset(SessionTypes)
TYPES = {
    ProcessingPipelines.CHECKSUM: _ALL,
    ProcessingPipelines.PREPARATION: _ALL - {SessionTypes.WINDOW_CHECKING},
    ProcessingPipelines.BEHAVIOR: _ALL - {SessionTypes.WINDOW_CHECKING},
    ProcessingPipelines.SUITE2P: frozenset({SessionTypes.MESOSCOPE_EXPERIMENT}),
    ProcessingPipelines.VIDEO: _ALL - {SessionTypes.WINDOW_CHECKING},
    ProcessingPipelines.MULTIDAY: frozenset({SessionTypes.MESOSCOPE_EXPERIMENT}),
    ProcessingPipelines.FORGING: _ALL - {SessionTypes.WINDOW_CHECKING},
    ProcessingPipelines.REPORT: _ALL - {SessionTypes.WINDOW_CHECKING},
    ProcessingPipelines.ARCHIVING: _ALL,
}
_PROCESSING = (ProcessingPipelines.BEHAVIOR, ProcessingPipelines.SUITE2P, ProcessingPipelines.VIDEO)
_BUILDS_ON = {ProcessingPipelines.MULTIDAY: (ProcessingPipelines.SUITE2P,), ProcessingPipelines.FORGING: _PROCESSING}
NEEDS_PREPARATION = (
    ProcessingPipelines.BEHAVIOR,
    ProcessingPipelines.SUITE2P,
    ProcessingPipelines.VIDEO,
    ProcessingPipelines.REPORT,
    ProcessingPipelines.ARCHIVING,
    *_BUILDS_ON,
)


def obstacle(pipeline: ProcessingPipelines, facts: Facts) -> str:
    """Say why a pipeline cannot run on a session as it is; empty where it can."""
    if reason := excluded(facts) or ("" if facts["complete"] else str(facts["completeness"])):
        return reason
    if reason := _out_of_place(pipeline, facts):
        return reason
    if pipeline is ProcessingPipelines.CHECKSUM:
        return ""
    if status(ProcessingPipelines.CHECKSUM, facts) != "succeeded":
        return "its integrity has not been verified: run checksum first"
    # an archiving that was interrupted at its end has no source data any more, and has only to be finished; forging
    # takes results from the archive as well
    moved = pipeline in (ProcessingPipelines.ARCHIVING, ProcessingPipelines.FORGING) and facts["archived"]
    if pipeline in NEEDS_PREPARATION and not prepared(facts) and not moved:
        return "it is not prepared: run preparation first"
    return _wrong_with_inputs(pipeline, facts)


def _out_of_place(pipeline: ProcessingPipelines, facts: Facts) -> str:
    """Say why no other pipeline's work would let this one run here: the session's type, or nothing to run it with."""
    if facts["session_type"] not in TYPES[pipeline]:
        return f"a {facts['session_type']} session has no {pipeline}"
    return str(facts.get("suite2p_problem", "")) if pipeline is ProcessingPipelines.SUITE2P else ""


def _wrong_with_inputs(pipeline: ProcessingPipelines, facts: Facts) -> str:
    """Say what a pipeline lacks of the recording or of other pipelines' results."""
    if pipeline is ProcessingPipelines.SUITE2P:
        return str(facts.get("recording_problem") or "").rstrip(".")
    if pipeline is ProcessingPipelines.REPORT:
        shown = any(usable(p, facts) for p in _PROCESSING)
        return str(facts.get("report_problem", "")) if shown else "none of behavior, suite2p and video has succeeded"
    if pipeline is ProcessingPipelines.VIDEO:
        return str(facts.get("video_problem") or "").rstrip(".")
    needed = (p for p in _BUILDS_ON.get(pipeline, ()) if facts["session_type"] in TYPES[p])
    filmed = facts.get("cameras", True)
    missing = [p for p in needed if not usable(p, facts) and (filmed or p is not ProcessingPipelines.VIDEO)]
    if not missing:
        return ""
    problems = {p.name.lower(): _out_of_place(p, facts) or _wrong_with_inputs(p, facts) for p in missing}
    hindered = [f"{name} cannot run yet: {words}" for name, words in problems.items() if words]
    return "; ".join([f"run {', '.join(problems)} first", *hindered])


def done(pipeline: ProcessingPipelines, facts: Facts) -> str:
    """Say since when a pipeline need not run any more; empty where it must."""
    if status(pipeline, facts) != "succeeded":
        kept = str(facts["pipelines"][pipeline.name].get("kept") or "")
        return f"{_done_on(kept)}; a run with settings of its own has failed since" if kept else ""
    if pipeline is ProcessingPipelines.PREPARATION and not prepared(facts):
        return ""
    ended = str(facts["pipelines"][pipeline.name]["ended"])
    if pipeline is ProcessingPipelines.REPORT and _shown(facts) > ended:
        return ""
    said = _done_on(ended)
    return f"{said}; stale, {words}" if (words := stale(pipeline, facts)) else said


def quality_objection(facts: Facts) -> str:
    """Say why a session does not pass quality control, of its results as they are; empty where it does."""
    made = _ended(ProcessingPipelines.REPORT, facts)
    if made and _judged(facts) > made:
        return "its quality control is older than its results: run its report again"
    return str(facts["quality_objection"])


def _shown(facts: Facts) -> str:
    """Return when the newest of what a page shows was made, UTC, ISO 8601."""
    return max(_judged(facts), str(facts.get("tracked", "")))


def _judged(facts: Facts) -> str:
    """Return when the newest of what quality control judges was made: results, and which cells people chose."""
    return max(*(_ended(p, facts) for p in _PROCESSING), str(facts.get("cells_chosen", "")))


def _done_on(ended: str) -> str:
    return f"done already{', on ' + ended[:16].replace('T', ' ') + ' UTC' if ended else ''}"


def stale(pipeline: ProcessingPipelines, facts: Facts) -> str:
    """Say why a pipeline's result would come out otherwise today; empty where it would not. Nothing is rerun for it."""
    return str(facts["pipelines"][pipeline.name].get("stale") or "")


def _ended(pipeline: ProcessingPipelines, facts: Facts) -> str:
    """Return when a pipeline last succeeded, UTC, ISO 8601; empty where it did not, or nobody recorded when."""
    return str(facts["pipelines"][pipeline.name]["ended"]) if status(pipeline, facts) == "succeeded" else ""


def excluded(facts: Facts) -> str:
    """Say who has taken the session out of processing, when and why; empty where nobody has."""
    words = facts.get("excluded")
    return f"the session is excluded {words}" if words else ""


def refusal(facts: Facts) -> str:
    """Say what a run that was started by hand is told of an excluded session; empty where it is none."""
    words = excluded(facts)
    return f"{words}. Nothing was done. To process it again: {facts['include']}" if words else ""


def prepared(facts: Facts) -> bool:
    """Whether the jobs' source data is there and verified."""
    return bool(facts["prepared"]) and status(ProcessingPipelines.PREPARATION, facts) == "succeeded"


def status(pipeline: ProcessingPipelines, facts: Facts) -> str:
    """Return what a pipeline's tracker says: running, succeeded, failed, corrupt, or nothing."""
    return str(facts["pipelines"][pipeline.name]["status"])


def usable(pipeline: ProcessingPipelines, facts: Facts) -> bool:
    """Whether a whole result is in place: of the last run, or one that the last run was to replace and did not."""
    return bool(facts["pipelines"][pipeline.name].get("usable", status(pipeline, facts) == "succeeded"))


def settings_problem(pipeline: ProcessingPipelines, facts: Facts) -> str:
    """Say what is wrong with the files that hold a pipeline's settings; empty where nothing is, or it has none here."""
    if facts["session_type"] not in TYPES[pipeline]:
        return ""
    return str(facts["pipelines"][pipeline.name].get("settings_problem") or "")


def settings_of(
    pipeline: ProcessingPipelines, facts: Facts, own: dict[str, Any], overrides: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return what tells a pipeline's run from another one: its options, and its settings as files and the run say.

    Args:
        pipeline: which one.
        facts: of the session.
        own: the pipeline's options.
        overrides: settings for this run alone, by dotted name; kept as `this_run` besides.
    """
    found = facts["pipelines"][pipeline.name].get("settings")
    if found is None:
        return own
    merged = {**own, "settings": changes_of(pipeline, {**found, **(overrides or {})})}
    return {**merged, "this_run": overrides} if overrides else merged
