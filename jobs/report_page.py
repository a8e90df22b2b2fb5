"""The page of a session: one HTML file without anything beside it, for the screen, light or dark, and for paper."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from html import escape
from typing import Any

from jobs.forging_sources import Sources
from jobs.report_checks import FAIL, PASS, Check, end_us
from trackers.quality import Overruling

STYLE = """
:root{color-scheme:light dark;--ink:#1b2330;--soft:#5c6675;--paper:#fff;--line:#dfe3ea;
--pass:#1d7a55;--fail:#c0392b;--unknown:#8a6d1d}
@media(prefers-color-scheme:dark){:root{--ink:#e8ebf1;--soft:#a3adbd;--paper:#14181f;--line:#303846;
--pass:#53c797;--fail:#ff7b6b;--unknown:#e0bd5a}}
body{margin:0 auto;padding:2.5rem 1.5rem 4rem;max-width:60rem;font:16px/1.5 system-ui,sans-serif;
color:var(--ink);background:var(--paper)}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .3rem}h2{font-size:1.15rem;margin:2.4rem 0 .6rem}
p{margin:.3rem 0}.soft,figcaption{color:var(--soft);font-size:.9rem}
.word{font-weight:650;font-size:1.1rem;margin:1rem 0;padding:.6rem 1rem;border-left:.35rem solid currentColor}
.pass{color:var(--pass)}.fail{color:var(--fail)}.unknown{color:var(--unknown)}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{text-align:left;padding:.4rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:500}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.verdict{font-weight:650;white-space:nowrap}figure{margin:0}svg{width:100%;height:auto;display:block}
@media print{@page{margin:14mm}:root{--ink:#000;--soft:#444;--paper:#fff;--line:#ccc;
--pass:#1d7a55;--fail:#c0392b;--unknown:#8a6d1d}
body{padding:0;font-size:11pt;max-width:none}section,tr{break-inside:avoid}}
"""


def page(
    sources: Sources,
    checks: Iterable[Check],
    overruled: Mapping[str, Overruling],
    figures: Iterable[tuple[str, str, str]],
) -> str:
    """Return the page's HTML; `figures` are title, SVG (empty: there is none) and caption of each."""
    checks = list(checks)
    title = f"{sources.paths.animal}, {sources.paths.session[:10]}"
    sections = [_figure(*each) for each in figures]
    missing = "".join(f"<li>{escape(words)}</li>" for words in sources.missing)
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(_about(sources))}</p>',
        _sentence(checks, overruled),
        f"<section><h2>Quality control</h2>{_table(checks, overruled)}</section>",
        *sections,
        f'<section><h2>Not there</h2><ul class="soft">{missing}</ul></section>' if missing else "",
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(str(sources.paths))}</title><style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _about(sources: Sources) -> str:
    seconds = max((end_us(sources) - sources.start_us) / 1e6, 0)
    start = datetime.fromtimestamp(sources.start_us / 1e6, UTC)
    facts = [
        f"Project {sources.paths.project}",
        sources.data.session_type.value,
        f"{start:%Y-%m-%d %H:%M} UTC, {seconds / 60:.1f} min",
    ]
    if sources.planes:
        facts.append(f"{len(sources.planes)} planes at {sources.planes[0].rate:g} volumes a second")
    facts.append(f"{len(sources.cameras)} cameras")
    return " · ".join(facts)


def _sentence(checks: list[Check], overruled: Mapping[str, Overruling]) -> str:
    final = {c.title: overruled[c.name].verdict if c.name in overruled else c.verdict for c in checks}
    failed = [title for title, verdict in final.items() if verdict == FAIL]
    unknown = [title for title, verdict in final.items() if verdict not in (PASS, FAIL)]
    verdict = FAIL if failed else "unknown" if unknown else PASS
    known = len(final) - len(unknown)
    words = (
        f"Fails: {', '.join(failed)}." if failed else f"Nothing wrong was found in {known} check{'s' * (known != 1)}."
    )
    words += f" Not checked: {', '.join(unknown)}." if unknown else ""
    words += " A person has overruled verdicts; see below." if set(overruled) & {c.name for c in checks} else ""
    return f'<p class="word {verdict}">{escape(words)}</p>'


def _table(checks: list[Check], overruled: Mapping[str, Overruling]) -> str:
    rows = "".join(_row(check, overruled.get(check.name)) for check in checks)
    head = "".join(f"<th>{name}</th>" for name in ("check", "measured", "passes", "verdict", ""))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _row(check: Check, word: Overruling | None) -> str:
    shown = "–" if check.value is None else f"{check.value:.3g}"
    limit = f"{'≥' if check.least else '≤'} {check.threshold:g} {check.unit}"
    words, verdict = escape(check.words), check.verdict
    if word is not None:
        words += f"<br><strong>{escape(word.describe())}</strong>"
        verdict = word.verdict
    return (
        f"<tr><td>{escape(check.title)}</td>"
        f'<td class="number">{shown}</td><td class="number">{escape(limit)}</td>'
        f'<td class="verdict {verdict}">{verdict}{" (overruled)" if word else ""}</td>'
        f'<td class="soft">{words}</td></tr>'
    )


def _figure(title: str, svg: str, caption: str) -> str:
    shown: Any = f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"
    if not svg:
        shown = f'<p class="soft">{escape(caption)}</p>'
    return f"<section><h2>{escape(title)}</h2>{shown}</section>"
