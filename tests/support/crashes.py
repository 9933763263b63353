"""Processes that end at the worst moment, and the checks after that."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import commands
import layouts

from quaymirror.testing import QuayServer

KILLED = -9


@dataclass(slots=True)
class Done:
    """The end of a command."""

    code: int
    stdout: str
    stderr: str


class Zygote:
    """Runs quaymirror commands, each in a process of its own that starts in milliseconds."""

    async def run(self, *arguments: str, cwd: Path | None = None, **how: Any) -> Done:
        """Run a command as `commands.run` does, and check that it shows no internal error."""
        done = await commands.run(*arguments, cwd=cwd or Path.cwd(), **how)
        assert "internal error" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)


@asynccontextmanager
async def zygote(_: Path) -> AsyncIterator[Zygote]:
    """Return what starts commands."""
    yield Zygote()


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


async def kill_after(blobs: int, process: asyncio.subprocess.Process) -> None:
    """Kill a run, whose events are lines of its standard output, once it has brought some blobs."""
    assert process.stdout is not None
    async for line in process.stdout:
        blobs -= b'"blob_finished"' in line
        if blobs <= 0:
            break

    process.kill()
    await process.wait()
