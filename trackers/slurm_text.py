"""What Slurm's programs print, read into plain data; and the one table from Slurm's states to ours."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from trackers.states import NEVER_SATISFIED, JobState

KEY_PREFIX = "sessionflow-"
SQUEUE_FORMAT = "JobID:|,State:|,Reason:|,RestartCnt:|,exit_code:|,SubmitTime:|,StartTime:|,NodeList:|,Comment:|"
SACCT_FIELDS = "JobIDRaw,JobName,State,ExitCode,NodeList,Submit,Start,ElapsedRaw,CPUTimeRAW,TotalCPU,MaxRSS"
_SQUEUE_FIELDS = 9

# scontrol(1), "JOB STATE CODES" of squeue(1), Slurm 20.11 to 24.11
STATES = {
    "PENDING": JobState.PENDING,
    "CONFIGURING": JobState.PENDING,
    "REQUEUED": JobState.PENDING,
    "REQUEUE_FED": JobState.PENDING,
    "REQUEUE_HOLD": JobState.PENDING,
    "SPECIAL_EXIT": JobState.PENDING,
    "RESV_DEL_HOLD": JobState.PENDING,
    "POWER_UP_NODE": JobState.PENDING,
    "RUNNING": JobState.RUNNING,
    "RESIZING": JobState.RUNNING,
    "SIGNALING": JobState.RUNNING,
    "STAGE_OUT": JobState.COMPLETING,
    "STOPPED": JobState.RUNNING,
    "SUSPENDED": JobState.RUNNING,
    "COMPLETING": JobState.COMPLETING,
    "COMPLETED": JobState.COMPLETED,
    "CANCELLED": JobState.CANCELLED,
    "REVOKED": JobState.CANCELLED,
    "FAILED": JobState.FAILED,
    "LAUNCH_FAILED": JobState.NODE_FAIL,
    "RECONFIG_FAIL": JobState.NODE_FAIL,
    "BOOT_FAIL": JobState.NODE_FAIL,
    "NODE_FAIL": JobState.NODE_FAIL,
    "TIMEOUT": JobState.TIMEOUT,
    "DEADLINE": JobState.TIMEOUT,
    "OUT_OF_MEMORY": JobState.OUT_OF_MEMORY,
    "PREEMPTED": JobState.PREEMPTED,
}

_REASONS = {
    "Priority": "other jobs come first",
    "Resources": "it waits for free resources",
    "Dependency": "it waits for the stage before",
    NEVER_SATISFIED: "a job before it did not succeed",
    "JobHeldUser": "it is held",
    "JobHeldAdmin": "an administrator holds it",
    "BeginTime": "its time to begin has not come (Slurm delays jobs that were requeued)",
    "PartitionConfig": "no node of its partition has what it asks for",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition is inactive",
    "PartitionTimeLimit": "it asks for more time than its partition allows",
    "PartitionNodeLimit": "it asks for more than its partition has",
    "ReqNodeNotAvail": "a node that it needs is not available",
    "Reservation": "it waits for a reservation",
    "Licenses": "it waits for a license",
    "BadConstraints": "no node has what it asks for",
    "MaxMemPerLimit": "it asks for more memory than the site allows",
}
_STILL = {"SUSPENDED": "suspended, by an administrator or for other jobs", "STOPPED": "stopped by a signal"}
_HOPELESS = re.compile(
    r"PartitionConfig|BadConstraints|Partition(Node|Time)Limit|Invalid(Account|QOS)|(QOS|Account)NotAllowed"
    r"|MaxMemPerLimit|(Assoc|QOS)Max\w*PerJob\w*"
)
_SAID_NOTHING = frozenset({"", "None", "NonZeroExitCode", "(null)", "N/A"})


class Refusal(StrEnum):
    """Why sbatch did not print a job's id."""

    LIMIT = "limit"  # too many jobs for now: wait
    DOUBT = "doubt"  # the controller may or may not have taken the job: ask it by the key
    FINAL = "final"  # it will never take this job as it is


# Slurm names a submit limit on a line of its own, before the general "Job violates accounting/QOS policy".
_LIMIT = re.compile(r"Max(Submit|JobCount)|Grp(Submit)|SubmitJob|temporarily unable to accept job", re.IGNORECASE)
_FINAL = re.compile(r"Batch job submission failed|invalid|not permitted|unrecognized|No such file", re.IGNORECASE)
_DOUBT = re.compile(
    r"socket timed out|unable to contact|connection (refused|timed out|reset|failure)|zero bytes|not connected"
    r"|message (receive|send)|communication|resource temporarily unavailable|timed out",
    re.IGNORECASE,
)
_OUT_OF_MEMORY = re.compile(r"oom[- _]kill|exceeded (job|step) memory limit|exceeded memory limit|out of memory", re.I)


@dataclass(frozen=True)
class QueuedJob:
    """A job as squeue or sacct shows it.

    Attributes:
        key: the first word of its comment, or its name: ours where it begins with `sessionflow-`.
        state: None where Slurm's word is not in the table.
        exit_code: of the batch script; 0 where a signal ended it.
        submitted, started: as Slurm prints them, local time; empty where there is none.
        ran_seconds, cpu_seconds, memory_gb: known to accounting only.
    """

    id: str
    key: str
    state: JobState | None
    word: str
    reason: str = ""
    restarts: int = 0
    exit_code: int = 0
    signal: int = 0
    node: str = ""
    submitted: str = ""
    started: str = ""
    ran_seconds: float | None = None
    cpu_seconds: float | None = None
    memory_gb: float | None = None

    @property
    def live(self) -> bool:
        """Whether it has not ended, as far as Slurm's word is understood."""
        return self.state is None or not self.state.ended

    @property
    def queued_seconds(self) -> float | None:
        """How long it waited; None as long as it has not begun."""
        try:
            return (datetime.fromisoformat(self.started) - datetime.fromisoformat(self.submitted)).total_seconds()
        except ValueError:
            return None


def parse_squeue(text: str) -> list[QueuedJob]:
    """Read the answer to `squeue -h -O SQUEUE_FORMAT`; lines that are none of it are passed over."""
    found = []
    for line in text.splitlines():
        fields = line.split("|", _SQUEUE_FIELDS - 1)
        if len(fields) < _SQUEUE_FIELDS or not fields[0].isdecimal():
            continue
        number, word, reason, restarts, code, submitted, started, node, comment = (field.strip() for field in fields)
        status = int(code) if code.isdecimal() else 0
        found.append(
            QueuedJob(
                id=number,
                key=_first_word(comment),
                state=STATES.get(word),
                word=word,
                reason="" if reason in _SAID_NOTHING else reason,
                restarts=int(restarts) if restarts.isdecimal() else 0,
                exit_code=status >> 8,
                signal=status & 0x7F,
                node=node,
                submitted=submitted,
                started="" if started == "N/A" else started,
            )
        )
    return found


def parse_sacct(text: str) -> dict[str, QueuedJob]:
    """Read the answer to `sacct -n -P -D -o SACCT_FIELDS`, by job id; the steps' memory is counted to their job.

    A job that was requeued has a row for each time, the last one last. Their number is asked of no field: what newer
    versions have for it, 22.05 refuses the whole question for.
    """
    jobs: dict[str, QueuedJob] = {}
    memory: dict[str, float] = {}
    for line in text.splitlines():
        fields = line.split("|")
        if len(fields) != SACCT_FIELDS.count(",") + 1:
            continue
        number, name, words, exit_code, node, submitted, started, elapsed, _, cpu, rss = fields
        job = number.split(".")[0]
        if (used := _gigabytes(rss)) is not None:
            memory[job] = max(used, memory.get(job, 0.0))
        if not number.isdecimal():
            continue
        word = words.split(" ")[0]
        before = jobs.get(job)
        code, _, signal = exit_code.partition(":")
        jobs[job] = QueuedJob(
            id=job,
            key=name,
            state=STATES.get(word),
            word=words,
            restarts=before.restarts + 1 if before is not None and before.key == name else 0,
            exit_code=int(code) if code.isdecimal() else 0,
            signal=int(signal) if signal.isdecimal() else 0,
            node="" if node == "None assigned" else node,
            submitted=submitted,
            started="" if started in ("Unknown", "None") else started,
            ran_seconds=float(elapsed) if elapsed.isdecimal() else None,
            cpu_seconds=_duration(cpu),
        )
    return {job: _with_memory(found, memory.get(job)) for job, found in jobs.items()}


def in_words(job: QueuedJob) -> str:
    """Say why a job is in its state, for people: Slurm's reason in words, with Slurm's own word."""
    if job.word in _STILL:
        return f"it is {_STILL[job.word]} ({job.word})"
    if not job.reason:
        return ""
    known = _REASONS.get(job.reason.split(",")[0].strip("()"))
    if known is None and re.match(r"(Assoc|QOS)(Max|Grp)", job.reason):
        known = "a limit of its account or QOS is reached"
    return f"{known} ({job.reason})" if known else job.reason


def is_hopeless(job: QueuedJob) -> bool:
    """Tell whether a job waits for something that only an administrator can change."""
    return job.state is JobState.PENDING and bool(_HOPELESS.fullmatch(job.reason))


def parse_job_id(text: str) -> str | None:
    """Return the id that `sbatch --parsable` printed (`ID` or `ID;CLUSTER`); None where it printed none."""
    lines = [line.split(";")[0].strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines and lines[-1].isdecimal() else None


def refusal_of(errors: str, *, timed_out: bool) -> Refusal:
    """Tell from what sbatch said why it printed no id."""
    if timed_out or not errors.strip():
        return Refusal.DOUBT
    if _LIMIT.search(errors):
        return Refusal.LIMIT
    if _DOUBT.search(errors):
        return Refusal.DOUBT
    return Refusal.FINAL if _FINAL.search(errors) else Refusal.DOUBT


def slurm_words(errors: str) -> str:
    """Return what a Slurm program said, without its own name before each line."""
    lines = [re.sub(r"^\w+: (error: )?", "", line).strip() for line in errors.splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line))


def says_out_of_memory(text: str) -> bool:
    """Tell whether Slurm or the kernel said, in a job's log, that it was killed for its memory."""
    return bool(_OUT_OF_MEMORY.search(text))


def parse_kill_wait(config: str) -> float | None:
    """Return KillWait, seconds, from `scontrol show config`."""
    found = re.search(r"^KillWait\s*=\s*(\d+)", config, re.MULTILINE)
    return float(found[1]) if found else None


def by_key(jobs: Iterable[QueuedJob]) -> dict[str, list[QueuedJob]]:
    """Group jobs of ours by their key; two with one key are copies of one attempt."""
    found: dict[str, list[QueuedJob]] = {}
    for job in jobs:
        if job.key.startswith(KEY_PREFIX):
            found.setdefault(job.key, []).append(job)
    return found


def _first_word(comment: str) -> str:
    words = comment.rstrip("|").split(None, 1)
    return words[0] if words else ""


def _with_memory(job: QueuedJob, memory: float | None) -> QueuedJob:
    return job if memory is None else replace(job, memory_gb=memory)


def _gigabytes(size: str) -> float | None:
    """Read `1234K`, `12.5M`, `3G`: sacct's units are powers of 1024."""
    found = re.fullmatch(r"([\d.]+)([KMGT]?)", size)
    if not found:
        return None
    return float(found[1]) * float(1024 ** " KMGT".index(found[2] or " ")) / 1e9


def _duration(text: str) -> float | None:
    """Read `[DD-[HH:]]MM:SS[.mmm]`, seconds."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):([\d.]+)", text)
    if not found:
        return None
    days, hours, minutes, seconds = found.groups()
    return int(days or 0) * 86400 + int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds)
