"""Strange files in place of those of snapshots: each command has one end, and nothing else is touched."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import Done, run
from organizations import TAG, small_image

import quaymirror
from quaymirror import Options, Selection
from quaymirror.store.fsops import Fsync
from quaymirror.testing import QuayServer, Registry

OUTSIDE = "outside"


def directory(path: Path) -> None:
    path.unlink(missing_ok=True)
    (path / "inner.json").mkdir(parents=True)


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def socket_of_a_process(path: Path) -> None:
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as made:
        here = os.open(path.parent, os.O_RDONLY)
        try:
            made.bind(f"/proc/self/fd/{here}/{path.name}")  # the whole path may be too long
        finally:
            os.close(here)


def link(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path.parents[3] / OUTSIDE / "index.json")


def link_to_a_directory(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path.parents[3] / OUTSIDE)


def link_to_itself(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40] if path.exists() else b'{"snap')


def huge(path: Path) -> None:
    with path.open("ab") as file:
        file.truncate(2**40)


def foreign_digest(path: Path) -> None:
    document = json.loads(path.read_text())
    for entry in document["set"].values():
        entry["digest"] = f"sha256:{'0' * 64}"

    path.write_text(json.dumps(document))


FILES: dict[str, Callable[[Path], object]] = {
    "truncated": truncated,
    "empty": lambda path: path.write_bytes(b""),
    "no JSON": lambda path: path.write_bytes(b"\xff\x00 [[["),
    "another document": lambda path: path.write_text('{"snapshot_version": 1, "set": []}'),
    "a directory": directory,
    "a pipe": pipe,
    "a socket": socket_of_a_process,
    "a link to the outside": link,
    "a link to a directory": link_to_a_directory,
    "a link to itself": link_to_itself,
    "huge": huge,
    "a foreign digest": foreign_digest,
}
NO_FILES = {"a directory", "a pipe", "a socket", "a link to the outside", "a link to a directory", "a link to itself"}


@dataclass(frozen=True)
class Place:
    """A copy of a mirror with three snapshots, beside another directory."""

    path: Path
    server: QuayServer

    @property
    def snapshots(self) -> Path:
        return self.path / "mirror/.quaymirror/snapshots"

    def file(self, number: int) -> Path:
        """Return the file of a snapshot."""
        found = {json.loads(path.read_text()).get("number"): path for path in self.snapshots.glob("*.json")}
        return found[number]

    def lose_state(self) -> None:
        for path in self.snapshots.parent.glob("state.db*"):
            path.unlink()

    async def read(self) -> dict[str, Done]:
        """Run the commands that read snapshots, and return their ends."""
        return {
            words[0]: await self.run(*words)
            for words in (
                ("snapshots", "./mirror", "--json"),
                ("diff", "./mirror"),
                ("list", "./mirror", "--at", "previous"),
                ("export", "./mirror", "--at", "previous", "--to", "media", "--fsync", "never"),
                ("checkout", "./mirror", "previous", "./checkout"),
            )
        }

    async def write(self) -> dict[str, Done]:
        """Run the commands that write to the mirror, and return their ends."""
        places = ("--server", self.server.url, "--to", "mirror", "--full-check", "--progress", "none")
        return {
            words[0]: await self.run(*words)
            for words in (
                ("sync", "kolla", "*", TAG, *places, "--fsync", "never"),
                ("rollback", "./mirror", "--to", "previous"),
                ("prune", "./mirror", "--yes", "--keep-last", "1"),
            )
        }

    async def run(self, *words: str) -> Done:
        """Run a command, and check that it has one end."""
        done = await run(*words, cwd=self.path)
        assert done.returncode in (0, 2, 6, 8), done.stderr
        if done.returncode:
            *notices, line = done.stderr.splitlines()
            assert len(line) < 400
            assert not notices or "restored from" in "".join(notices)

        outside = self.path / OUTSIDE
        assert {path.name: path.read_text() for path in outside.iterdir()} == {"index.json": "{}", "oci-layout": "{}"}
        return done

    async def count(self) -> int:
        return len(json.loads((await self.run("snapshots", "./mirror", "--json")).stdout))


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    registry = Registry()
    organization = registry.organization("kolla")
    async with QuayServer(registry) as server:
        for night in range(3):
            organization.repository("nova").push(TAG, small_image(f"nova {night}"))
            options = Options.of(server=server.url, full_check_every=0, fsync=Fsync.NEVER)
            await quaymirror.sync(Selection("kolla", "*", TAG), tmp_path / "mirror", options)

        (tmp_path / OUTSIDE).mkdir()
        for name in ("index.json", "oci-layout"):
            (tmp_path / OUTSIDE / name).write_text("{}")

        yield Place(tmp_path, server)


@pytest.mark.parametrize("what", FILES)
async def test_a_strange_file_of_a_snapshot_disturbs_no_reader_and_is_named_to_writers(place: Place, what: str) -> None:
    FILES[what](place.file(3))
    assert {name: done.returncode for name, done in (await place.read()).items()} == dict.fromkeys(
        ("snapshots", "diff", "list", "export", "checkout"), 0
    )
    for done in (await place.write()).values():
        if what in NO_FILES:
            assert (done.returncode, "not a regular file: remove it" in done.stderr) == (8, True)
        else:
            assert done.returncode == 0


@pytest.mark.parametrize("what", FILES)
async def test_without_the_state_a_strange_file_costs_its_snapshot_only(place: Place, what: str) -> None:
    FILES[what](place.file(3))
    place.lose_state()
    await place.read()
    await place.run("hold", "./mirror", f"kolla/nova:{TAG}")
    assert await place.count() == (3 if what == "a foreign digest" else 2)
    assert (await place.write())["sync"].returncode == 0


@pytest.mark.parametrize("what", sorted(set(FILES) - {"a foreign digest"}))
async def test_a_strange_file_of_held_names_is_named(place: Place, what: str) -> None:
    await place.run("hold", "./mirror", f"kolla/nova:{TAG}")
    FILES[what](place.snapshots / "holds.json")
    done = await place.run("unhold", "./mirror", "*:*")
    assert (done.returncode, "not a regular file: remove it" in done.stderr) == (
        (8, True) if what in NO_FILES else (0, False)
    )


@pytest.mark.parametrize("what", sorted(set(FILES) - {"a foreign digest", "truncated", "huge"}))
async def test_what_is_in_place_of_a_checkout_is_neither_followed_nor_in_the_way_of_pruning(
    place: Place, what: str
) -> None:
    FILES[what](place.snapshots / place.file(1).stem)
    done = await place.run("prune", "./mirror", "--yes", "--keep-last", "1")
    assert done.returncode == 0, done.stderr
