"""What people read in Prefect of a run: its progress, a table of its jobs, a session's pipelines. Pure functions."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.reports import PipelineReport, SessionReport
from trackers.names import ProcessingPipelines

View = dict[str, Any]
MOST_ROWS = 20  # of jobs in a progress

_MARKUP = re.compile(r"([\\|<>*`\[\]#~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")


@dataclass(frozen=True)
class Progress:
    """How far a run is: a share from 0 to 1, and words."""

    share: float
    words: str


@dataclass(frozen=True)
class Page:
    """A page that stays, of Markdown and at most one table: Prefect shows all pages of one key as a history."""

    key: str
    title: str
    text: str
    rows: tuple[dict[str, str], ...] = ()

    def artifact(self) -> dict[str, str]:
        """Return it as Prefect's API takes it."""
        if self.rows:
            words = f"**{self.title}**\n\n{self.text}"
            return {"type": "table", "key": self.key, "description": words, "data": json.dumps(self.rows)}
        return {"type": "markdown", "key": self.key, "description": self.title, "data": self.text}


def key_of(target: str, what: str) -> str:
    """Return the key of a target's pages: readable, of a-z, 0-9 and dashes, and different for different targets."""
    digest = hashlib.sha256(f"{target} {what}".encode()).hexdigest()[:6]
    words = re.sub(r"[^a-z0-9]+", "-", f"{target}-{what}".lower()).strip("-")
    return f"{words}-{digest}"


def jobs_progress(view: View) -> Progress:
    """Say how far a pipeline's jobs are, and of those that have not ended how they stand."""
    jobs, left = view["jobs"], [job for job in view["jobs"] if not job["over"]]
    share = 1 - len(left) / len(jobs)
    title = f"**{_heading(view)}**"
    if view["status"] != "open":
        return Progress(share, f"{title}: {view['status']}")
    if not left:
        return Progress(share, f"{title}: all {len(jobs)} jobs have ended")
    first = f"{title}: {len(jobs) - len(left)} of {len(jobs)} jobs have ended; stage **{plain(left[0]['stage'])}**"
    rows = [(job["stage"], job["name"], job["id"], *_standing(job)) for job in left[:MOST_ROWS]]
    parts = [first, table(("stage", "job", "Slurm id", "state", "why it waits, how far it is"), rows)]
    if len(left) > MOST_ROWS:
        parts.append(f"… and {len(left) - MOST_ROWS} more.")
    return Progress(share, "\n\n".join(parts))


def session_progress(
    target: str, reports: Sequence[PipelineReport], chosen: Sequence[ProcessingPipelines], awaited: str = ""
) -> Progress:
    """Say which of a session's pipelines had their turn, and whose turn it is; `awaited` is a limit it waits for."""
    words = f"**{plain(target)}**: {len(reports)} of {len(chosen)} pipelines done"
    if len(reports) < len(chosen):
        now = f"**{chosen[len(reports)]}**"
        words += f"; {now} waits for a slot of the limit {plain(awaited)}" if awaited else f"; now {now}"
    rows = [(str(r.pipeline), _status(r), _short_reason(r)) for r in reports]
    parts = [words, *([table(("pipeline", "status", ""), rows)] if rows else [])]
    return Progress(len(reports) / len(chosen), "\n\n".join(parts))


def jobs_page(view: View, report: PipelineReport, *, keep_logs: bool) -> Page:
    """Return what became of a pipeline's jobs: why it failed, earlier attempts, notes, and a row for each job."""
    title = f"{_heading(view)}: {view['status']} after {duration(report.seconds)}"
    failed = [job for job in view["jobs"] if job["state"] != "COMPLETED" and not never_started(job)]
    parts = [_failure(job) for job in failed]
    if never := [job["name"] for job in view["jobs"] if never_started(job)]:
        parts.append(f"Never started: {', '.join(map(plain, never))}.")
    if earlier := [f"- {plain(job['name'])}: {plain(words)}" for job in view["jobs"] for words in job["earlier"]]:
        parts += ["### Earlier attempts", "\n".join(earlier)]
    parts += [f"Note: {plain(note)}" for note in report.notes]
    folder = posixpath.commonpath([posixpath.dirname(job["errors"]) for job in view["jobs"]])
    parts.append(f"The logs are on the server, in {_code(folder)}.")
    rows = tuple(_jobs_rows(view["jobs"], folder, keep_logs=keep_logs))
    return Page(key_of(view["target"], view["pipeline"]), title, "\n\n".join(parts), rows)


def _jobs_rows(jobs: Sequence[View], folder: str, *, keep_logs: bool) -> Iterator[dict[str, str]]:
    """Return a row for each job: where and how it ran, and what it used of what it asked for."""
    for job in jobs:
        used, asked = job["usage"], job["resources"]
        ran = used["ran_seconds"]
        cores = used["cpu_seconds"] / ran if ran and used["cpu_seconds"] is not None else None
        yield {
            "job": f"{job['stage']}: {job['name']}",
            "state": _end(job),
            "Slurm id": job["id"],
            "node": used["node"],
            "queued": duration(used["queued_seconds"]),
            "ran": f"{duration(ran)} of {duration(60 * asked['minutes'])}" if ran is not None else "",
            "CPU": f"{cores:.1f} of {asked['cpus']} core{'s' if asked['cpus'] > 1 else ''}"
            if cores is not None
            else "",
            "memory": _memory(used["memory_gb"], asked["memory_gb"]) if ran is not None else "",
            "log": _log(job, folder, keep_logs=keep_logs),
        }


def _memory(used: float | None, asked: float) -> str:
    """Say what was used of what was asked for; without accounting nobody knows the first."""
    return f"{'?' if used is None else format(used, '.2g')} of {asked:g} GB"


def session_page(report: SessionReport) -> Page:
    """Return what became of a session's pipelines, with links to their runs."""
    failed = [r for r in report.pipelines if not r.succeeded]
    title = f"{report.target}: {'failed' if failed else 'succeeded'}"
    rows = []
    for r in report.pipelines:
        name = f"[{r.pipeline}](/runs/flow-run/{r.flow_run_id})" if r.flow_run_id else str(r.pipeline)
        rows.append((name, _status(r), duration(r.seconds) if r.ran else "", _short_reason(r)))
    parts = [f"**{r.pipeline} failed**: {plain(r.reason)}" for r in failed]
    parts.append(table(("pipeline and its run", "status", "duration", "why"), rows))
    return Page(key_of(report.target, "process-session"), plain(title), "\n\n".join(parts))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; its cells are Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def plain(words: str) -> str:
    """Return words so that Markdown shows them as they are, on one line."""
    return _MARKUP.sub(r"\\\1", " ".join(words.split()))


def duration(seconds: float | None) -> str:
    """Return a time that people read."""
    if seconds is None:
        return ""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"


def never_started(job: View) -> bool:
    """Whether a job did not begin, and will not: one before it did not succeed, or a cancel came first."""
    used = job["usage"]
    cancelled = job["state"] == "CANCELLED" and not used["node"] and used["ran_seconds"] is None
    return bool(job["blocked"] or cancelled)


def _failure(job: View) -> str:
    words = f"**{plain(job['name'])} {job['state']}**" + (f", job {job['id']}" if job["id"] else "")
    parts = [f"{words}: {plain(job['reason'])}".rstrip(": ")]
    if job["tail"]:
        text = "\n".join(job["tail"])
        fence = "`" * max(3, 1 + max((len(ticks) for ticks in re.findall("`+", text)), default=0))
        parts += ["The last lines of its stderr:", f"{fence}\n{text}\n{fence}"]
    return "\n\n".join(parts)


def _heading(view: View) -> str:
    return f"{plain(view['target'])}, {ProcessingPipelines[view['pipeline']]}"


def _standing(job: View) -> tuple[str, str]:
    words = [job["reason"], job["progress"], f"attempt {job['attempt']}" if job["attempt"] > 1 else ""]
    return job["state"].lower(), plain(", ".join(word for word in words if word))


def _status(report: PipelineReport) -> str:
    status = "skipped" if report.status is None else report.status.name.lower()
    return status if report.succeeded else f"**{status}**"


def _end(job: View) -> str:
    state = "never started" if never_started(job) else job["state"]
    return f"{state} (attempt {job['attempt']})" if job["attempt"] > 1 else state


def _short_reason(report: PipelineReport) -> str:
    """Return a reason that fits into a table: a failure's does not."""
    return plain(report.reason) if report.succeeded else ""


def _log(job: View, folder: str, *, keep_logs: bool) -> str:
    if never_started(job):
        return ""
    if job["state"] == "COMPLETED" and not keep_logs:
        return "not kept"
    return posixpath.relpath(job["errors"], folder)


def _code(path: str) -> str:
    ticks = "``" if "`" in path else "`"
    return f"{ticks}{path}{ticks}"
