"""`kill -9` at every step of a publication, a rollback and a retention: readers see whole sets only."""

from __future__ import annotations

import json
import random
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import layouts
import pytest
import pytest_asyncio
from crashes import KILLED, Zygote, zygote
from organizations import TAG, small_image

from quaymirror.testing import QuayServer, Registry


@pytest_asyncio.fixture
async def commands(tmp_path: Path) -> AsyncIterator[Zygote]:
    async with zygote(tmp_path / "streams") as ready:
        yield ready


def push(registry: Registry, day: str) -> None:
    """Move every tag: the images of a day fit together only."""
    for name in ("keystone", "nova"):
        registry.organization("kolla").repository(name).push(TAG, small_image(f"{name} {day}"))


def images(day: str) -> dict[str, str]:
    return {f"kolla/{name}:{TAG}": small_image(f"{name} {day}").digest for name in ("keystone", "nova")}


def night(server: QuayServer, mirror: Path, *more: str) -> tuple[str, ...]:
    one = ("--concurrency", "1", "--layer-concurrency", "1", "--progress", "none", "--full-check")
    return ("sync", "kolla", "*", TAG, "--server", server.url, "--to", str(mirror), "--publish", "end", *one, *more)


async def killed(
    commands: Zygote, start: Path, step: int, words: Callable[[Path], tuple[str, ...]]
) -> AsyncIterator[tuple[Path, int]]:
    """Iterate over copies of the mirror `start` where a command was killed, each `step` steps later, and its codes.

    `words` returns the command for a mirror. Each copy has to be complete when the caller has done with it.
    """
    place = start.parent
    shutil.copytree(start, place / "trial")
    done = await commands.run(*words(place / "trial"), hook={"trace": {"file": str(place / "trace")}})
    assert done.code == 0, done.stderr
    for number in range(0, len((place / "trace").read_text().splitlines()), step):
        mirror = place / f"mirror-{number}"
        shutil.copytree(start, mirror)
        hook = {"kill": {"number": number, "when": "before", "note": str(place / "note")}}
        yield mirror, (await commands.run(*words(mirror), hook=hook)).code
        layouts.check(mirror)
        shutil.rmtree(mirror)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("step", [15, pytest.param(1, marks=pytest.mark.soak)])
async def test_a_run_killed_before_its_end_publishes_nothing_nor_does_the_opening_of_the_next_one(
    step: int, tmp_path: Path, commands: Zygote
) -> None:
    registry, start = Registry(), tmp_path / "start"
    push(registry, "monday")
    async with QuayServer(registry) as server:
        assert (await commands.run(*night(server, start))).code == 0
        push(registry, "tuesday")
        published: list[bool] = []
        async for mirror, _ in killed(commands, start, step, partial(night, server)):
            seen = layouts.names(mirror)
            assert seen in (images("monday"), images("tuesday"))
            published.append(seen == images("tuesday"))
            layouts.check(mirror)
            # An opening for writing publishes no part of the set, either.
            assert (await commands.run("hold", str(mirror), "kolla/nova:*")).code == 0
            assert (await commands.run("unhold", str(mirror), "*")).code == 0
            assert layouts.names(mirror) in (images("monday"), images("tuesday"))
            assert (await commands.run(*night(server, mirror))).code == 0
            assert layouts.names(mirror) == images("tuesday")

        assert sum(published) < len(published) / 2


class Reader:
    """Reads a mirror in a loop, in a thread of its own, and keeps the sets of images that it has seen."""

    def __init__(self, mirror: Path) -> None:
        self.seen: list[dict[str, str]] = []
        self._mirror = mirror
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _read(self) -> None:
        while not self._ends.is_set():
            found = layouts.names(self._mirror)
            for digest in found.values():
                layouts.blob(self._mirror, digest)

            if not self.seen or self.seen[-1] != found:
                self.seen.append(found)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("runs", [4, pytest.param(50, marks=pytest.mark.soak)])
async def test_a_reader_in_a_loop_sees_complete_sets_only(runs: int, tmp_path: Path, commands: Zygote) -> None:
    registry, mirror, chance = Registry(), tmp_path / "mirror", random.Random(21)
    push(registry, "day 0")
    async with QuayServer(registry) as server:
        assert (await commands.run(*night(server, mirror))).code == 0
        with Reader(mirror) as reader:
            for number in range(1, runs + 1):
                push(registry, f"day {number}")
                hook = {"kill": {"number": chance.randrange(70), "when": "before", "note": str(tmp_path / "note")}}
                await commands.run(*night(server, mirror), hook=hook)

            assert (await commands.run(*night(server, mirror))).code == 0

    days = [images(f"day {number}") for number in range(runs + 1)]
    assert all(found in days for found in reader.seen)
    assert layouts.names(mirror) == days[-1]
    layouts.check(mirror)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.soak)])
async def test_a_rollback_killed_at_any_step_is_done_or_not_begun(step: int, tmp_path: Path, commands: Zygote) -> None:
    registry, start = Registry(), tmp_path / "start"
    push(registry, "monday")
    async with QuayServer(registry) as server:
        assert (await commands.run(*night(server, start))).code == 0
        push(registry, "tuesday")
        assert (await commands.run(*night(server, start))).code == 0

    monday = json.loads((await commands.run("snapshots", str(start), "--json")).stdout)[0]["id"]
    async for mirror, code in killed(commands, start, step, lambda mirror: ("rollback", str(mirror), "--to", monday)):
        assert code == KILLED
        assert layouts.names(mirror) in (images("monday"), images("tuesday"))
        # What is decided in the state shows with the next opening, in the index and in the files.
        assert (await commands.run("unhold", str(mirror), "none/*")).code == 2
        held = json.loads((await commands.run("hold", str(mirror), "--json")).stdout)
        assert len(held) == (2 if layouts.names(mirror) == images("monday") else 0)
        (mirror / ".quaymirror/state.db").unlink()
        assert (await commands.run("rollback", str(mirror), "--to", monday)).code == 0
        assert layouts.names(mirror) == images("monday")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.soak)])
async def test_a_retention_killed_at_any_step_takes_nothing_from_kept_snapshots(
    step: int, tmp_path: Path, commands: Zygote
) -> None:
    registry, start = Registry(), tmp_path / "start"
    async with QuayServer(registry) as server:
        for day in ("monday", "tuesday", "wednesday"):
            push(registry, day)
            assert (await commands.run(*night(server, start))).code == 0

    prune = ("--grace", "0", "--yes")
    async for mirror, code in killed(commands, start, step, lambda mirror: ("prune", str(mirror), *prune)):
        assert code == KILLED
        for at in ("latest", "previous"):
            assert (await commands.run("verify", str(mirror), "--at", at)).code == 0

        assert (await commands.run("prune", str(mirror), *prune)).code == 0
        found = json.loads((await commands.run("snapshots", str(mirror), "--json")).stdout)
        assert [each["content_removed"] is None for each in found] == [False, True, True]
        assert (await commands.run("rollback", str(mirror), "--to", "previous")).code == 0
        assert layouts.names(mirror) == images("tuesday")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.soak)])
async def test_a_removal_killed_at_any_step_is_done_or_not_begun(step: int, tmp_path: Path, commands: Zygote) -> None:
    registry, start = Registry(), tmp_path / "start"
    push(registry, "monday")
    async with QuayServer(registry) as server:
        assert (await commands.run(*night(server, start))).code == 0

    words, rest = ("kolla/nova:*", "--yes"), {f"kolla/keystone:{TAG}": images("monday")[f"kolla/keystone:{TAG}"]}
    async for mirror, killed_with in killed(commands, start, step, lambda mirror: ("remove", str(mirror), *words)):
        assert killed_with == KILLED
        assert layouts.names(mirror) in (images("monday"), rest)
        # The decision in the state shows with the next opening; then the rest of the command has nothing to do.
        code = (await commands.run("remove", str(mirror), *words)).code
        assert code in (0, 2)
        assert layouts.names(mirror) == rest
        found = json.loads((await commands.run("snapshots", str(mirror), "--json")).stdout)
        assert [each["images"] for each in found] == [2, 1]
        (mirror / ".quaymirror/state.db").unlink()
        assert (await commands.run("rollback", str(mirror), "--to", "previous")).code == 0
        assert layouts.names(mirror) == images("monday")
