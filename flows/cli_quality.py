"""The command that shows quality control over all sessions of a project, and lets people overrule it."""

from __future__ import annotations

import argparse
from typing import Any

from rich.table import Table
from rich.text import Text

from flows.cli import server_of
from flows.cli_control import ask, session_target
from flows.terminal import render, sentence
from trackers.errors import BadInputError

_STYLES = {"pass": "green", "fail": "bold red", "unknown": "yellow"}
_OVERRULE_WORDS = 3  # overrule SESSION CHECK


def quality(arguments: argparse.Namespace) -> int:
    """Print the checks of every session of a project, or overrule one."""
    if arguments.words[0] == "overrule" and len(arguments.words) > 1:
        return _overrule(arguments)
    if len(arguments.words) != 1:
        raise BadInputError("Name one project, or say: overrule SESSION CHECK --reason WHY. Nothing was done.")
    (project,) = arguments.words
    rows = ask(server_of(arguments), "qualities", project=project, animal=arguments.animal)
    print(quality_table(project, rows))
    return 0


def _overrule(arguments: argparse.Namespace) -> int:
    if len(arguments.words) != _OVERRULE_WORDS:
        raise BadInputError("Say: overrule SESSION CHECK --reason WHY. Nothing was done.")
    _, session, check = arguments.words
    server, target = session_target(arguments, session)
    words = {"check": check, "verdict": arguments.verdict, "reason": arguments.reason}
    done = ask(server, "overrule", **target, **words, requested_by=arguments.requested_by)
    print(f"{'/'.join(target.values())}, {check}: {done['overruled']}\nTo have it on the page: {done['page']}")
    return 0


def quality_table(project: str, rows: list[dict[str, Any]]) -> str:
    """Return sessions by checks, with `*` where a person overruled, then what failed and who said what, in words."""
    names = list(dict.fromkeys(check["name"] for row in rows for check in row["checks"]))
    table = Table(title=f"Quality control of {project}", title_justify="left", box=None, pad_edge=False)
    for column in ("animal", "session", *(name.replace("_", " ") for name in names)):
        table.add_column(column)
    words: list[str] = []
    for row in rows:
        checks = {check["name"]: check for check in row["checks"]}
        cells = [_cell(checks.get(name)) for name in names]
        table.add_row(row["animal"], row["session"], *cells)
        where = f"{row['animal']}/{row['session']}"
        if not checks:
            words.append(f"{where}: {row['problem'] or 'no report yet'}")
        words += [f"{where}, {name}: {said}" for name, check in checks.items() if (said := _said(check))]
    return "\n".join([render(table), *(sentence(each) for each in words)])


def _cell(check: dict[str, Any] | None) -> Text:
    if check is None:
        return Text("–")
    return Text(check["verdict"] + ("*" if "overruled" in check else ""), style=_STYLES.get(check["verdict"], ""))


def _said(check: dict[str, Any]) -> str:
    """Say of a check that did not pass, or was overruled, what was measured; empty for the others."""
    if check["verdict"] == "pass" and "overruled" not in check:
        return ""
    value = "" if check.get("value") is None else f"{check['value']:.3g} {check.get('unit', '')}, "
    limit = f" (passes {'≥' if check.get('least') else '≤'} {check['threshold']:g})" if value else ""
    said = f"* {check['overruled']} Measured as {check['measured']}: " if "overruled" in check else ""
    return f"{said}{value}{check.get('words', '')}{limit}"
