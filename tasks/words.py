"""How a job stands or ended, in words, from what the server side shows of it."""

from __future__ import annotations

from typing import Any

from trackers.attempts import NOT_SUBMITTED, REFUSED

TAIL_LINES = 5  # of a failed job's last words, in the reason that people read first

View = dict[str, Any]


def describe(job: View) -> str:
    """Say how a job stands, for people: state, id, attempt, why it waits, progress."""
    words = [f"{job['stage']}: {job['name']} {job['state']}"]
    if job["id"]:
        words.append(f"job {job['id']}")
    if job["attempt"] > 1:
        words.append(f"attempt {job['attempt']} ({job['earlier'][-1]})")
    return ", ".join(part for part in (*words, job["reason"], job["progress"]) if part)


def why(job: View) -> str:
    """Say why a job did not succeed, with what it used of what it asked for, where its log is, and its last words."""
    if job["blocked"] and job["state"] in ("PLANNED", "PENDING"):
        return f"{job['name']} was not started: a job before it did not succeed"
    tail = " / ".join(line.strip() for line in job["tail"][-TAIL_LINES:])
    whereabouts = place(job)
    name = f"{job['name']} {job['state']}" + (f" ({whereabouts})" if whereabouts else "")
    next_step = f"log: {job['errors']} on the server"
    if job["reason"].startswith(REFUSED):
        next_step = "correct the server's description (sessionflow server check says which field), and run it again"
    elif job["reason"].startswith(NOT_SUBMITTED):
        next_step = ""  # that is said of the job which Slurm refused
    # the job's own words last: they may end with a command
    parts = [name, job["reason"], used_of_asked(job), next_step, tail]
    return "; ".join(part.rstrip(".") for part in parts if part)


def place(job: View) -> str:
    """Say under which name the scheduler knows a job, and on which computer it ran, as far as it is known."""
    where = job["usage"]["node"]
    return " ".join([*([f"job {job['id']}"] if job["id"] else []), *([f"on {where}"] if where else [])])


def used_of_asked(job: View) -> str:
    """Say how much of the time and memory that it asked for a job used, as far as it is known."""
    used, asked = job["usage"], job["resources"]
    words = []
    if used["ran_seconds"] is not None:
        words.append(f"{used['ran_seconds'] / 60:.1f} of {asked['minutes']} min")
    if used["memory_gb"] is not None:
        words.append(f"{used['memory_gb']:.2g} of {asked['memory_gb']:g} GB")
    return f"used {' and '.join(words)}" if words else ""
