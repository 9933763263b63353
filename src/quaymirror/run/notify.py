"""The command that is run after each run, with its result."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from ..documents.runs import NotificationJson, NotifiedRunJson
from ..errors import ExitCode
from .report import Report, change_counts_json, images_json, usage_json

SECONDS = 60.0
_PRIVATE = ("QUAYMIRROR_", "QUAY_API_TOKEN")


def notification(runs: Sequence[tuple[Report, int]], code: ExitCode, error: str = "") -> NotificationJson:
    """Return the summary of `runs`, each with its exit code; `error` ended the command before it had a report."""
    return {
        "exit_code": int(code),
        "result": code.meaning,
        "error": error or None,
        "runs": [_run(report, run_code) for report, run_code in runs],
    }


def _run(report: Report, code: int) -> NotifiedRunJson:
    return {
        "run_id": report.run_id,
        "jobs": list(report.jobs),
        "server": report.server,
        "target": report.target,
        "dry_run": report.dry_run,
        "started": datetime.fromtimestamp(report.started, UTC).isoformat(),
        "elapsed_s": round(report.elapsed, 3),
        "exit_code": code,
        "complete": report.complete,
        "images": images_json(report),
        "bytes_fetched": report.bytes_fetched,
        "bytes_reused": report.bytes_reused,
        "changes": change_counts_json(report.change_counts),
        "usage": usage_json(report.usage),
        "problem": report.first_problem,
    }


def notify(
    command: str, document: NotificationJson, environment: Mapping[str, str], *, seconds: float = SECONDS
) -> str:
    """Run `command` with `document` on its standard input; return the problem in one line, "" if there was none.

    The command is split as a shell would, but not run by one. QUAYMIRROR_EXIT_CODE is the exit code; our own secrets
    are not in its environment, and its standard output is dropped. After `seconds` it is killed with its children.
    """
    env = {name: value for name, value in environment.items() if not name.startswith(_PRIVATE)}
    env["QUAYMIRROR_EXIT_CODE"] = str(document["exit_code"])
    text = json.dumps(document, indent=2).encode() + b"\n"
    try:
        process = subprocess.Popen(  # noqa: S603 - the user's own command
            shlex.split(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=env,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return f"can't be run: {getattr(error, 'strerror', None) or error}"

    with process:
        try:
            process.communicate(text, timeout=seconds)
        except subprocess.TimeoutExpired:
            _kill(process)
            return f"killed after {seconds:g} s"
        except BaseException:
            _kill(process)
            raise

    return f"ended with exit code {process.returncode}" if process.returncode else ""


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
