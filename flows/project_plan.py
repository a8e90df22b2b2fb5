"""What a project's run has to do: pure rules over the facts that the server side described."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from flows.eligibility import Facts, excluded, settings_of, stale, status
from flows.process_session import SETTINGS, chosen_pipelines, skip
from tasks.reports import PipelineReport, SessionOutcome, Standing
from trackers.attempts import REFUSED
from trackers.errors import BadInputError
from trackers.names import ProcessingPipelines, ProcessingStatus, validate_session_name
from trackers.states import LEFT_EXIT_CODES, JobState
from trackers.submission import digest_of

# Ends that another night may well not see again. Out of memory or time, with all that the job may ask for, is not one.
_ANOTHER_TIME = frozenset({JobState.NODE_FAIL, JobState.PREEMPTED, JobState.LOST})


@dataclass(frozen=True)
class Rerun:
    """Which failures a person wants to be tried again; what is empty admits all.

    Attributes:
        pipelines: names of the pipelines that failed.
        cause: text that the reason of a failed job holds, in any case; also Slurm's word, like OUT_OF_MEMORY.
        since: they failed on this day (UTC) or later.
    """

    pipelines: tuple[str, ...] = ()
    cause: str = ""
    since: date | None = None

    def admits(self, pipeline: ProcessingPipelines, facts: dict[str, Any]) -> bool:
        """Whether a failed pipeline is one of them; `facts` are the server side's about it."""
        if self.pipelines and pipeline.name.lower() not in self.pipelines:
            return False
        jobs = (facts.get("failure") or {}).get("jobs") or []
        words = " ".join([facts["reason"], *(f"{job['name']} {job['state']} {job['reason']}" for job in jobs)])
        if self.cause and self.cause.casefold() not in words.casefold():
            return False
        return self.since is None or facts["ended"][:10] >= self.since.isoformat()


@dataclass(frozen=True)
class Choice:
    """What was asked for.

    Attributes:
        animals, sessions: only these; empty: all.
        pipelines: the ones to consider, in order.
        rerun_stale: run again what is stale.
        rerun: the failures to try again; None: only those whose inputs, settings or version have changed.
    """

    pipelines: tuple[ProcessingPipelines, ...]
    animals: frozenset[str] = frozenset()
    sessions: frozenset[str] = frozenset()
    reprocess: bool = False
    rerun: Rerun | None = None
    rerun_stale: bool = False

    @classmethod
    def of(
        cls,
        animals: Collection[str] | None = None,
        sessions: Collection[str] | None = None,
        pipelines: Collection[str] | None = None,
        rerun_failed: bool = False,
        failed_pipelines: Collection[str] | None = None,
        failed_cause: str = "",
        failed_since: date | None = None,
        *,
        reprocess: bool = False,
        rerun_stale: bool = False,
        archive: bool = False,
    ) -> Choice:
        """Return the choice that a form or a command line stands for.

        Raises:
            BadInputError: a pipeline or session can have no such name, or failures were chosen without a rerun; nothing
                was done.
        """
        if not rerun_failed and (failed_pipelines or failed_cause or failed_since):
            raise BadInputError("Failures were chosen, but not to be run again (rerun_failed). Nothing was done.")
        chosen_pipelines(failed_pipelines, archive=False)  # refuses unknown names
        for session in sessions or ():
            validate_session_name(session)
        rerun = Rerun(tuple(failed_pipelines or ()), failed_cause, failed_since) if rerun_failed else None
        chosen = tuple(chosen_pipelines(pipelines, archive=archive))
        return cls(chosen, frozenset(animals or ()), frozenset(sessions or ()), reprocess, rerun, rerun_stale)

    def rows(self, project: str, rows: Iterable[Facts]) -> list[Facts]:
        """Return the sessions that are meant, the newest first.

        Raises:
            BadInputError: there is no animal or session of a name; nothing was done.
        """
        rows = list(rows)
        for what, asked in (("animal", self.animals), ("session", self.sessions)):
            if missing := sorted(asked - {row[what] for row in rows}):
                raise BadInputError(f"{project} has no {what} {', '.join(missing)}. Nothing was done.")
        meant = [
            row
            for row in rows
            if (not self.animals or row["animal"] in self.animals)
            and (not self.sessions or row["session"] in self.sessions)
        ]
        return sorted(meant, key=lambda row: (row["session"], row["animal"]), reverse=True)


def outcome_of(row: Facts, choice: Choice, held_by: str = "", launched: str = "") -> SessionOutcome:
    """Decide what is to be done with a session, and if nothing, why.

    Args:
        row: its facts, with `animal`, `session` and `problem`.
        choice: what was asked for.
        held_by: who works on it now; empty where nobody does, or only somebody who is dead.
        launched: which run of its own is about to start, or has just begun; empty where none is.
    """
    named = functools.partial(SessionOutcome, str(row["animal"]), str(row["session"]))
    if kept := _kept_away(row, choice, held_by):
        return named(*kept)
    held = {p: words for p in choice.pipelines if (words := held_back(p, row, choice))}
    to_run = would_run(row, [p for p in choice.pipelines if p not in held], choice, complete=not held)
    words = " ".join(held.values())
    if to_run and not launched:
        return named("to run", words, tuple(p.name.lower() for p in to_run))
    return named(*(("launched", launched) if to_run else ("waiting", words) if held else _idle(row)))


def _kept_away(row: Facts, choice: Choice, held_by: str) -> tuple[Standing, str] | None:
    """Say what keeps every run away from a session, whatever there is to do; None where nothing does."""
    if words := excluded(row):
        return "excluded", words
    if row["problem"] or row["lock"].get("corrupt"):
        return "problem", str(row["problem"] or row["lock"]["description"])
    if held_by:
        return "in progress", held_by
    corrupt = [row["pipelines"][p.name]["problem"] for p in choice.pipelines if status(p, row) == "corrupt"]
    return ("problem", " ".join(corrupt)) if corrupt else None


def _idle(row: Facts) -> tuple[Standing, str]:
    """Say why there is nothing to do, where nothing waits either."""
    if not row["complete"]:
        return "not ready", str(row["completeness"])
    if status(ProcessingPipelines.CHECKSUM, row) != "succeeded":  # and it was not asked for
        return "not ready", "its integrity has not been verified: run checksum first"
    return "done", ""


def held_back(pipeline: ProcessingPipelines, row: Facts, choice: Choice) -> str:
    """Say why a pipeline that has failed is not tried again by itself; empty where it is, or has not failed.

    An error of the program, or too little memory or time with all that the job may ask for, comes again as long as
    inputs, settings and version are the same.
    """
    facts = row["pipelines"][pipeline.name]
    failure = facts.get("failure")
    if facts["status"] != "failed" or not failure or choice.reprocess:
        return ""
    digest = digest_of(row["target"], pipeline, settings_of(pipeline, row, SETTINGS.get(pipeline, {})))
    if digest != failure["digest"] or failure["now"] != failure["with"]:
        return ""
    causes = [job for job in failure["jobs"] if not _passing(job)]
    if not causes or (choice.rerun is not None and choice.rerun.admits(pipeline, facts)):
        return ""
    said = "; ".join(f"{job['name']} {_first_line(job['reason']) or job['state']}" for job in causes)
    return (
        f"{pipeline.name.lower()} failed on {facts['ended'][:16].replace('T', ' ')} UTC ({said}) and waits: inputs, "
        "settings and version are the same."
    )


def would_run(
    row: Facts, pipelines: list[ProcessingPipelines], choice: Choice, *, complete: bool = True
) -> list[ProcessingPipelines]:
    """Return the pipelines that a session's run would run, if each of them succeeds.

    Args:
        row: its facts.
        pipelines: those to consider, in order.
        choice: what was asked for.
        complete: whether these are all; else nothing is archived.
    """
    facts, reports, found = row, list[PipelineReport](), list[ProcessingPipelines]()
    if not complete:
        pipelines = [p for p in pipelines if p is not ProcessingPipelines.ARCHIVING]
    for which in pipelines:
        again = choice.reprocess or (choice.rerun_stale and bool(stale(which, facts)))
        report = skip(which, facts, pipelines, reports, again)
        if report is None:
            found.append(which)
            report = PipelineReport(which, row["target"], ProcessingStatus.SUCCEEDED, ran=True)
            facts = _after(which, facts)
        reports.append(report)
    return found


def _after(which: ProcessingPipelines, facts: Facts) -> Facts:
    """Return a session's facts as they are after a pipeline has succeeded, just now."""
    made = {"status": "succeeded", "usable": True, "ended": datetime.now(UTC).isoformat(), "stale": "", "kept": ""}
    pipelines = {**facts["pipelines"], which.name: {**facts["pipelines"][which.name], **made}}
    moved = {"prepared": True, "archived": False} if which is ProcessingPipelines.PREPARATION else {}
    return {**facts, "pipelines": pipelines, **moved}


def _passing(job: dict[str, Any]) -> bool:
    """Whether a job's end has nothing to do with what it was to do."""
    left = job["exit_code"] in LEFT_EXIT_CODES or job["reason"].startswith(REFUSED)
    return JobState(job["state"]) in _ANOTHER_TIME or left


def _first_line(text: str) -> str:
    return text.strip().split("\n", maxsplit=1)[0].rstrip(".")
