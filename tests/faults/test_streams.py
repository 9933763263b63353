"""Outputs that are full, closed, or not files: the run ends cleanly, with the right exit code."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import sys
import threading
from pathlib import Path

import anyio
import commands
import layouts
import pytest
from organizations import TAG, kolla
from trouble import two_images

from quaymirror.testing import QuayServer, make_image, make_layer

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.is_char_device(), reason="there is no /dev/full here")


async def shell(text: str, server: QuayServer, cwd: Path) -> commands.Done:
    """Run a line of a shell in which `quaymirror` and `SYNC` stand for themselves."""
    command = shlex.join([sys.executable, "-m", "quaymirror"])
    line = text.replace("SYNC", f"quaymirror sync kolla '*' {TAG} --progress plain").replace("quaymirror", command)
    done = await anyio.to_thread.run_sync(
        lambda: subprocess.run(
            ["bash", "-c", line],
            cwd=cwd,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=50,
            env={**os.environ, "QUAYMIRROR_SERVER": server.url},
            check=False,
        )
    )
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr
    return done


@needs_full
@pytest.mark.parametrize(
    ("line", "code"),
    [
        (f"quaymirror list kolla '*' {TAG} > /dev/full", 6),
        (f"quaymirror list kolla '*' {TAG} --json > /dev/full", 6),
        ("SYNC --progress json > /dev/full", 6),
        ("SYNC --report /dev/full", 6),
        ("SYNC --metrics-textfile /dev/full", 2),
        # Failures of standard error don't change the result.
        ("SYNC 2> /dev/full", 0),
        ("SYNC --log-file /dev/full", 0),
    ],
)
async def test_an_output_that_can_not_be_written_changes_the_exit_code(line: str, code: int, tmp_path: Path) -> None:
    async with QuayServer(two_images()) as server:
        done = await shell(line, server, tmp_path)

    assert done.returncode == code, done.stderr
    assert stat.S_ISCHR(FULL.stat().st_mode), "a file stands in the place of a device"


@pytest.mark.parametrize(
    "line",
    [
        "SYNC --progress json | head -n 1; exit ${PIPESTATUS[0]}",
        "SYNC 2>&1 | head -n 1; exit ${PIPESTATUS[0]}",
        "SYNC 2>&1 | true; exit ${PIPESTATUS[0]}",
        f"SYNC; quaymirror list kolla '*' {TAG} | true; exit ${{PIPESTATUS[0]}}",
        f"SYNC; quaymirror list kolla '*' {TAG} --json | true; exit ${{PIPESTATUS[0]}}",
    ],
)
async def test_a_reader_that_goes_ends_the_run_and_is_no_bug(line: str, tmp_path: Path) -> None:
    registry, images = kolla(12)
    async with QuayServer(registry) as server:
        done = await shell(line, server, tmp_path)
        assert done.returncode in (0, 141), done.stderr
        assert (await shell("SYNC", server, tmp_path)).returncode == 0

    assert len(layouts.names(tmp_path / "mirror")) == len(images)
    layouts.check(tmp_path / "mirror")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
async def test_closed_streams_are_survived(closed: str, tmp_path: Path) -> None:
    async with QuayServer(two_images()) as server:
        done = await shell(f"SYNC {closed}", server, tmp_path)

    assert done.returncode == 0
    assert len(layouts.names(tmp_path / "mirror")) == 2


async def test_a_report_goes_into_a_pipe_as_it_goes_into_a_file(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", list[str]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    async with QuayServer(two_images()) as server:
        done = await shell(f"SYNC --report {pipe} && quaymirror sync kolla --report /dev/stdout", server, tmp_path)

    reader.join(10)
    assert read[0].startswith("{")
    assert '"schema_version"' in done.stdout
    assert pipe.is_fifo()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
async def test_characters_outside_of_the_encoding_are_escaped(encoding: str, tmp_path: Path) -> None:
    registry = two_images(make_image([make_layer("x", 2000)], labels={"name": "\u4e2d\u00e9"}))
    async with QuayServer(registry) as server:
        done = await shell(f"PYTHONIOENCODING={encoding} quaymirror info kolla nova {TAG}", server, tmp_path)

    assert done.returncode == 0, done.stderr
    assert "name" in done.stdout
