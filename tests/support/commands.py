"""The command as a user meets it: a process, its streams, its exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anyio

Done = subprocess.CompletedProcess[str]


async def run(*arguments: str, cwd: Path, check: int | None = None, env: dict[str, str] | None = None) -> Done:
    """Run quaymirror, and check that its output has no traceback and no escape sequence."""
    command = [sys.executable, "-m", "quaymirror", *arguments]
    done = await anyio.to_thread.run_sync(
        lambda: subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=50, env={**os.environ, **(env or {})}, check=False
        )
    )
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    if check is not None:
        assert done.returncode == check, done.stderr

    return done
