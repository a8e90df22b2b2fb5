"""A session on one page, for the person who must find out at night what became of it."""

from __future__ import annotations

from typing import Any

from flows.terminal import dataset_line, state_of
from tasks.words import place, used_of_asked

LAST_LINES = 10  # of each job that did not succeed


def history_page(page: dict[str, Any]) -> str:
    """Return what is known of a session or dataset: how it is, what its results were made of, and all that was done.

    The newest comes last; of each job that did not succeed, where it ran, what it used, its last words and its log.
    """
    facts = page["facts"]
    lines = [
        f"{facts['target']}: {facts['session_type']}, {state_of(facts)}"
        if "session_type" in facts
        else dataset_line(facts),
        lock_words(facts["lock"]),
        "",
        "Results",
        *(line for result in page["results"] for line in _result(result)),
        "",
        "History",
        *(line for row in page["history"] for line in _submission(row)),
    ]
    return "\n".join(lines)


def lock_words(lock: dict[str, Any]) -> str:
    """Say who holds a session's lock, or what is wrong with the file."""
    return str(lock["description"]) if lock["corrupt"] else f"locked by {lock['description']}"


def _result(result: dict[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    outputs = f"{len(result['outputs'])} outputs, {sum(int(o['size']) for o in result['outputs']):,} bytes"
    raw_data = result["inputs"].get("raw_data_checksum") or "unknown"
    return [
        f"  {result['pipeline'].lower()}: {result['ended'][:19]} UTC, asked for by {_asked_for(result)}",
        f"    settings {result['settings'] or 'none'}; versions {versions}",
        f"    from raw_data with checksum {raw_data}; {outputs}",
        *(f"    note: {note}" for note in result["notes"]),
    ]


def _submission(row: dict[str, Any]) -> list[str]:
    if "problem" in row:
        return [f"  {row['name']}: {row['problem']}"]
    asked = f", asked for by {_asked_for(row)}" if row["requested_by"] else ""
    lines = [f"  {row['opened'][:19]} {row['name']} {row['status']}{asked}"]
    unfinished = {job["name"]: job for job in row["unfinished"]}
    for job, attempts in row["jobs"].items():
        lines.append(f"    {job}: {'; then '.join(attempts)}")
        if job in unfinished:
            lines += [f"      {line}" for line in _unfinished(unfinished[job])]
    return lines


def _unfinished(job: dict[str, Any]) -> list[str]:
    ended = f"ended {job['ended'][:19]} UTC" if job["ended"] and job["logs"] else ""
    facts = ", ".join(part for part in (place(job), ended, used_of_asked(job), job["progress"]) if part)
    lines = [facts] if facts else []
    if job["tail"]:
        lines += ["last words:", *(f"  {line.rstrip()}" for line in job["tail"][-LAST_LINES:])]
    return [*lines, *(f"log: {path}" for path in job["logs"])]


def _asked_for(record: dict[str, Any]) -> str:
    return f"{record['requested_by']} (unverified)" if record["requested_by"] else "?"
