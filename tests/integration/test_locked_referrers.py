"""Referrers in lock files: written as the target has them, and mirrored as they are written."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from commands import Done, run
from receiver import Receiver
from signed import BUNDLE, SPDX, TAG, digest_tag, signature, signed_organization, small
from spec_reader import Layout, Remote

from quaymirror.testing import Fault, QuayServer, Registry, Repository, SourceManifest, Status, make_artifact

NAME = f"kolla/nova:{TAG}"


class Source(NamedTuple):
    """A registry with one image, which has a signature by tag, a bundle and an SBOM."""

    registry: Registry
    repository: Repository
    image: SourceManifest
    bundle: SourceManifest
    sbom: SourceManifest

    @property
    def listed(self) -> set[tuple[str, str]]:
        """Subject and digest of the referrers without a tag."""
        return {(self.image.digest, self.bundle.digest), (self.image.digest, self.sbom.digest)}

    @property
    def tagged(self) -> set[tuple[str, str, str]]:
        """Repository, tag and digest of the signature."""
        return {("kolla/nova", digest_tag(self.image, ".sig"), signature(self.image).digest)}


def source() -> Source:
    """Return a new source."""
    registry = Registry()
    repository = registry.organization("kolla").repository("nova")
    image = small("nova")
    bundle, sbom = make_artifact(BUNDLE, b"bundle", subject=image), make_artifact(SPDX, b"sbom", subject=image)
    repository.push(TAG, image)
    repository.push(digest_tag(image, ".sig"), signature(image))
    for each in (bundle, sbom):
        repository.attach(each)

    return Source(registry, repository, image, bundle, sbom)


async def lock(server: QuayServer, place: Path, *words: str, check: int = 0) -> dict[str, Any]:
    """Run sync with a lock file in a directory, and return its images by name."""
    command = ("sync", "kolla", "*", TAG, "--server", server.url, "--lock-file", "lock.json", "--retries", "0")
    await run(*command, *words, cwd=place, check=check)
    images = json.loads((place / "lock.json").read_text())["images"]
    return {f"{each['repository']}:{each['tag']}": each for each in images}


async def restore(server: QuayServer, place: Path, *words: str, check: int = 0) -> Done:
    """Run sync from the lock file in a directory; forget earlier requests."""
    server.reset_records()
    command = ("sync", "--from-lock", "lock.json", "--retries", "0")
    return await run(*command, *words, cwd=place, check=check, env={"QUAYMIRROR_SERVER": ""})


async def pushed(target: Receiver, one: Source) -> set[str]:
    """Return the referrers of the image that a registry has."""
    remote = Remote(f"http://{target.host}")
    return await asyncio.to_thread(remote.referrers, "kolla/nova", one.image.digest)


def lookups(server: QuayServer) -> list[str]:
    """Return the requests that look for referrers."""
    paths = [record.path for record in server.requests]
    return [path for path in paths if "/referrers/" in path or "/tag/" in path or "tags/list" in path]


async def test_a_lock_file_names_what_a_mirror_has_and_another_mirror_gets_exactly_that(tmp_path: Path) -> None:
    signed = signed_organization(1)
    async with QuayServer(signed.registry) as server:
        locked = await lock(server, tmp_path, "--referrers", "all")
        found = [(image["repository"], each) for image in locked.values() for each in image["referrers"]]
        assert {*locked} == {*signed.images}
        assert {(each["subject"], each["digest"]) for _, each in found if "tag" not in each} == signed.listed
        assert {(name, each["tag"], each["digest"]) for name, each in found if "tag" in each} == signed.tagged

        for name, image in signed.images.items():
            repository = signed.registry.organization("kolla").repository(name[6:].partition(":")[0])
            repository.attach(make_artifact(BUNDLE, b"newer", subject=image))

        for _ in range(2):
            await restore(server, tmp_path, "--to", "copy", "--referrers", "all")
            copy = Layout(tmp_path / "copy")
            assert (copy.listed(), copy.tagged()) == (signed.listed, signed.tagged)
            assert not lookups(server)

        assert not server.requests  # the second time, everything was there
        await restore(server, tmp_path, "--to", "signatures")
        copy = Layout(tmp_path / "signatures")
        assert (copy.listed(), copy.tagged()) == (signed.signatures, signed.tagged)
        await restore(server, tmp_path, "--to", "none", "--referrers", "none")
        assert {*Layout(tmp_path / "none").names} == {*signed.images}


async def test_a_lock_file_brings_back_referrers_that_its_target_has_lost_or_that_were_replaced(tmp_path: Path) -> None:
    one = source()
    async with QuayServer(one.registry) as server:
        await lock(server, tmp_path, "--referrers", "none")
        await lock(server, tmp_path, "--to", "complete", "--referrers", "all")
        await restore(server, tmp_path, "--referrers", "all")
        mirror = Layout(tmp_path / "mirror")
        assert (mirror.listed(), mirror.tagged()) == (one.listed, one.tagged)

        one.repository.push(digest_tag(one.image, ".sig"), signature(one.image, "newer"))
        command = ("sync", "kolla", "*", TAG, "--server", server.url, "--referrers-every", "0")
        await run(*command, cwd=tmp_path, check=0)
        assert Layout(tmp_path / "mirror").tagged() != one.tagged
        await restore(server, tmp_path)
        assert Layout(tmp_path / "mirror").tagged() == one.tagged


async def test_a_locked_referrer_that_the_source_lost_is_a_failure_unless_the_target_has_it(tmp_path: Path) -> None:
    one = source()
    async with QuayServer(one.registry) as server, Receiver() as target:
        target.lists_referrers = True
        await lock(server, tmp_path, "--to", target.address, "--referrers", "all", "--state", "state")
        one.repository.untagged.clear()
        one.repository.delete_tag(digest_tag(one.image, ".sig"))
        one.registry.organization("kolla").repository("nova")
        done = await restore(server, tmp_path, "--referrers", "all", check=3)
        assert "referrers that failed, of mirrored images (3):" in done.stderr
        assert one.bundle.digest in done.stderr
        assert {*Layout(tmp_path / "mirror").names} == {NAME}

        # With another state, the run does not know what the registry has.
        await restore(server, tmp_path, "--to", target.address, "--referrers", "all", "--state", "other")
        assert await pushed(target, one) == {one.bundle.digest, one.sbom.digest}


async def test_without_known_referrers_a_lock_file_says_nothing_of_them_and_they_are_looked_up(tmp_path: Path) -> None:
    one = source()
    async with QuayServer(one.registry) as server:
        for words in (("--dry-run",), ("--referrers", "none")):
            assert "referrers" not in (await lock(server, tmp_path, *words))[NAME]

        server.faults.append(Fault(f"manifests/{one.bundle.digest}", Status(500)))
        assert "referrers" not in (await lock(server, tmp_path, "--to", "failed", check=3))[NAME]
        server.faults.clear()
        await restore(server, tmp_path, "--to", "copy", "--referrers", "all")
        assert lookups(server)
        copy = Layout(tmp_path / "copy")
        assert (copy.listed(), copy.tagged()) == (one.listed, one.tagged)


async def test_a_lock_file_whose_target_had_no_referrers_brings_none(tmp_path: Path) -> None:
    registry = Registry()
    registry.organization("kolla").repository("nova").push(TAG, small("nova"))
    async with QuayServer(registry) as server:
        assert (await lock(server, tmp_path))[NAME]["referrers"] == []
        registry.organization("kolla").repository("nova").attach(make_artifact(BUNDLE, b"newer", subject=small("nova")))
        await restore(server, tmp_path, "--to", "copy")
        assert {*Layout(tmp_path / "copy").names} == {NAME}


async def test_a_locked_referrer_of_another_image_is_a_failure(tmp_path: Path) -> None:
    one = source()
    other = make_artifact(BUNDLE, b"of another", subject=small("another"))
    one.repository.attach(other)
    async with QuayServer(one.registry) as server:
        await lock(server, tmp_path)
        document = json.loads((tmp_path / "lock.json").read_text())
        document["images"][0]["referrers"][0] |= {"digest": other.digest, "tag": ""}
        (tmp_path / "lock.json").write_text(json.dumps(document))
        done = await restore(server, tmp_path, "--to", "copy", check=3)
        assert f"{other.digest} does not refer to {one.image.digest}, as the lock file says" in done.stderr
        assert NAME in Layout(tmp_path / "copy").names


@pytest.mark.parametrize(
    ("referrer", "words"),
    [
        ({"digest": "sha256:" + "a" * 64, "artifact_type": "x"}, "'subject'"),
        ({"subject": "x", "digest": "y", "artifact_type": "x"}, "not a sha256 or sha512 digest"),
        ({"subject": "sha256:" + "a" * 64, "digest": "sha256:" + "b" * 64, "artifact_type": 7}, "artifact_type"),
        (
            {
                "subject": "sha256:" + "a" * 64,
                "digest": "sha256:" + "b" * 64,
                "artifact_type": "x",
                "tag": f"sha256-{'b' * 64}.sig",
            },
            "not a digest tag of sha256:aaa",
        ),
        ("text", "not a lock file"),
    ],
)
async def test_a_lock_file_with_malformed_referrers_is_refused(referrer: object, words: str, tmp_path: Path) -> None:
    image = {"repository": "kolla/x", "tag": "a", "digest": "sha256:" + "a" * 64, "referrers": [referrer]}
    document = {"lock_version": 1, "server": "https://quay.io", "images": [image]}
    (tmp_path / "lock.json").write_text(json.dumps(document))
    done = await run("sync", "--from-lock", "lock.json", cwd=tmp_path, check=2)
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


async def test_shards_mirror_the_referrers_of_the_lock_file_that_was_planned(tmp_path: Path) -> None:
    one = source()
    async with QuayServer(one.registry) as server, Receiver() as target:
        target.lists_referrers = True
        await lock(server, tmp_path)
        one.repository.attach(make_artifact(BUNDLE, b"newer", subject=one.image))
        await restore(server, tmp_path, "--to", target.address, "--state", "state", "--plan-only", "plan.json")
        words = ("--plan", "plan.json", "--shard", "0/1", "--state", "state")
        await run("sync", *words, "--to", target.address, cwd=tmp_path, check=0)
        assert await pushed(target, one) == {one.bundle.digest}
