"""`kill -9` between any two steps on the disk: content is correct, reported images are there, the rest resumes."""

from __future__ import annotations

import random
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import anyio.lowlevel
import layouts
import peers
import pytest
import pytest_asyncio
from crashes import KILLED, Zygote, blobs_there, check_whole, requested, zygote
from organizations import TAG, kolla, small_image

from quaymirror.store import extents
from quaymirror.testing import QuayServer, Registry, SourceManifest, make_image, make_index, make_layer

# Above this a blob is written in several goes, and resumed.
LARGE = 1_200_000


@pytest_asyncio.fixture
async def commands(tmp_path: Path) -> AsyncIterator[Zygote]:
    async with zygote(tmp_path / "streams") as ready:
        yield ready


@dataclass
class Night:
    """A server, and the expected content of its mirror."""

    registry: Registry
    images: dict[str, SourceManifest]

    def push(self, name: str, image: SourceManifest) -> None:
        self.images[name] = image
        self.registry.organization("kolla").repository(name).push(TAG, image)

    @property
    def promised(self) -> dict[str, str]:
        return {f"kolla/{name}:{TAG}": image.digest for name, image in self.images.items()}

    @property
    def contents(self) -> set[str]:
        nodes = {node.digest for image in self.images.values() for node in image.walk()}
        return nodes | {digest for image in self.images.values() for digest in image.all_blobs()}


def first_night() -> Night:
    night = Night(Registry(), {})
    night.push("base", small_image("base", 2048, LARGE))
    night.push("nova", small_image("nova", 2048))
    return night


def second_night(night: Night) -> None:
    """One image stays, one moves, two are new: one for two platforms, one with a large layer that comes in pieces."""
    amd = make_image([make_layer("shared", 4096), make_layer("amd", 4096)], platform="linux/amd64")
    arm = make_image([make_layer("shared", 4096), make_layer("arm", 4096)], platform="linux/arm64")
    night.push("nova", small_image("nova moved", 2048, 3000))
    night.push("multi", make_index([(amd, "linux/amd64"), (arm, "linux/arm64")]))
    night.push("neutron", small_image("neutron", 2048, LARGE + 1))


def words(server: QuayServer, mirror: Path, *more: str) -> tuple[str, ...]:
    one = ("--concurrency", "1", "--layer-concurrency", "1", "--progress", "none")
    return ("sync", "kolla", "*", TAG, "--server", server.url, "--to", str(mirror), *one, *more)


async def steps_of(commands: Zygote, server: QuayServer, mirror: Path, trace: Path) -> list[str]:
    done = await commands.run(*words(server, mirror), hook={"trace": {"file": str(trace)}})
    assert done.code == 0, done.stderr
    return trace.read_text().splitlines()


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("before_it", "every"),
    [
        ("nothing", 5),
        pytest.param("nothing", 1, marks=pytest.mark.soak),
        pytest.param("a mirror", 1, marks=pytest.mark.soak),
    ],
)
async def test_a_run_killed_at_any_step_leaves_a_consistent_mirror_that_the_next_run_completes(
    tmp_path: Path, commands: Zygote, before_it: str, every: int
) -> None:
    night, start = first_night(), tmp_path / "start"
    async with QuayServer(night.registry) as server:
        promised: dict[str, str] = {}
        if before_it == "a mirror":
            await steps_of(commands, server, start, tmp_path / "first")
            promised = night.promised
            second_night(night)

        shutil.copytree(start, tmp_path / "trial") if promised else None
        steps = await steps_of(commands, server, tmp_path / "trial", tmp_path / "second")
        notes = set()
        for number in range(0, len(steps), every):
            # "After" a step and "before" the next one are much the same: onto a mirror they take turns.
            for when in (("before", "after")[number % 2 if promised else 0],):
                mirror, note = tmp_path / f"{when}-{number}", tmp_path / f"{when}-{number}.note"
                if promised:
                    shutil.copytree(start, mirror)

                hook = {"kill": {"number": number, "when": when, "note": str(note)}}
                killed = await commands.run(*words(server, mirror), hook=hook)
                # Another order of the tasks can make a step fewer: then it ended before the last of them.
                assert killed.code == KILLED or (killed.code == 0 and number >= len(steps) - 3)
                if killed.code == KILLED:
                    notes.add(f"{number} {note.read_text()}")

                await check_recovery(commands, server, mirror, night, promised)
                shutil.rmtree(mirror)

    assert len(notes) >= 60 // every, "too few points to prove anything"


async def heard_out(server: QuayServer) -> None:
    """Let the server read the last requests of a killed run, so that they don't count for the next one."""
    for _ in range(50):
        await anyio.lowlevel.checkpoint()

    server.reset_records()


async def check_recovery(
    commands: Zygote, server: QuayServer, mirror: Path, night: Night, promised: dict[str, str]
) -> None:
    complete = check_whole(mirror, promised) if mirror.exists() else set()
    await heard_out(server)
    again = await commands.run(*words(server, mirror))
    assert again.code == 0, again.stderr
    asked = requested(server)
    assert not complete & asked.keys(), "fetched again although it was complete"
    assert not asked or max(asked.values()) == 1
    assert layouts.names(mirror) == night.promised
    assert night.contents <= check_whole(mirror, night.promised)
    assert not list((mirror / ".quaymirror/ingest").iterdir()), "left by the crash, and not continued"
    assert not list(mirror.glob(".*.new"))


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("helps", [False, True], ids=["threads", "helper"])
async def test_a_blob_of_a_killed_run_continues_with_the_missing_segments(
    tmp_path: Path, commands: Zygote, helps: bool
) -> None:
    # Bytes that the helper writes are no steps of this process: it needs more segments for as many steps.
    size, piece = 3_200_000, 300_000 if helps else 600_000
    night = Night(Registry(), {})
    night.push("base", small_image("in pieces", size))
    layer = night.images["base"].blobs[1]
    async with QuayServer(night.registry) as server:
        command = (*words(server, tmp_path / "trial"), "--layer-concurrency", "3")
        trace = tmp_path / "trace"
        done = await commands.run(*command, hook={"trace": {"file": str(trace)}}, least_piece=piece, helps=helps)
        assert done.code == 0, done.stderr
        steps = trace.read_text().splitlines()
        assert sum(step.endswith(".ranges") for step in steps) > 6
        resumed = 0
        for number in range(len(steps)):
            mirror = tmp_path / f"mirror-{number}"
            command = (*words(server, mirror), "--layer-concurrency", "3")
            hook = {"kill": {"number": number, "when": "before", "note": str(tmp_path / "note")}}
            await commands.run(*command, hook=hook, least_piece=piece, helps=helps)
            ranges = mirror / f".quaymirror/ingest/{layer.digest.replace(':', '-')}.ranges"
            missing = None
            if ranges.exists():
                there = extents.parse(ranges.read_bytes(), layer.size)
                missing = sum(end - start for start, end in there.gaps(layer.size))

            await heard_out(server)
            again = await commands.run(*command, least_piece=piece, helps=helps)
            assert again.code == 0, again.stderr
            sent = [r.body_bytes_sent for r in server.requests if r.listener == "cdn" and layer.digest[7:] in r.path]
            assert missing is None or sum(sent) == missing
            resumed += missing is not None and 0 < missing < layer.size
            assert check_whole(mirror, night.promised) == night.contents
            assert not list((mirror / ".quaymirror/ingest").iterdir())
            shutil.rmtree(mirror)

    assert resumed > 6, "too few points to prove anything"


@pytest.mark.interop
@pytest.mark.timeout(120)
async def test_skopeo_reads_every_image_that_is_named_after_a_kill(tmp_path: Path, commands: Zygote) -> None:
    peers.require("skopeo")
    night, start = first_night(), tmp_path / "start"
    async with QuayServer(night.registry) as server:
        await steps_of(commands, server, start, tmp_path / "first")
        second_night(night)
        shutil.copytree(start, tmp_path / "trial")
        steps = await steps_of(commands, server, tmp_path / "trial", tmp_path / "second")
        for number in range(0, len(steps), 6):
            mirror = tmp_path / f"mirror-{number}"
            shutil.copytree(start, mirror)
            hook = {"kill": {"number": number, "when": "before", "note": str(tmp_path / "note")}}
            await commands.run(*words(server, mirror), hook=hook)
            for name in layouts.names(mirror):
                platform = ("--override-os", "linux", "--override-arch", "amd64")
                peers.skopeo(*platform, "copy", "-q", f"oci:{mirror}:{name}", f"dir:{tmp_path / f'copy-{number}'}")


@pytest.mark.timeout(180)
@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5, 16))
async def test_thirty_kills_at_random_moments_under_load_lose_nothing(
    seed: int, tmp_path: Path, commands: Zygote
) -> None:
    registry, images = kolla(24, layer_size=300_000)
    night, mirror = Night(registry, images), tmp_path / "mirror"
    moments, kills = random.Random(seed), 0
    async with QuayServer(registry) as server:
        command = ("sync", "kolla", "*", TAG, "--server", server.url, "--to", str(mirror), "--progress", "none")
        while kills < 30:
            complete = check_whole(mirror, {}) if mirror.exists() else set()
            await heard_out(server)
            killed = await commands.run(*command, kill_after=moments.uniform(0.02, 0.5))
            assert not complete & requested(server).keys()
            if killed.code == 0:
                assert blobs_there(mirror) == night.contents
                shutil.rmtree(mirror)
                continue

            assert killed.code == KILLED, killed.stderr
            kills += 1

        assert (await commands.run(*command)).code == 0

    assert layouts.names(mirror) == night.promised
    assert check_whole(mirror, night.promised) == night.contents


async def test_ten_kills_in_a_row_end_in_a_complete_mirror(tmp_path: Path, commands: Zygote) -> None:
    night, mirror, complete = first_night(), tmp_path / "mirror", 0
    async with QuayServer(night.registry) as server:
        for number in range(10):
            hook = {"kill": {"number": 14 + number, "when": "after", "note": str(tmp_path / "note")}}
            await commands.run(*words(server, mirror), hook=hook)
            there = len(check_whole(mirror, {}))
            assert there >= complete, "a crash took something away"
            complete = there

        await check_recovery(commands, server, mirror, night, {})


@pytest.mark.soak
@pytest.mark.timeout(120)
async def test_a_prune_killed_at_any_step_deletes_nothing_that_is_needed_and_the_next_one_completes(
    tmp_path: Path, commands: Zygote
) -> None:
    night, start = first_night(), tmp_path / "start"
    organization = night.registry.organization("kolla")
    async with QuayServer(night.registry) as server:
        organization.repository("retired").push(TAG, small_image("retired", 2048, 3000))
        assert (await commands.run(*words(server, start))).code == 0
        organization.repository("retired").delete_tag(TAG)
        second_night(night)
        assert (await commands.run(*words(server, start, "--full-check"))).code == 0

    prune = ("--grace", "0", "--yes", "--ignore-max-delete", "--keep-last", "1")
    shutil.copytree(start, tmp_path / "trial")
    trace = tmp_path / "trace"
    assert (
        await commands.run("prune", str(tmp_path / "trial"), *prune, hook={"trace": {"file": str(trace)}})
    ).code == 0
    assert check_whole(tmp_path / "trial", night.promised) == night.contents
    steps = trace.read_text().splitlines()
    assert sum(step.startswith("unlink") for step in steps) >= 6
    for number in range(len(steps)):
        mirror, note = tmp_path / f"mirror-{number}", tmp_path / "note"
        shutil.copytree(start, mirror)
        hook = {"kill": {"number": number, "when": "before", "note": str(note)}}
        assert (await commands.run("prune", str(mirror), *prune, hook=hook)).code == KILLED
        assert night.contents <= check_whole(mirror, night.promised)
        assert (await commands.run("verify", str(mirror))).code == 0
        assert (await commands.run("prune", str(mirror), *prune)).code == 0
        assert check_whole(mirror, night.promised) == night.contents
        assert layouts.names(mirror) == night.promised
        shutil.rmtree(mirror)
