"""The submission record: what was handed to the scheduler, which attempts, how they ended."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

import xxhash

from trackers.errors import TrackerCorruptError
from trackers.files import atomic_write, locked, make_directory, read_file
from trackers.graph import Graph, Job, Resources
from trackers.names import ProcessingPipelines
from trackers.processes import ProcessIdentity
from trackers.retries import next_resources
from trackers.states import NEVER_SATISFIED, JobState

Status = Literal["open", "succeeded", "failed", "aborted"]
RECORD = "submission.json"
REVOKED = "revoked"  # in place of an owner in a claim: this attempt must not begin any more
VERSION = 1
_TAIL_BYTES = 4096
_COLOR = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")  # with NUL Postgres refuses the run's state


def now() -> str:
    """Return the time, UTC, ISO 8601 to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def digest_of(target: str, pipeline: ProcessingPipelines, settings: dict[str, Any]) -> str:
    """Return the digest that tells whether two runs are the same work: xxh3-128 over target, pipeline and settings.

    Resources, versions and who asked are not part of it: raising the memory continues, changing a setting does not.
    """
    content = json.dumps([target, pipeline.name, settings], sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return xxhash.xxh3_128_hexdigest(content.encode())


@dataclass(frozen=True)
class Usage:
    """What a job took, as far as it is known: from its own records, and from Slurm's accounting where there is one.

    Attributes:
        node: where it ran.
        queued_seconds, ran_seconds: how long it waited and ran.
        cpu_seconds: processor time.
        memory_gb: most memory at a time, GB.
    """

    node: str = ""
    queued_seconds: float | None = None
    ran_seconds: float | None = None
    cpu_seconds: float | None = None
    memory_gb: float | None = None


@dataclass(frozen=True)
class Attempt:
    """One time that a job was handed to the scheduler.

    Attributes:
        number: counted from 1 and never reused.
        scheduler_id: the scheduler's name for it, empty until it is known.
        after: the scheduler's names of the attempts that it was told to wait for.
        resources: what this attempt asks for; a retry may ask for more.
        reason: why it is in this state, for people.
        seen: the combination of facts (exit record, the scheduler's word) that the state was read from.
        first_seen: when the server side first saw that combination (UTC); deadlines run from here.
        never_began: it ended without having begun.
        usage: what it really took; see `Usage`.
    """

    number: int
    resources: Resources
    state: JobState = JobState.PLANNED
    scheduler_id: str = ""
    after: tuple[str, ...] = ()
    reason: str = ""
    exit_code: int | None = None
    planned: str = field(default_factory=now)
    seen: str = ""
    first_seen: str = ""
    ended: str = ""
    never_began: bool = False
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True)
class Submission:
    """A pipeline's graph on one target, with every attempt at each job.

    Attributes:
        id: random; together with job and attempt it is the key that the scheduler carries.
        number: counts the submissions of this pipeline on this target.
        digest: see `digest_of`.
        manager_id: the manager whose id the jobs carry.
        account: who runs the jobs on the server.
        orphaned: it was closed in the place of a manager that had died: nothing of it was tried again.
        requested_by: who asked for it, as they say; not verified.
        code_version, raw_data_checksum: what it was last started with; a failure is worth another try when they change.
        process, prefect_api: of the manager, see `trackers.lock.Holder`; a project has no lock that would say so.
        request_id: of the newest request to submit; one that comes twice has been carried out already.
    """

    id: str
    number: int
    target: str
    pipeline: ProcessingPipelines
    digest: str
    settings: dict[str, Any]
    manager_id: int
    account: str
    scheduler: str
    graph: Graph
    attempts: dict[str, tuple[Attempt, ...]]
    status: Status = "open"
    opened: str = field(default_factory=now)
    ended: str = ""
    reason: str = ""
    cancelling: bool = False
    orphaned: bool = False
    requested_by: str = ""
    flow_run_id: str = ""
    prefect_api: str = ""
    process: ProcessIdentity | None = None
    request_id: str = ""
    code_version: str = ""
    raw_data_checksum: str = ""

    @property
    def open(self) -> bool:
        """Whether work on it may go on."""
        return self.status == "open"

    @property
    def name(self) -> str:
        """How people and files refer to it: `behavior/0001`."""
        return f"{self.pipeline.name.lower()}/{self.number:04d}"

    def key(self, job: str, attempt: int) -> str:
        """Return the key that a job's comment and name carry."""
        return f"sessionflow-{self.id}-{job}-{attempt}"

    def last(self, job: str) -> Attempt:
        """Return a job's newest attempt."""
        return self.attempts[job][-1]

    def succeeded(self, job: str) -> bool:
        """Whether an attempt at the job has succeeded."""
        return any(attempt.state is JobState.COMPLETED for attempt in self.attempts[job])

    def live_jobs(self) -> list[Job]:
        """Return the jobs whose newest attempt has not ended."""
        return [job for job in self.graph.jobs() if not self.last(job.name).state.ended]

    def ready(self, job: Job) -> bool:
        """Whether every job of the stages before has succeeded."""
        stage = self.graph.stage_of(job.name)
        return all(self.succeeded(earlier.name) for s in self.graph.stages[:stage] for earlier in s.jobs)

    def before(self, job: str) -> list[str]:
        """Return the jobs of the stage before a job's."""
        stage = self.graph.stage_of(job)
        return [] if stage == 0 else [earlier.name for earlier in self.graph.stages[stage - 1].jobs]

    def next_resources(self, job: str) -> Resources | None:
        """Return what a job's next attempt is to ask for; None where it has not ended, or is not tried again."""
        last = self.last(job)
        if not self.open or self.cancelling or self.orphaned or not last.state.ended or self.succeeded(job):
            return None
        if last.never_began and last.reason == NEVER_SATISFIED:  # a site that clears dependents away after a failure
            return None if self.waits_for_a_failure(job) else last.resources
        return next_resources(last.state, self.lost(job), last.resources)

    def lost(self, job: str) -> int:
        """Count the attempts at a job that ended since their nodes failed or were taken from them."""
        return sum(attempt.state in (JobState.NODE_FAIL, JobState.PREEMPTED) for attempt in self.attempts[job])

    def waits_for_a_failure(self, job: str) -> bool:
        """Whether a job of an earlier stage has ended without success and is not tried again: this one never starts."""
        earlier = [j.name for stage in self.graph.stages[: self.graph.stage_of(job)] for j in stage.jobs]
        return any(
            self.last(name).state.ended and not self.succeeded(name) and self.next_resources(name) is None
            for name in earlier
        )

    def with_attempt(self, job: str, attempt: Attempt) -> Submission:
        """Return a copy in which `attempt` replaces the one of its number, or comes after the last."""
        kept = tuple(a for a in self.attempts[job] if a.number != attempt.number)
        return replace(self, attempts={**self.attempts, job: (*kept, attempt)})

    def with_next_attempt(self, job: str, resources: Resources | None = None) -> Submission:
        """Return a copy in which the job is planned once more."""
        last = self.last(job)
        return self.with_attempt(job, Attempt(last.number + 1, resources or last.resources))

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        data = {**asdict(self), "version": VERSION, "pipeline": self.pipeline.name}
        data["graph"] = self.graph.to_json()
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Read a record from JSON.

        Raises:
            KeyError, TypeError, ValueError: it is none of ours.
        """
        if data.pop("version") != VERSION:
            raise ValueError("it was written by another version of sessionflow")
        return cls(
            **{
                **data,
                "pipeline": ProcessingPipelines[data["pipeline"]],
                "graph": Graph.from_json(data["graph"]),
                "attempts": {job: tuple(map(_attempt, attempts)) for job, attempts in data["attempts"].items()},
                "process": ProcessIdentity(**data["process"]) if data.get("process") else None,
            }
        )


def new_submission(graph: Graph, **facts: Any) -> Submission:
    """Return a submission with a first attempt planned for every job."""
    attempts: dict[str, tuple[Attempt, ...]] = {job.name: (Attempt(1, job.resources),) for job in graph.jobs()}
    return Submission(id=os.urandom(6).hex(), graph=graph, attempts=attempts, **facts)


@dataclass(frozen=True)
class SubmissionFolder:
    """The submissions of one pipeline on one target: `submissions/PIPELINE/NUMBER/`, each with its jobs' folders.

    Whoever reads a record in order to change it holds `lock()` from before the reading until after the writing.
    """

    directory: Path

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the submissions' own lock; it is no lock of sl-shared-assets', and nothing slow runs under it."""
        make_directory(self.directory)
        with locked(self.directory / "submission"):
            yield

    def current(self) -> Submission | None:
        """Return the newest submission, None where there never was one.

        Raises:
            TrackerCorruptError: its record cannot be read.
        """
        numbers = self.numbers()
        return self.read(numbers[-1]) if numbers else None

    def numbers(self) -> list[int]:
        """Return the numbers of all submissions, oldest first."""
        if not self.directory.is_dir():
            return []
        return sorted(
            int(path.name)
            for path in self.directory.iterdir()
            # one that has jobs and has lost its record is there all the same: its jobs may run
            if path.name.isdecimal() and ((path / RECORD).exists() or (path / "jobs").is_dir())
        )

    def read(self, number: int) -> Submission:
        """Return one submission.

        Raises:
            TrackerCorruptError: its record cannot be read.
        """
        path = self.submission_directory(number) / RECORD
        try:
            return Submission.from_json(json.loads(read_file(path)))
        except FileNotFoundError:
            remedy = "It named jobs that may still run: look for them with squeue, by their comment."
            raise TrackerCorruptError(path, "it is not there any more", remedy) from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            remedy = "It names jobs that may still run: look at it before you move it away."
            raise TrackerCorruptError(path, f"it is no submission record ({error})", remedy) from None

    def save(self, submission: Submission) -> None:
        """Replace the submission's record."""
        directory = self.submission_directory(submission.number)
        make_directory(directory)
        atomic_write(directory / RECORD, json.dumps(submission.to_json(), indent=1).encode())

    def prune(self, kept: int) -> None:
        """Remove closed submissions but the newest ones."""
        for number in self.numbers()[:-kept]:
            with contextlib.suppress(TrackerCorruptError):
                if not self.read(number).open:
                    shutil.rmtree(self.submission_directory(number), ignore_errors=True)

    def submission_directory(self, number: int) -> Path:
        """Return the folder of one submission."""
        return self.directory / f"{number:04d}"

    def attempt_files(self, submission: Submission, job: str, attempt: int) -> AttemptFiles:
        """Return the files of one attempt."""
        return AttemptFiles(self.submission_directory(submission.number) / "jobs" / job / str(attempt))


@dataclass(frozen=True)
class AttemptFiles:
    """Every file of one attempt at a job; `restart` is Slurm's count of requeues, 0 for local processes."""

    directory: Path

    @property
    def script(self) -> Path:
        """The job script."""
        return self.directory / "script.sh"

    @property
    def output(self) -> Path:
        """What the command printed."""
        return self.directory / "output.log"

    @property
    def errors(self) -> Path:
        """What the command printed on stderr."""
        return self.directory / "errors.log"

    @property
    def report(self) -> Path:
        """What the program says of its outputs, JSON."""
        return self.directory / "report.json"

    @property
    def script_log(self) -> Path:
        """What the script itself, and Slurm, say of the job."""
        return self.directory / "script.log"

    @property
    def handed_over(self) -> Path:
        """There from before the scheduler was given the attempt: without it, it certainly does not know it."""
        return self.directory / "handed_over"

    @property
    def scheduler_id(self) -> Path:
        """Holds the scheduler's name for the attempt, as soon as it answered."""
        return self.directory / "scheduler_id"

    @property
    def held(self) -> Path:
        """There while the attempt is held until the jobs that wait for it have been pointed to it."""
        return self.directory / "held"

    @property
    def life(self) -> Path:
        """A local job's lock: held as long as a process of it lives."""
        return self.directory / "life"

    @property
    def begun(self) -> Path:
        """There as soon as a supervisor has decided to start a local job; it is then never started again."""
        return self.directory / "begun"

    @property
    def timed_out(self) -> Path:
        """There where a local job was ended for its time limit."""
        return self.directory / "timed_out"

    def progress(self) -> str:
        """Return what the program last printed of its progress, e.g. `12/34 files`; empty where it printed none."""
        for line in reversed(_tail(self.output).splitlines()):
            if line.startswith("progress "):
                return line.removeprefix("progress ")
        return ""

    def last_lines(self, count: int = 20) -> list[str]:
        """Return the last lines that the command printed on stderr; of what it printed at all where that is empty."""
        lines = (_tail(self.errors) or _tail(self.script_log) or _tail(self.output)).splitlines()
        return [line for line in lines if line.strip() and not line.startswith("progress ")][-count:]

    def scheduler_words(self) -> str:
        """Return the end of what the script and Slurm said of the job."""
        return _tail(self.script_log)

    def claim(self, restart: int = 0) -> Path:
        """Return the file whose creation lets one of two copies of the job run."""
        return self.directory / f"claim.{restart}"

    def owner(self) -> tuple[int, str] | None:
        """Return the newest restart that has begun, and the scheduler's id of the copy that runs it."""
        claims = [int(p.suffix[1:]) for p in self.directory.glob("claim.*") if p.suffix[1:].isdecimal()]
        for restart in sorted(claims, reverse=True):
            with contextlib.suppress(OSError):
                if (word := self.claim(restart).read_text(errors="replace").strip()) != REVOKED:
                    return restart, word
        return None

    def revoked(self) -> bool:
        """Whether the attempt must not begin any more."""
        with contextlib.suppress(OSError):
            return self.claim().read_text(errors="replace").strip() == REVOKED
        return False

    def revoke(self, restart: int = 0) -> bool:
        """Make sure that a restart does not begin any more; False where it has begun, or the volume is full."""
        if not self._create(REVOKED + "\n", *{self.claim(0), self.claim(restart)}):
            return False
        owner = self.owner()
        return owner is None or owner[0] < restart

    def write_exit_record(self, restart: int, text: str) -> bool:
        """Write the end of a script that could not, where there is none; False where the volume is full."""
        return self._create(text, self.exit_record(restart))

    def _create(self, text: str, *paths: Path) -> bool:
        """Create the files that are not there, whole or not at all: an empty one would look like a job's."""
        mine = self.directory / f".created.{os.urandom(4).hex()}"
        try:
            mine.write_text(text)
            for path in paths:
                with contextlib.suppress(FileExistsError):
                    path.hardlink_to(mine)
        except OSError:
            return False
        finally:
            mine.unlink(missing_ok=True)
        return True

    def started(self, restart: int = 0) -> tuple[str, str] | None:
        """Return the host on which the command began, and when by that host's clock (UTC, ISO 8601)."""
        try:
            _, host, seconds = (self.directory / f"started.{restart}").read_text().split()
            return host, datetime.fromtimestamp(int(seconds), UTC).isoformat(timespec="seconds")
        except (OSError, ValueError):
            return None

    def exit_record(self, restart: int = 0) -> Path:
        """Return the file that says how the command ended."""
        return self.directory / f"exit.{restart}"


def _tail(path: Path) -> str:
    """Return the end of a log file as text for terminals and databases; a file that is missing is empty."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
            text = log.read().decode(errors="replace")
    except OSError:
        return ""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", _COLOR.sub("", text))


def _attempt(data: dict[str, Any]) -> Attempt:
    typed = {
        "state": JobState(data["state"]),
        "resources": Resources(**data["resources"]),
        "usage": Usage(**data["usage"]),
        "after": tuple(data["after"]),
    }
    return Attempt(**{**data, **typed})
