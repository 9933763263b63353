"""Each situation of the table ends with its message, its exit code and the class of error that reports name."""

from __future__ import annotations

import json
import re
import ssl
from pathlib import Path

import pytest
import trustme
from commands import run
from organizations import TAG
from receiver import Receiver
from situations import GROUPS, Scene, Situation
from trouble import two_images

from quaymirror import errors
from quaymirror.testing import QuayServer

ROWS = [row for rows in GROUPS.values() for row in rows]
# Other tests show them: they take a minute of waiting, a registry of another kind, or never end a command themselves.
ELSEWHERE = {
    "BucketDenied", "BucketFailed", "EmitFailed",  # test_buckets.py, test_derived.py
    "HostDown", "RangeRefused", "RateLimited", "TimedOut",  # unit/http, faults/test_patience.py
    "PullsExhausted",  # integration/test_catalogs.py
    "ConnectFailed", "ContentError", "QuaymirrorError", "TransportError",  # bases of others
    "ConfigError", "InvalidName", "SelectionEmpty", "TargetRefused",  # test_mistakes.py
    "LockHeld", "PlatformNotFound",  # end a command before it has a report
}  # fmt: skip


def pattern(message: str) -> re.Pattern[str]:
    return re.compile(".+?".join(map(re.escape, message.split("…"))))


def tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.title)
async def test_a_situation_ends_with_its_message(row: Situation, tmp_path: Path) -> None:
    async with QuayServer(two_images(), tls=tls() if row.tls else None) as server, Receiver() as target:
        names = {"tag": TAG, "host": server.host, "target": target.address, "target_host": target.host}
        env = {"QUAYMIRROR_SERVER": server.url, **row.env}
        if row.first:
            await run(*row.first.format(**names).split(), cwd=tmp_path, env=env, check=0)

        scene = Scene(server, target, tmp_path)
        row.prepare(scene)
        for name, text in row.files.items():
            (tmp_path / name).write_text(text.replace("{target_host}", target.host))
            (tmp_path / name).chmod(0o600)

        words = row.command.format(**names).split()
        if row.error:
            words += ["--report", "report.json"]

        done = await run(*words, cwd=tmp_path, env=env)
        for file in scene.held:
            file.close()

    output = done.stderr + done.stdout
    assert any(pattern(row.message).search(line) for line in output.splitlines()), output
    assert done.returncode == row.code, output
    if row.error:
        report = json.loads((tmp_path / "report.json").read_text())
        found = [report.get("error"), *(outcome["error"] for outcome in report["outcomes"])]
        assert row.error in {error["type"] for error in found if error}, report

    if row.code in (2, 4, 7, 8) or (row.error and getattr(errors, row.error, errors.ConfigError).is_lasting):
        assert "run the same command again" not in output


def test_each_class_of_errors_is_in_the_table_or_in_another_test() -> None:
    classes = {
        name
        for name in errors.__all__
        if isinstance(kind := getattr(errors, name), type) and issubclass(kind, errors.QuaymirrorError)
    }
    shown = {row.error for row in ROWS}
    assert classes - shown == ELSEWHERE
