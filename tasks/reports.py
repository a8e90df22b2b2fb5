"""What a run says of itself when it has ended."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from trackers.names import ProcessingPipelines, ProcessingStatus


@dataclass(frozen=True)
class JobReport:
    """How a job ended.

    Attributes:
        state: Slurm's name for it.
        attempts: how often it was handed to the scheduler.
        reason: why it did not succeed; empty where it did.
        log: the file on the server that has its last words; gone after a success unless logs are kept.
    """

    name: str
    stage: str
    state: str
    attempts: int
    reason: str
    log: str


@dataclass(frozen=True)
class PipelineReport:
    """What became of a pipeline.

    Attributes:
        target: PROJECT or PROJECT/ANIMAL/SESSION.
        status: None where it neither ran nor had run before.
        ran: whether this run handed jobs to the scheduler or adopted some.
        reason: why it was skipped, or why it failed.
        seconds: from the first hand-over to the end.
        notes: what its jobs have to say of a success.
        flow_run_id: of the run that reports.
    """

    pipeline: ProcessingPipelines
    target: str
    status: ProcessingStatus | None
    ran: bool
    reason: str = ""
    seconds: float = 0.0
    jobs: tuple[JobReport, ...] = ()
    notes: tuple[str, ...] = ()
    flow_run_id: str = ""

    def with_manifests(self, manifests: tuple[PipelineReport, ...]) -> PipelineReport:
        """Return the report with a note on each manifest that could not be regenerated."""
        failed = tuple(report.sentence for report in manifests if not report.succeeded)
        return replace(self, notes=(*self.notes, *failed))

    @property
    def succeeded(self) -> bool:
        """Whether nothing is wrong: it ended well, or was skipped for a good reason."""
        return self.status in (None, ProcessingStatus.SUCCEEDED)

    @property
    def sentence(self) -> str:
        """The report in one line."""
        what = "skipped" if self.status is None else self.status.name.lower()
        return f"{self.pipeline} of {self.target}: {what}{': ' + self.reason if self.reason else ''}"


@dataclass(frozen=True)
class SessionReport:
    """What became of a session's pipelines, in the order in which they were considered.

    Attributes:
        reason: why none was considered; empty where they were.
    """

    target: str
    pipelines: tuple[PipelineReport, ...]
    reason: str = ""

    @property
    def succeeded(self) -> bool:
        """Whether none failed."""
        return all(report.succeeded for report in self.pipelines)

    @property
    def sentence(self) -> str:
        """The report in one line: the first failure, or what was done."""
        failed = [report for report in self.pipelines if not report.succeeded]
        if failed:
            return failed[0].sentence
        ran = ", ".join(report.pipeline.name.lower() for report in self.pipelines if report.ran)
        return f"{self.target}: {ran or self.reason or 'nothing to do'}"

    def with_manifests(self, manifests: tuple[PipelineReport, ...]) -> SessionReport:
        """Return the report with those of the manifests that were regenerated at its end."""
        return replace(self, pipelines=(*self.pipelines, *manifests))

    def of(self, pipeline: ProcessingPipelines) -> PipelineReport | None:
        """Return one pipeline's report, None where it was not considered."""
        return next((report for report in self.pipelines if report.pipeline is pipeline), None)


Standing = Literal[
    "to run",
    "succeeded",
    "failed",
    "ended",
    "in progress",
    "launched",
    "waiting",
    "problem",
    "not ready",
    "excluded",
    "done",
]
"""How a session stands in a project's run; docs/projects.md has a table of what each means."""


@dataclass(frozen=True)
class SessionOutcome:
    """What a project's run did with a session, or will do.

    Attributes:
        standing: how it stands.
        words: why, or what was done, in a sentence or two.
        pipelines: names of those that ran or are to run, in order.
        flow_run_id: of the session's own run; empty where it had none.
    """

    animal: str
    session: str
    standing: Standing
    words: str = ""
    pipelines: tuple[str, ...] = ()
    flow_run_id: str = ""


@dataclass(frozen=True)
class ProjectReport:
    """What became of a project's sessions, the newest first.

    Attributes:
        notes: on manifests that could not be regenerated.
        dry_run: whether nothing was done but to look.
    """

    project: str
    sessions: tuple[SessionOutcome, ...]
    notes: tuple[str, ...] = ()
    dry_run: bool = False

    @property
    def succeeded(self) -> bool:
        """Whether nothing failed in this run; what failed before and waits is told, and does not fail it again."""
        return not self.notes and not self.standing("failed")

    def standing(self, standing: Standing) -> list[SessionOutcome]:
        """Return the sessions that stand so."""
        return [outcome for outcome in self.sessions if outcome.standing == standing]

    @property
    def sentence(self) -> str:
        """The report in one line: the first failure, then how many sessions stand how."""
        first = next((f"{outcome.words}\n" for outcome in self.standing("failed")), "")
        return f"{first}{'plan for ' if self.dry_run else ''}{self.project}: {self.counts}"

    @property
    def counts(self) -> str:
        """How many sessions stand how."""
        counts = [f"{len(found)} {kind}" for kind in get_args(Standing) if (found := self.standing(kind))]
        return ", ".join(counts) or "no sessions"

    def with_manifests(self, manifests: tuple[PipelineReport, ...]) -> ProjectReport:
        """Return the report with a note on each manifest that could not be regenerated."""
        return replace(self, notes=tuple(report.sentence for report in manifests if not report.succeeded))


@dataclass(frozen=True)
class Finding:
    """Something that a manager left behind.

    Attributes:
        target: PROJECT or PROJECT/ANIMAL/SESSION.
        found: what it is, and the facts by which that was decided.
        outcome: "found": it can be repaired; "repaired"; "left": to a rerun or the next sweep; "person": no sweep may
            touch it; "failed": its repair was begun and could not be finished.
        words: what is to be done, was done, or why nothing was.
    """

    target: str
    found: str
    outcome: Literal["found", "repaired", "left", "person", "failed"]
    words: str = ""

    @property
    def sentence(self) -> str:
        """The finding in one line."""
        return f"{self.target}: {self.found} {_OUTCOMES[self.outcome]}{self.words}".rstrip()


_OUTCOMES = {
    "found": "To do: ",
    "repaired": "Done: ",
    "left": "Left as it is: ",
    "person": "",
    "failed": "It could not be repaired: ",
}


@dataclass(frozen=True)
class SweepReport:
    """What a sweep found and did.

    Attributes:
        sessions: how many were looked at.
        notes: on manifests that could not be regenerated.
    """

    sessions: int
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    @property
    def succeeded(self) -> bool:
        """Whether everything that was begun was finished."""
        return not self.notes and all(finding.outcome != "failed" for finding in self.findings)

    @property
    def sentence(self) -> str:
        """The report in one line: how many of each outcome."""
        kinds = ("failed", "repaired", "found", "left", "person")
        counts = {kind: sum(finding.outcome == kind for finding in self.findings) for kind in kinds}
        said = [f"{count} {_COUNTED[kind]}" for kind, count in counts.items() if count]
        return f"{self.sessions} sessions looked at: {', '.join(said) or 'nothing was left behind'}"

    @property
    def page(self) -> str:
        """The whole report, a line for each finding."""
        return "\n".join([*(finding.sentence for finding in self.findings), *self.notes, f"{self.sentence}."])

    def with_manifests(self, manifests: tuple[PipelineReport, ...]) -> SweepReport:
        """Return the report with a note on each manifest that could not be regenerated."""
        return replace(self, notes=tuple(report.sentence for report in manifests if not report.succeeded))


_COUNTED = {
    "failed": "could not be repaired",
    "repaired": "repaired",
    "found": "to repair",
    "left": "left to a rerun or the next sweep",
    "person": "for a person to decide",
}
