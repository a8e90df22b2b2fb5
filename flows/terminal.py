"""What people see in a terminal: tables, a session's page, and live progress."""

from __future__ import annotations

import io
import itertools
import shutil
import sys
import textwrap
from collections.abc import Callable
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trackers.errors import BadInputError
from trackers.manager import NOBODY
from trackers.settings import DEFAULT

COLUMNS = ("checksum", "preparation", "behavior", "suite2p", "video", "archiving")
_STYLES = {
    "succeeded": "green",
    "completed": "green",
    "done": "green",
    "failed": "bold red",
    "running": "cyan",
    "corrupt": "bold red",
    "ok": "green",
    "failure": "bold red",
    "warning": "yellow",
    "aborted": "yellow",
    "cancelled": "yellow",
}
WIDEST = 200
ENDLESS = 10_000  # columns: one line each, for what a program reads
_WIDTHS = (11, 9, 8)  # of pipeline, status and duration: the same for every session
_FINDING_WIDTH, _STEP_WIDTH = 7, 20
NARROWEST_TABLE = 140  # columns; a status table narrower than this would cut its words to dots


def render(what: Any, width: int = 0) -> str:
    """Return a table or text as it looks in this terminal, or in one so wide; plain text where the output is none."""
    file = io.StringIO()
    Console(file=file, width=width or _width(), force_terminal=_terminal()).print(what)
    return "\n".join(line.rstrip() for line in file.getvalue().rstrip("\n").split("\n"))


def sentence(words: str) -> str:
    """Return a sentence broken between its words in a terminal, so that paths can be copied; one line elsewhere."""
    if not _terminal():
        return words
    return textwrap.fill(words, _width(), break_long_words=False, break_on_hyphens=False)


def styled(word: str) -> Text:
    """Return a status in its colour."""
    return Text(word, style=_STYLES.get(word.split(" ", maxsplit=1)[0].lower(), ""))


def finding_lines(finding: Any) -> str:
    """Return what a step of a check found, a `Finding`, and below it what to do about it."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for width in (_FINDING_WIDTH, _STEP_WIDTH):
        table.add_column(min_width=width, no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    table.add_row(styled(finding.result), finding.step, Text(finding.words))
    if finding.remedy and finding.result != "ok":
        table.add_row("", "", Text(f"→ {finding.remedy}"))
    return render(table)


def status_table(project: str, rows: list[dict[str, Any]], *, notes: bool) -> str:
    """Return a project's sessions × pipelines; in a narrow terminal, a few lines for each session."""
    title = f"{project}: {len(rows)} session{'' if len(rows) == 1 else 's'}"
    return render((_wide_status if _width() >= NARROWEST_TABLE else _narrow_status)(title, rows, notes=notes))


def settings_table(pipeline: str, rows: list[tuple[str, str, str]]) -> str:
    """Return a pipeline's settings: name, value, and where it comes from."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    for _ in ("value", "source"):
        table.add_column(overflow="fold")
    for name, value, source in rows:
        table.add_row(f"  {name}", value, Text(source, style="dim" if source == DEFAULT else "cyan"))
    return render(Group(Text(pipeline, style="bold"), table), _width() if _terminal() else ENDLESS)


def dataset_line(facts: dict[str, Any]) -> str:
    """Return how a dataset, or an animal in it, stands: each pipeline, and who holds it."""
    pipelines = ", ".join(
        f"{name.lower()} {_cell(found) or 'has not run'}" for name, found in facts["pipelines"].items()
    )
    held = "" if facts["lock"]["manager_id"] == NOBODY else f", locked by {facts['lock']['description']}"
    return f"{facts['target']}: dataset, {pipelines}{held}"


def _wide_status(title: str, rows: list[dict[str, Any]], *, notes: bool) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("animal", "session"):
        table.add_column(column, no_wrap=True)
    for column in ("type", "state", *COLUMNS, *(["notes"] if notes else [])):
        table.add_column(column)
    for row in rows:
        names = (str(row["animal"]), str(row["session"]))
        if row["problem"]:
            table.add_row(*names, "", Text(_problem(row), style="bold red"))
            continue
        cells = [styled(_cell(row["pipelines"][column.upper()])) for column in COLUMNS]
        table.add_row(*names, row["session_type"], state_of(row), *cells, *([Text(row["notes"])] if notes else []))
    return table


def _narrow_status(title: str, rows: list[dict[str, Any]], *, notes: bool) -> Group:
    parts: list[Any] = [Text(title, style="italic")]
    for row in rows:
        parts += ["", Text(f"{row['animal']}  {row['session']}", style="bold")]
        table = Table.grid(padding=(0, 2))
        if row["problem"]:
            table.add_row("", "problem", Text(_problem(row), style="bold red"))
        else:
            table.add_row("", str(row["session_type"]), state_of(row))
            cells = {column: _cell(row["pipelines"][column.upper()]) for column in COLUMNS}
            for column, cell in cells.items():
                if cell:
                    table.add_row("", column, styled(cell))
            if notes and row["notes"]:
                table.add_row("", "notes", Text(row["notes"]))
        parts.append(table)
    return Group(*parts)


def report_table(reports: list[Any]) -> str:
    """Return session × pipeline, status, duration of what was run, then every failure; all `PipelineReport`s."""
    parts: list[Any] = [Text("What was done", style="italic")]
    for target, group in itertools.groupby(reports, key=lambda report: report.target):
        parts += ["", Text(target, style="bold"), _pipelines_table(list(group))]
    failures = [sentence(report.sentence) for report in reports if not report.succeeded]
    return "\n\n".join([render(Group(*parts)), *failures])


def _pipelines_table(reports: list[Any]) -> Table:
    """Return the rows of one target; a reason that several share in a row is said once."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for width in (0, *_WIDTHS):
        table.add_column(min_width=width, no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    previous = ""
    for report in reports:
        what = "skipped" if report.status is None else report.status.name.lower()
        seconds = f"{report.seconds:6.1f} s" if report.ran else ""
        reason = report.reason if report.succeeded else ""
        shown = "as above" if reason and reason == previous else reason
        table.add_row("", report.pipeline.name.lower(), styled(what), seconds, Text(shown))
        previous = reason
    return table


def step_line(name: str, time: str, words: str) -> str:
    """Return the line of a step in a row of steps: its name, how long it took, and what it was."""
    return f"  {name:12} {time:>8}  {words}"


def confirm(question: str, *, yes: bool) -> None:
    """Go on only with a person's word.

    Raises:
        BadInputError: it was not given.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise BadInputError(f"{question} Nobody is there to answer; pass --yes. Nothing was changed.")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise BadInputError("Nothing was changed.")


class LiveProgress:
    """Shows the jobs of the submissions that are followed: a table in a terminal, else a line for each change.

    A terminal has a line for each job that has ended as well. Without `lines` there is the table only.
    """

    def __init__(self, *, lines: bool = True) -> None:
        self._lines = lines
        self._views: dict[str, dict[str, Any]] = {}
        self._said: dict[tuple[str, str], str] = {}
        self._live = Live(get_renderable=self._table, refresh_per_second=8, transient=True) if _terminal() else None

    def __enter__(self) -> Callable[[dict[str, Any]], None]:
        """Begin; returns what is told of every change."""
        if self._live is not None:
            self._live.start()
        return self._see

    def __exit__(self, *_error: object) -> None:
        """Take the table away."""
        if self._live is not None:
            self._live.stop()

    def _see(self, view: dict[str, Any]) -> None:
        name = f"{view['target']} {view['pipeline'].lower()}"
        if view["status"] == "open":
            self._views[name] = view
        else:
            self._views.pop(name, None)
        for job in view["jobs"] if self._lines else ():
            self._say(name, job)

    def _say(self, name: str, job: dict[str, Any]) -> None:
        """Print a job's end, and without a terminal also its beginning."""
        said = "blocked" if job["blocked"] else job["state"]
        if self._said.get((name, job["name"])) == said:
            return
        self._said[name, job["name"]] = said
        if job["ended"] or (self._live is None and said == "RUNNING"):
            line = Text.assemble(f"{name} {job['name']} ", styled(said.lower()))
            (self._live.console if self._live else Console()).print(line, soft_wrap=True)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for name, view in list(self._views.items()):
            for job in view["jobs"]:
                if not job["ended"]:
                    table.add_row(name, job["name"], styled(job["state"].lower()), job["progress"])
        return table


def _terminal() -> bool:
    return sys.stdout.isatty()


def _width() -> int:
    return min(shutil.get_terminal_size((WIDEST, 24)).columns, WIDEST)


def _cell(facts: dict[str, Any]) -> str:
    """Return status, day, why it is stale, and whether the result before a failure is the one that counts.

    Nothing where its tracker was reset, whatever its last run was.
    """
    said = f"{facts['status']} {facts['ended'][:10]}".strip() if facts["status"] else ""
    said += f", stale, {facts['stale']}" if facts.get("stale") else ""
    return f"{said}; the result of {facts['counts'][:10]} counts" if facts.get("counts") else said


def state_of(facts: dict[str, Any]) -> str:
    """Say whether a session is complete and archived, or why it is not complete."""
    state = "complete, archived" if facts["archived"] else "complete"
    state = state if facts["complete"] else str(facts["completeness"])
    return f"{state}; excluded {facts['excluded']}" if facts.get("excluded") else state


def _problem(row: dict[str, Any]) -> str:
    """Say what is wrong with a session, and that it is excluded where it is."""
    return " ".join([str(row["problem"]), *([f"It is excluded {row['excluded']}."] if row.get("excluded") else [])])


def places_lines(places: list[dict[str, Any]]) -> str:
    """Return the folders of sessions with size and state, each path on a line of its own so that it can be copied."""
    lines: list[str] = []
    for session, group in itertools.groupby(places, key=lambda place: place["session"]):
        lines += [*([""] if lines else []), session]
        for place in group:
            volume = "one volume" if place["volume"] == "both" else f"{place['volume']} volume"
            what = f"  {place['name']:14} {place['state']:10} {_size(place):26} {volume}"
            lines += [f"{what}  {place['note']}".rstrip(), f"      {place['path']}"]
    return "\n".join(lines)


def _size(place: dict[str, Any]) -> str:
    if place["state"] != "exists":
        return ""
    files = f"{place['files']:,} file{'' if place['files'] == 1 else 's'}"
    return f"{'' if place['counted'] else 'at least '}{size(place['bytes'])}, {files}"


def size(count: float) -> str:
    """Return a number of bytes for people: `1.5 GB`."""
    unit = "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if count < 1000:
            break
        count, unit = count / 1000, larger
    return f"{count:.4g} {unit}"
