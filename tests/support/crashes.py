"""Processes that end at the worst moment, and the checks after that."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import layouts
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from quaymirror.testing import QuayServer

KILLED = -9


@dataclass(slots=True)
class Done:
    """The end of a command."""

    code: int
    stdout: str
    stderr: str


@dataclass(slots=True)
class Zygote:
    """Runs quaymirror commands, one after the other, each in a process of its own that starts in milliseconds."""

    process: Process
    directory: Path
    _answers: BufferedByteReceiveStream = field(init=False)

    def __post_init__(self) -> None:
        assert self.process.stdout is not None
        self._answers = BufferedByteReceiveStream(self.process.stdout)

    async def run(
        self,
        *arguments: str,
        hook: Mapping[str, Any] | None = None,
        kill_after: float | None = None,
        least_piece: int | None = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Done:
        """Run a command whose blobs come in pieces of `least_piece` bytes, and check that it shows no traceback."""
        outputs = {name: self.directory / name for name in ("stdout", "stderr")}
        order = {"arguments": arguments, "hook": hook or {}, "kill_after": kill_after, "least_piece": least_piece}
        place = {"cwd": str(cwd or "."), "env": dict(env or {})}
        line = json.dumps({**order, **place, **{name: str(path) for name, path in outputs.items()}})
        assert self.process.stdin is not None
        await self.process.stdin.send(line.encode() + b"\n")
        answer = json.loads(await self._answers.receive_until(b"\n", 4096))
        done = Done(answer["code"], outputs["stdout"].read_text(), outputs["stderr"].read_text())
        assert "Traceback" not in done.stderr, done.stderr
        assert "internal error" not in done.stderr, done.stderr
        return done


@asynccontextmanager
async def zygote(directory: Path) -> AsyncIterator[Zygote]:
    """Start a `Zygote` that keeps outputs in `directory`; it ends with the context."""
    directory.mkdir(exist_ok=True)
    program = Path(__file__).with_name("zygote.py")
    async with await anyio.open_process([sys.executable, str(program)], stderr=None, stdin=subprocess.PIPE) as process:
        yield Zygote(process, directory)
        assert process.stdin is not None
        await process.stdin.aclose()
        await process.wait()


def blobs_there(mirror: Path) -> set[str]:
    """Return the digests of everything that has its final name, after looking that all of it is right."""
    found = {f"{path.parent.name}:{path.name}" for path in (mirror / "blobs").rglob("*") if path.is_file()}
    for digest in found:
        layouts.blob(mirror, digest)

    return found


def check_whole(mirror: Path, promised: Mapping[str, str]) -> set[str]:
    """Check that `mirror` is correct and has the images in `promised` (names and digests), and return its images."""
    if not (mirror / "index.json").exists():
        assert not promised
        return blobs_there(mirror)

    layouts.check(mirror)
    names = layouts.names(mirror)
    assert promised.keys() <= names.keys(), "what a report called mirrored is gone"
    return blobs_there(mirror)


def requested(server: QuayServer) -> Counter[str]:
    """Return how often the registry was asked for each blob and manifest, by digest; tags and referrers are free."""
    paths = [request.path.rpartition("/") for request in server.requests if request.listener == "quay"]
    return Counter(name for place, _, name in paths if name.startswith("sha256:") and not place.endswith("/referrers"))
