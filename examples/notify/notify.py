#!/usr/bin/env python3
"""Send the summary of quaymirror's --notify-command to people. Needs Python only.

notify.py mail ADDRESS               by the local sendmail
notify.py slack FILE                 FILE has the URL of an incoming webhook (also for Mattermost and Rocket.Chat)
notify.py matrix FILE ROOM           FILE has two lines: the URL of the homeserver, and an access token

Without --always, nothing is sent about runs that succeeded. Secrets are in files: arguments can be read by all users.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import uuid
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen


def text_of(summary: dict[str, Any]) -> str:
    """Return a line for the command, and one per run."""
    lines = [f"quaymirror: {summary['result']} (exit code {summary['exit_code']})"]
    if summary["error"]:
        lines.append(summary["error"])

    for run in summary["runs"]:
        counts = ", ".join(f"{count} {name}" for name, count in run["images"].items() if count)
        lines.append(f"{', '.join(run['jobs']) or run['server']} to {run['target']}: {counts or 'no images'}")
        changes = ", ".join(f"{count} {name}" for name, count in (run["changes"] or {}).items() if count)
        if changes:
            lines.append(f"  at the source: {changes}")

        if run["problem"]:
            lines.append(f"  {run['problem']}")

    return "\n".join(lines)


def send_mail(text: str, address: str, sendmail: str) -> None:
    """Hand a message to the local mail server."""
    message = EmailMessage()
    message["To"], message["Subject"] = address, text.splitlines()[0]
    message.set_content(text)
    subprocess.run([sendmail, "-t", "-i"], input=message.as_bytes(), check=True)


def send_json(url: str, body: dict[str, str], method: str = "POST", token: str = "") -> None:
    """Send a JSON object; an answer other than 2xx is an error."""
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    with urlopen(Request(url, json.dumps(body).encode(), headers, method=method), timeout=30):
        pass


def main() -> None:
    """Send what standard input says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("channel", choices=["mail", "slack", "matrix"])
    parser.add_argument("where")
    parser.add_argument("room", nargs="?", default="")
    parser.add_argument("--always", action="store_true")
    parser.add_argument("--sendmail", default="/usr/sbin/sendmail")
    given = parser.parse_args()
    summary = json.load(sys.stdin)
    if summary["exit_code"] == 0 and not given.always:
        return

    text = text_of(summary)
    if given.channel == "mail":
        send_mail(text, given.where, given.sendmail)
        return

    url, *rest = Path(given.where).read_text(encoding="utf-8").split()
    if given.channel == "slack":
        send_json(url, {"text": text})
        return

    path = f"/_matrix/client/v3/rooms/{quote(given.room, safe='')}/send/m.room.message/{uuid.uuid4()}"
    send_json(url.rstrip("/") + path, {"msgtype": "m.text", "body": text}, "PUT", rest[0])


if __name__ == "__main__":
    main()
