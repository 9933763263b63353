"""Every command under conditions that none of them expects: it succeeds, or ends with one line and the right code.

The commands are those that the command line has, so that a new one takes part.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio.to_thread
import pytest
from commands import Done, run
from every_command import every_command, prepare
from organizations import kolla
from receiver import Receiver
from strangers import NOBODY, open_directory, stranger

from quaymirror.testing import QuayServer

FILES = ("quaymirror.toml", "images.txt", "skopeo.yaml", "lock.json", "shard.json")
# What another user may not read or enter.
CLOSED = {
    "nothing, but may write nothing either": (),
    "the state of the mirror": ("mirror/.quaymirror",),
    "the blobs of the mirror": ("mirror/blobs",),
    "anything": ("mirror", "parts", "pushed", *FILES),
}


@dataclass(frozen=True)
class Scene:
    """A place with everything that commands need, and a directory `out` in it to write to."""

    place: Path
    server: str
    registry: str

    @property
    def out(self) -> Path:
        return self.place / "out"

    @property
    def env(self) -> dict[str, str]:
        return {"QUAYMIRROR_SERVER": self.server, "HOME": str(self.out)}

    def commands(self, *, briefly: bool = False) -> list[tuple[str, ...]]:
        places = {"place": self.place, "out": self.out, "server": self.server, "registry": self.registry}
        return list(every_command(briefly=briefly, **places))


@asynccontextmanager
async def scene(place: Path, count: int = 3) -> AsyncIterator[Scene]:
    async with QuayServer(kolla(count)[0]) as server, Receiver() as registry:
        await prepare(place, server.url, registry.address)
        (place / "out").mkdir(exist_ok=True)
        yield Scene(place, server.url, registry.address)


def lines(stderr: str) -> list[str]:
    """Return what a command says of its end."""
    return [line for line in stderr.splitlines() if line.startswith("quaymirror: ")]


def is_told_of_descriptors(code: int, stderr: str) -> bool:
    return code in (2, 6) and len(lines(stderr)) == 1 and "ulimit -n" in lines(stderr)[0]


def is_told_of_a_run(words: tuple[str, ...], code: int, stderr: str) -> bool:
    """Return whether `watch` says that an earlier run had too few descriptors, for its work or to report its end."""
    if words[0] != "watch":
        return False

    return (code == 6 and "ulimit -n" in stderr) or (code == 5 and len(lines(stderr)) == 1 and "can't write" in stderr)


@pytest.mark.parametrize(
    ("descriptors", "briefly"),
    [(7, True), *(pytest.param(number, False, marks=pytest.mark.soak) for number in (64, 32, 16, 12, 8, 7, 6, 5))],
)
@pytest.mark.timeout(300)
async def test_few_descriptors_are_enough_or_the_line_says_what_to_raise(
    descriptors: int, briefly: bool, tmp_path: Path
) -> None:
    wrong: dict[str, object] = {}
    async with scene(tmp_path) as it:
        for words in it.commands(briefly=briefly):
            done = await run(*words, cwd=it.out, env=it.env, descriptors=descriptors)
            end = done.returncode, done.stderr
            is_told = is_told_of_descriptors(*end) or is_told_of_a_run(words, *end)
            if not (done.returncode == 0 or (descriptors < 64 and is_told)):
                wrong[" ".join(words)] = done.returncode, done.stderr[-500:]

    assert not wrong


def limited(words: tuple[str, ...], it: Scene) -> subprocess.CompletedProcess[str]:
    """Run a command with `ulimit -n 64`, in a process that imports everything itself."""
    return subprocess.run(
        [sys.executable, "-m", "quaymirror", *words], cwd=it.out, env={**os.environ, **it.env}, capture_output=True,
        text=True, errors="replace", timeout=120, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
    )  # fmt: skip


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_with_64_descriptors_every_command_succeeds_or_says_what_to_raise(tmp_path: Path) -> None:
    wrong: dict[str, object] = {}
    async with scene(tmp_path, count=60) as it:
        for words in it.commands():
            done = await anyio.to_thread.run_sync(partial(limited, words, it))
            if done.returncode != 0 and not is_told_of_descriptors(done.returncode, done.stderr):
                wrong[" ".join(words)] = done.returncode, done.stderr[-500:]

    assert not wrong


def reason(done: Done) -> list[str]:
    """Return the one line; `status` shows its problem below the job."""
    return lines(done.stderr) or [line for line in done.stdout.splitlines() if "permission denied" in line]


@pytest.mark.parametrize(
    ("closed", "briefly"),
    [("anything", True), *(pytest.param(each, False, marks=pytest.mark.soak) for each in CLOSED)],
)
@pytest.mark.timeout(300)
async def test_another_user_than_the_owner_gets_a_result_or_a_line(closed: str, briefly: bool) -> None:
    wrong: dict[str, object] = {}
    with open_directory() as place:
        async with scene(place) as it:
            if os.geteuid() == 0:
                os.chown(it.out, NOBODY, NOBODY)

            for name in CLOSED[closed]:
                (place / name).chmod(0o700 if os.geteuid() == 0 else 0)

            with stranger(it.out) as run_as_stranger:
                for words in it.commands(briefly=briefly):
                    done = await run_as_stranger(*words, env=it.env)
                    is_one_line = len(reason(done)) == 1 and "no OCI image layout" not in reason(done)[0]
                    # `info` names the reason for each image.
                    is_partial = done.returncode == 3 and words[0] == "info" and "permission denied" in done.stdout
                    if not (done.returncode == 0 or is_partial or (done.returncode in (2, 6, 8) and is_one_line)):
                        wrong[" ".join(words)] = done.returncode, done.stderr[-500:]

            for name in CLOSED[closed]:
                (place / name).chmod(0o755)

    assert not wrong
