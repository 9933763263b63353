"""Sets of images in a registry: tags that move at the end of a run, second tags with a date, and the way back."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import peers
import pytest
import pytest_asyncio
from commands import run
from crashes import KILLED, Zygote, zygote
from organizations import TAG, small_image
from receiver import Breakage, Receiver, refuse

from quaymirror.testing import Fault, QuayServer, Registry, Status

NAMES = ("keystone", "nova", "swift")


def push(registry: Registry, day: str, names: tuple[str, ...] = NAMES) -> None:
    for name in names:
        registry.organization("kolla").repository(name).push(TAG, small_image(f"{name} {day}"))


def images(day: str) -> dict[str, bytes]:
    return {name: small_image(f"{name} {day}").raw for name in NAMES}


def tagged(target: Receiver, tag: str = TAG) -> dict[str, bytes]:
    """Return the manifests that readers find by tag."""
    found = {name: target.manifests[f"kolla/{name}"] for name in NAMES}
    return {name: stored[tag][1] for name, stored in found.items() if tag in stored}


def night(server: QuayServer, address: str, *more: str) -> tuple[str, ...]:
    return (
        "sync",
        "kolla",
        "*",
        TAG,
        "--server",
        server.url,
        "--to",
        address,
        "--state",
        "state",
        "--retries",
        "0",
        *more,
    )


def put_manifests(target: Receiver) -> list[str]:
    """Return the references of the manifests that were put: digests and tags, in this order."""
    return [
        request.path.rpartition("/")[2]
        for request in target.requests
        if request.method == "PUT" and "/manifests/" in request.path
    ]


async def test_with_publish_end_all_manifests_are_pushed_by_digest_before_the_first_tag_moves(tmp_path: Path) -> None:
    registry = Registry()
    push(registry, "monday")
    async with QuayServer(registry) as server, Receiver() as target:
        for day in ("monday", "tuesday"):
            push(registry, day)
            target.requests.clear()
            await run(*night(server, target.address, "--publish", "end"), cwd=tmp_path, check=0)
            assert tagged(target) == images(day)
            put = put_manifests(target)
            assert [name.startswith("sha256:") for name in put] == [True] * 3 + [False] * 3

        done = await run(*night(server, target.address, "--publish", "end"), cwd=tmp_path, check=0)
        assert put_manifests(target) == put
        assert done.stderr.count("unchanged  ") >= 3


@pytest.mark.parametrize(("failed", "moves"), [("0", False), ("1", True)])
async def test_tags_move_only_if_at_most_max_failed_images_failed(failed: str, moves: bool, tmp_path: Path) -> None:
    registry = Registry()
    push(registry, "monday")
    async with QuayServer(registry) as server, Receiver() as target:
        await run(*night(server, target.address), cwd=tmp_path, check=0)
        push(registry, "tuesday")
        server.faults.append(Fault("/swift/(manifests|blobs)", Status(500)))
        more = ("--publish", "end", "--max-failed", failed)
        done = await run(*night(server, target.address, *more), cwd=tmp_path, check=3)
        assert ("nothing was published" in done.stderr) is not moves
        mixed = {**images("tuesday"), "swift": images("monday")["swift"]}
        assert tagged(target) == (mixed if moves else images("monday"))

        server.faults.clear()
        received = target.received
        await run(*night(server, target.address, *more), cwd=tmp_path, check=0)
        assert tagged(target) == images("tuesday")
        assert target.received - received < 10_000, "content that is there is not sent again"


async def test_tags_that_the_registry_refuses_at_the_end_are_named_and_set_by_the_next_run(tmp_path: Path) -> None:
    registry = Registry()
    push(registry, "monday")
    async with QuayServer(registry) as server, Receiver() as target:
        target.breakages.append(
            Breakage("PUT", f"swift/manifests/{TAG}", refuse(403, text="tags are immutable"), nth=0)
        )
        done = await run(*night(server, target.address, "--publish", "end"), cwd=tmp_path, check=3)
        assert "1 tag of 3 not set at the target" in done.stderr
        assert "tags are immutable" in done.stderr
        assert tagged(target).keys() == {"keystone", "nova"}
        target.breakages.clear()
        target.requests.clear()
        await run(*night(server, target.address, "--publish", "end"), cwd=tmp_path, check=0)
        assert tagged(target) == images("monday")
        assert [name for name in put_manifests(target) if name == TAG] == [TAG]


@pytest_asyncio.fixture
async def commands(tmp_path: Path) -> AsyncIterator[Zygote]:
    async with zygote(tmp_path / "streams") as ready:
        yield ready


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("step", [12, pytest.param(1, marks=pytest.mark.soak)])
async def test_a_run_killed_before_its_end_moves_no_tag(step: int, tmp_path: Path, commands: Zygote) -> None:
    registry = Registry()
    one = ("--publish", "end", "--concurrency", "1", "--progress", "none")
    async with QuayServer(registry) as server:
        push(registry, "monday")
        number, is_killed = 0, True
        while is_killed:
            place = tmp_path / str(number)
            place.mkdir()
            async with Receiver() as target:
                push(registry, "monday")
                assert (await commands.run(*night(server, target.address, *one), cwd=place)).code == 0
                push(registry, "tuesday")
                hook = {"kill": {"number": number, "when": "before", "note": str(tmp_path / "note")}}
                done = await commands.run(*night(server, target.address, *one), hook=hook, cwd=place)
                is_killed = done.code == KILLED
                has_begun_tags = TAG in put_manifests(target)[6:]
                if not has_begun_tags:
                    assert tagged(target) == images("monday")

                assert (await commands.run(*night(server, target.address, *one), cwd=place)).code == 0
                assert tagged(target) == images("tuesday")

            number += step


async def test_a_lock_file_brings_back_images_that_only_the_target_still_has(tmp_path: Path) -> None:
    registry = Registry()
    push(registry, "monday")
    async with QuayServer(registry) as server, Receiver() as target:
        await run(*night(server, target.address, "--lock-file", "monday.json"), cwd=tmp_path, check=0)
        push(registry, "tuesday")
        await run(*night(server, target.address), cwd=tmp_path, check=0)
        server.requests.clear()
        places = ["--server", server.url, "--to", target.address, "--state", "state"]
        done = await run("sync", "--from-lock", "monday.json", *places, cwd=tmp_path, check=0)
        assert tagged(target) == images("monday")
        assert "missing at the source: taken from the target (3):" in done.stderr
        assert not [request for request in server.requests if "/blobs/" in request.path]


def dated(tags: Iterable[str]) -> list[str]:
    """Return the tags with a date of today (or of yesterday, at midnight)."""
    return [tag for tag in tags if re.fullmatch(rf"{TAG}-2[0-9]{{3}}-[01][0-9]-[0-3][0-9]", tag)]


async def test_a_dated_tag_is_set_once_for_each_image_that_changes(tmp_path: Path) -> None:
    registry = Registry()
    push(registry, "monday")
    words = ("--dated-tags", "{tag}-{date}")
    async with QuayServer(registry) as server, Receiver() as target:
        await run(*night(server, target.address, *words), cwd=tmp_path, check=0)
        assert len(dated(put_manifests(target))) == len(NAMES)
        (tag,) = set(dated(put_manifests(target)))
        assert tagged(target, tag) == images("monday")
        target.requests.clear()
        await run(*night(server, target.address, *words, "--full-check"), cwd=tmp_path, check=0)
        assert not put_manifests(target)
        push(registry, "tuesday", ("nova",))
        await run(*night(server, target.address, *words, "--publish", "end"), cwd=tmp_path, check=0)
        assert [name for name in put_manifests(target) if not name.startswith("sha256:")] == [tag, TAG]
        assert tagged(target, tag)["nova"] == images("tuesday")["nova"]


@pytest.mark.interop
async def test_a_docker_registry_has_dated_tags_and_moves_its_tags_at_the_end(tmp_path: Path) -> None:
    registry = Registry()
    push(registry, "monday")
    more = ("--publish", "end", "--dated-tags", "{tag}-{date}")
    with peers.DockerRegistry(tmp_path) as target:
        address = f"registry://{target.host}?insecure=true"
        async with QuayServer(registry) as server:
            for _ in range(2):
                await run(*night(server, address, *more), cwd=tmp_path, check=0)

        tags = json.loads(peers.skopeo("list-tags", "--tls-verify=false", f"docker://{target.host}/kolla/nova"))["Tags"]
        assert len(tags) == 2
        assert len(dated(tags)) == 1
        for tag in tags:
            reference = f"docker://{target.host}/kolla/nova:{tag}"
            assert (
                peers.skopeo("inspect", "--raw", "--tls-verify=false", reference).encode() == images("monday")["nova"]
            )

        put = [
            asked.path.rpartition("/")[2]
            for asked in target.requests()
            if asked.method == "PUT" and "/manifests/" in asked.path
        ]
        assert len(put) == 3 * len(NAMES)
        assert all(name.startswith("sha256:") for name in put[: len(NAMES)])
