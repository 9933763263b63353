"""The report of runs as one page for a browser. It contains everything it needs, and makes no requests.

The script only sorts and filters the table. Everything that came from outside is escaped: see `pages`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..documents.common import ErrorJson
from ..documents.report import OutcomeJson, ReportJson
from ..errors import ExitCode, most_severe
from ..pages import environment
from ..progress.failed import split_url
from ..progress.timeline import Point
from ..text import counted
from .chart import chart

_ORDER = {"failed": 0, "refused": 1, "mirrored": 2, "skipped": 3, "unchanged": 4}
_KINDS = {"failed": "bad", "refused": "bad", "mirrored": "good", "unchanged": "known"}
_COLUMNS = (
    ("image", ""),
    ("status", ""),
    ("fetched", "n"),
    ("reused", "n"),
    ("took", "n"),
    ("digest", ""),
    ("remark", ""),
)
_MARKER = re.compile(r'<meta name="quaymirror-report" content="([0-9a-f]{16}) ([0-9T:.+-]{10,40})">')
# The marker is near the beginning of a page; of more pages in a directory only the latest are looked at.
_HEAD, _MAX_PAGES = 4096, 1000


def page(documents: Sequence[ReportJson], timelines: Sequence[Sequence[Point]], previous: str = "") -> str:
    """Return the page about runs: their reports and their courses over time; `previous` is a link to an earlier one."""
    worst = most_severe([ExitCode.OK, *(ExitCode(document["exit_code"]) for document in documents)])
    counts: Counter[str] = Counter()
    for document in documents:
        counts.update({"bytes_fetched": document["bytes_fetched"]})
        counts.update({status: count for status, count in document["images"].items() if isinstance(count, int)})

    template = environment("quaymirror.ui").get_template("html_report.html")
    return template.render(
        runs=[_run(*run) for run in zip(documents, timelines, strict=True)],
        code=int(worst),
        result=worst.meaning,
        sum={name: counts[name] for name in ("mirrored", "unchanged", "failed", "bytes_fetched")},
        statuses=[*_ORDER],
        columns=_COLUMNS,
        previous=previous,
        marker=" ".join(_marker(documents)),
    )


def previous_page(file: Path, documents: Sequence[ReportJson]) -> str:
    """Return a link to the latest earlier report of the same runs in the directory of `file`, "" if none is there."""
    subject, started = _marker(documents)
    found: list[tuple[str, str]] = []
    try:
        pages = sorted(file.absolute().parent.glob("*.html"), key=os.path.getmtime)[-_MAX_PAGES:]
        for other in pages:
            if other.name != file.name and other.is_file():
                with other.open(encoding="utf-8", errors="replace") as stream:
                    match = _MARKER.search(stream.read(_HEAD))

                if match is not None and match[1] == subject and match[2] < started:
                    found.append((match[2], other.name))
    except OSError:
        pass  # a link is not worth failing for

    return quote(max(found)[1]) if found else ""


def _marker(documents: Sequence[ReportJson]) -> tuple[str, str]:
    """Return what the runs are about, hashed, and their start."""
    about = [[document["server"], document["target"], document["selections"]] for document in documents]
    subject = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    return subject, min((document["started"] for document in documents), default="")


def _run(document: ReportJson, points: Sequence[Point]) -> dict[str, Any]:
    code, selections = ExitCode(document["exit_code"]), document["selections"]
    names = ", ".join(f"{one['organization']}/{one['glob']}:{one['tag']}" for one in selections[:3])
    more = f" and {len(selections) - 3} more" if len(selections) > 3 else ""
    verb = "Dry run of" if document["dry_run"] else "Mirror of"
    host = _host([outcome["reference"] for outcome in document["outcomes"]])
    outcomes = sorted(document["outcomes"], key=lambda outcome: (_ORDER[outcome["status"]], outcome["reference"]))
    changes = document.get("changes")
    skipped = document["repositories"]["skipped"]
    return {
        **{key: document[key] for key in ("run_id", "jobs", "server", "target", "dry_run", "elapsed_s", "images")},
        **{key: document[key] for key in ("bytes_fetched", "bytes_reused", "hosts")},
        "anchor": f"run-{document['run_id']}",
        "name": ", ".join(document["jobs"]) or f"{names}{more}",
        "title": f"{verb} {names}{more}",
        "code": int(code),
        "result": code.meaning,
        "started": _minute(document["started"]),
        "ending": _ending(document),
        "host": host,
        "failures": [_failure(outcome, host) for outcome in outcomes if outcome["status"] == "failed"],
        "refusals": [_failure(outcome, host) for outcome in outcomes if outcome["status"] == "refused"],
        "unmatched": document.get("unmatched", []),
        "changes": changes,
        "changed_since": _minute(changes["started"]) if changes is not None else "",
        "missing": len(changes["gone"]) if changes is not None else 0,
        "usage": document.get("usage"),
        "chart": chart(points),
        "skipped": ", ".join(
            f"{counted(count, 'repository', 'repositories')} ({why})" for why, count in sorted(skipped.items())
        ),
        "outcomes": [_outcome(outcome, host) for outcome in outcomes],
    }


def _minute(time: str) -> str:
    return f"{datetime.fromisoformat(time):%Y-%m-%d %H:%M}"


def _host(references: Sequence[str]) -> str:
    """Return the host, with its slash, that all names begin with, "" if there are several."""
    hosts = {reference.partition("/")[0] for reference in references}
    return f"{hosts.pop()}/" if len(hosts) == 1 else ""


def _ending(document: ReportJson) -> list[str]:
    """Return the reason of an early end, and a warning if the run is incomplete."""
    lines = []
    if document["error"]:
        lines.append(_explained(document["error"]))
    elif document["stopped"]:
        lines.append(f"stopped before its end: {document['stopped']}")

    if not document["complete"]:
        lines.append("Not everything selected was found and processed: images may be missing here.")

    return lines


def _failure(outcome: OutcomeJson, host: str) -> dict[str, str]:
    error = outcome["error"]
    url, reason = split_url(error["message"]) if error else ("", outcome["reason"] or "")
    return {
        "name": outcome["reference"].removeprefix(host),
        "reason": reason,
        "url": url,
        "side": error["side"] if error else "",
        "phase": (error["phase"] or "") if error else "",
    }


def _outcome(outcome: OutcomeJson, host: str) -> dict[str, Any]:
    status, error = outcome["status"], outcome["error"]
    return {
        "name": outcome["reference"].removeprefix(host),
        "status": status,
        "kind": _KINDS.get(status, "dim"),
        "order": _ORDER[status],
        "bytes_fetched": outcome["bytes_fetched"],
        "bytes_reused": outcome["bytes_reused"],
        "elapsed_s": outcome["elapsed_s"],
        "digest": outcome["digest"] or "",
        "remark": split_url(error["message"])[1] if error else outcome["reason"] or "",
    }


def _explained(error: ErrorJson) -> str:
    where = ", ".join(filter(None, (error["side"], error["phase"])))
    return f"{where}: {error['message']}"
