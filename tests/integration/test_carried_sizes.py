"""Sizes of exports whose images have signatures: the second trip carries what is new, and little beside it."""

from __future__ import annotations

import tarfile
from pathlib import Path

import layouts
import pytest
from crashes import blobs_there
from organizations import TAG, small_image

import quaymirror
from quaymirror import ExportOptions, ImportOptions, Options, ReferrerMode, Selection, export_mirror, import_parts
from quaymirror.carry.take_stock import take_inventory
from quaymirror.store.fsops import Fsync
from quaymirror.testing import QuayServer, Registry, SourceManifest, make_artifact

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SBOM = "application/spdx+json"


class Organization:
    """A registry of images that each have a signature in a digest tag, a bundle and an SBOM."""

    def __init__(self, count: int) -> None:
        self.registry = Registry()
        self.images: dict[str, SourceManifest] = {}
        for number in range(count):
            self.push(f"image-{number:04}", 400)

    def push(self, name: str, *layers: int) -> None:
        image = self.images[name] = small_image(f"{name}{layers}", *layers)
        self.registry.organization("kolla").repository(name).push(TAG, image)
        self.sign(name, "first")
        self.attach(name, BUNDLE, "bundle")
        self.attach(name, SBOM, "sbom")

    def sign(self, name: str, by: str) -> None:
        """Push a digest tag, in place of the one before."""
        image = self.images[name]
        signature = small_image(f"{image.digest} {by}", 300)
        self.registry.organization("kolla").repository(name).push(f"{image.digest.replace(':', '-')}.sig", signature)

    def attach(self, name: str, kind: str, text: str) -> None:
        """Push a referrer, to which no tag leads."""
        image = self.images[name]
        payload = f"{text} of {image.digest}".encode()
        self.registry.organization("kolla").repository(name).attach(make_artifact(kind, payload, subject=image))


def sizes_of(mirror: Path, digests: set[str]) -> int:
    return sum((mirror / "blobs" / digest.replace(":", "/")).stat().st_size for digest in digests)


def options_for(server: QuayServer) -> Options:
    return Options.of(
        server=server.url, referrers=ReferrerMode.ALL, referrers_every=0.0, full_check_every=0.0, fsync=Fsync.NEVER
    )


async def test_an_index_that_is_written_in_the_middle_of_an_import_shows_no_list_of_referrers_as_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quaymirror.store.layout._CHECKPOINT_IMAGES", 1)
    organization = Organization(2)
    async with QuayServer(organization.registry) as server:
        await quaymirror.sync(Selection("kolla", "*", TAG), tmp_path / "near", options_for(server))

    await export_mirror(tmp_path / "near", tmp_path / "media", ExportOptions(fsync=Fsync.NEVER))
    await import_parts([tmp_path / "media"], tmp_path / "far", ImportOptions(allow_unsigned=True, fsync=Fsync.NEVER))
    assert layouts.names(tmp_path / "far") == layouts.names(tmp_path / "near")


@pytest.mark.parametrize(
    ("count", "layer"),
    [
        pytest.param(8, 4_000_000, id="few"),
        pytest.param(1000, 4_000_000, id="thousand", marks=[pytest.mark.soak, pytest.mark.timeout(1800)]),
    ],
)
async def test_the_second_trip_of_signed_images_carries_what_the_receiver_lacks_and_one_percent(
    tmp_path: Path, count: int, layer: int
) -> None:
    near, far = tmp_path / "near", tmp_path / "far"
    organization = Organization(count)
    names = list(organization.images)
    changed, other = names[: max(1, count * 3 // 100)], names[-3:]
    async with QuayServer(organization.registry) as server:
        for night in (1, 2):
            report = await quaymirror.sync(Selection("kolla", "*", TAG), near, options_for(server))
            assert report.exit_code == 0
            if night == 1:
                await export_mirror(near, tmp_path / "first", ExportOptions(fsync=Fsync.NEVER))
                await import_parts([tmp_path / "first"], far, ImportOptions(allow_unsigned=True, fsync=Fsync.NEVER))
                assert layouts.names(far) == layouts.names(near)
                for name in changed:
                    organization.push(name, 400, layer)

                # Images that did not change get another signature, and one more referrer.
                organization.sign(other[0], "second")
                organization.sign(other[1], "second")
                organization.attach(other[1], BUNDLE, "second bundle")
                organization.attach(other[2], SBOM, "second SBOM")

    have = tmp_path / "have"
    have.write_bytes((await take_inventory(far)).to_bytes())
    lacking = layouts.check(near) - blobs_there(far)
    second = await export_mirror(near, tmp_path / "second", ExportOptions(have=(have,), fsync=Fsync.NEVER))
    needed = sizes_of(near, lacking)
    assert {str(blob.node.digest) for blob in second.manifest.blobs if blob.stretches} == lacking
    assert second.manifest.carried_bytes == needed
    [(path, size)] = second.files
    with tarfile.open(path) as tar:
        manifest = tar.getmember("manifest.json.zst").size

    assert size <= 1.01 * needed, f"{size:,} bytes for {needed:,} bytes of blobs, {manifest:,} of them the manifest"
    result = await import_parts([tmp_path / "second"], far, ImportOptions(allow_unsigned=True, fsync=Fsync.NEVER))
    assert result.exit_code == 0
    assert layouts.names(far) == layouts.names(near)
    layouts.check(far)
