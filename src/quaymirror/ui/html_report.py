"""The report of runs as one page for a browser. It contains everything it needs, and makes no requests.

The script only sorts and filters the table. Everything that came from outside is escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from importlib import resources

from ..documents import ErrorJson, OutcomeJson, ReportJson
from ..errors import ExitCode, most_severe
from ..progress.timeline import Point
from ..text import counted, escape_controls, human_bytes, human_duration

_ORDER = {"failed": 0, "mirrored": 1, "skipped": 2, "unchanged": 3}
# Units of the chart, which is stretched to the width of the page.
_WIDTH, _HEIGHT = 1000, 200


def page(documents: Sequence[ReportJson], timelines: Sequence[Sequence[Point]]) -> str:
    """Return the page about runs: their reports and their courses over time."""
    files = resources.files(__package__)
    style, script = (files.joinpath(f"html_report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    worst = most_severe([ExitCode.OK, *(ExitCode(document["exit_code"]) for document in documents)])
    title = f"quaymirror: {worst.meaning}"
    sections = "".join(_run(*run) for run in zip(documents, timelines, strict=True))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>{_text(title)}</title>
<style>{style}</style>
</head>
<body>
{sections}
<script>{script}</script>
</body>
</html>
"""


def _run(document: ReportJson, points: Sequence[Point]) -> str:
    outcomes = sorted(document["outcomes"], key=lambda outcome: (_ORDER[outcome["status"]], outcome["reference"]))
    failures = [outcome for outcome in outcomes if outcome["status"] == "failed"]
    parts = [_head(document), _cards(document), _ending(document), _failures(failures), _chart(points)]
    return "\n".join([*parts, _hosts(document), _skipped(document), _images(outcomes)])


def _head(document: ReportJson) -> str:
    code = ExitCode(document["exit_code"])
    badge = "good" if code is ExitCode.OK else "bad"
    verb = "Dry run of" if document["dry_run"] else "Mirror of"
    selections = document["selections"]
    names = ", ".join(f"{one['organization']}/{one['glob']}:{one['tag']}".removeprefix("/") for one in selections[:3])
    more = f" and {len(selections) - 3} more" if len(selections) > 3 else ""
    jobs = f"jobs {', '.join(document['jobs'])} \N{MIDDLE DOT} " if document["jobs"] else ""
    started = datetime.fromisoformat(document["started"])
    return (
        f"<header><h1>{_text(f'{verb} {names}{more}')} "
        f'<span class="badge {badge}">{_text(code.meaning)}</span></h1>'
        f'<p class="sub">{_text(jobs)}{_text(document["server"])} &rarr; {_text(document["target"])} &middot; '
        f"{started:%Y-%m-%d %H:%M} UTC &middot; {human_duration(document['elapsed_s'])} &middot; "
        f"run <code>{_text(document['run_id'])}</code></p></header>"
    )


def _cards(document: ReportJson) -> str:
    images = document["images"]
    fetched = "would be fetched" if document["dry_run"] else "fetched"
    cards = [
        (f"{images['failed']:,}", "failed", "bad" if images["failed"] else "dim"),
        (f"{images['mirrored']:,}", "would be mirrored" if document["dry_run"] else "mirrored", "good"),
        (f"{images['unchanged']:,}", "unchanged", "known"),
        (f"{images['skipped']:,}", "skipped", "dim"),
        (human_bytes(document["bytes_fetched"]), fetched, ""),
        (human_bytes(document["bytes_reused"]), "saved by sharing", ""),
    ]
    boxes = "".join(
        f'<div class="card"><b class="{kind}">{text}</b><span>{word}</span></div>' for text, word, kind in cards
    )
    return f'<div class="cards">{boxes}</div>'


def _ending(document: ReportJson) -> str:
    """Return the reason of an early end, and a warning if the run is incomplete."""
    lines = []
    if document["error"]:
        lines.append(_explained(document["error"]))
    elif document["stopped"]:
        lines.append(f"stopped before its end: {document['stopped']}")

    if not document["complete"]:
        lines.append("Not everything selected was found and processed: images may be missing here.")

    return "".join(f'<p class="bad">{_text(line)}</p>' for line in lines)


def _failures(failures: Sequence[OutcomeJson]) -> str:
    if not failures:
        return ""

    table = _table({"image": "", "where": "", "why": ""}, map(_failure, failures))
    title = f'<h2 class="bad">Failed ({len(failures):,})</h2>'
    return f'<section class="failures">{title}<div class="wide">{table}</div></section>'


def _failure(outcome: OutcomeJson) -> str:
    error = outcome["error"]
    where, why = (_where(error), error["message"]) if error else ("", outcome["reason"] or "")
    return f"<tr><td>{_text(outcome['reference'])}</td><td>{_text(where)}</td><td>{_text(why)}</td></tr>"


def _where(error: ErrorJson) -> str:
    return ", ".join(filter(None, (error["side"], error["phase"])))


def _explained(error: ErrorJson) -> str:
    return f"{_where(error)}: {error['message']}"


def _chart(points: Sequence[Point]) -> str:
    """Draw finished images and fetched bytes over time, each in its own scale."""
    if len(points) < 2 or points[-1].at <= 0:
        return ""

    images = max(1, max(point.done for point in points))
    size = max(1, max(point.bytes_fetched for point in points))
    end = points[-1].at
    done = _line([(point.at / end, point.done / images) for point in points])
    fetched = _line([(point.at / end, point.bytes_fetched / size) for point in points])
    return (
        "<section><h2>Over time</h2><figure>"
        f'<figcaption><span class="good">&mdash; {images:,} images done</span>'
        f'<span class="known">&#9632; {human_bytes(size)} fetched</span></figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{images:,} images and {human_bytes(size)} in {human_duration(end)}">'
        f'<polygon points="0,{_HEIGHT} {fetched} {_WIDTH},{_HEIGHT}"/><polyline points="{done}"/></svg>'
        f"<figcaption><span>0</span><span>{human_duration(end)}</span></figcaption></figure></section>"
    )


def _line(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x * _WIDTH:.1f},{_HEIGHT - y * (_HEIGHT - 2):.1f}" for x, y in points)


def _hosts(document: ReportJson) -> str:
    if not document["hosts"]:
        return ""

    rows = (
        f'<tr><td>{_text(name)}</td><td class="n">{host["retries"]:,}</td><td class="n">{host["throttled"]:,}</td>'
        f'<td class="n">{host["pauses"]:,}</td><td class="n">{human_duration(host["paused_s"])}</td></tr>'
        for name, host in document["hosts"].items()
    )
    table = _table({"host": "", "retries": "n", "throttled": "n", "pauses": "n", "paused": "n"}, rows)
    return f"<section><h2>Retries and rate limits</h2>{table}</section>"


def _skipped(document: ReportJson) -> str:
    reasons = document["repositories"]["skipped"]
    if not reasons:
        return ""

    skipped = (f"{counted(count, 'repository', 'repositories')} ({why})" for why, count in sorted(reasons.items()))
    return f'<p class="dim">Skipped: {_text(", ".join(skipped))}.</p>'


def _images(outcomes: Sequence[OutcomeJson]) -> str:
    kinds = {"image": "", "status": "", "fetched": "n", "reused": "n", "took": "n", "digest": "", "remark": ""}
    buttons = {f'<button type="button">{name}</button>': kind for name, kind in kinds.items()}
    options = "".join(f"<option>{status}</option>" for status in _ORDER)
    return (
        f'<section class="images"><h2>Images ({len(outcomes):,})</h2>'
        '<div class="filters" hidden><input type="search" placeholder="part of a name, digest or remark" '
        f'aria-label="filter"><select aria-label="status"><option value="">every status</option>{options}</select>'
        f'<output></output></div><div class="wide">{_table(buttons, map(_row, outcomes))}</div></section>'
    )


def _table(head: Mapping[str, str], rows: Iterable[str]) -> str:
    """Return a table with the columns of `head`, each with its class."""
    cells = "".join(f'<th class="{kind}">{name}</th>' for name, kind in head.items())
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _row(outcome: OutcomeJson) -> str:
    status = outcome["status"]
    kind = {"failed": "bad", "mirrored": "good", "unchanged": "known"}.get(status, "dim")
    digest = _text(outcome["digest"] or "")
    remark = _explained(outcome["error"]) if outcome["error"] else outcome["reason"] or ""
    return (
        f'<tr data-status="{status}"><td>{_text(outcome["reference"])}</td>'
        f'<td class="{kind}" data-key="{_ORDER[status]}">{status}</td>'
        f"{_number(outcome['bytes_fetched'], human_bytes)}{_number(outcome['bytes_reused'], human_bytes)}"
        f"{_number(outcome['elapsed_s'], human_duration)}"
        f'<td><code title="{digest}">{digest}</code></td><td>{_text(remark)}</td></tr>'
    )


def _number(value: float, words: Callable[[float], str]) -> str:
    return f'<td class="n" data-key="{value}">{words(value)}</td>'


def _text(value: object) -> str:
    return escape(escape_controls(str(value)))
