"""The main job against the Quay-like server, end to end and in one process."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import layouts
import pytest
from organizations import TAG, kolla, small_image, unique_bytes

import quaymirror
from quaymirror import Options, Selection, Status
from quaymirror.errors import ExitCode
from quaymirror.events import Notice
from quaymirror.oci import Platform
from quaymirror.secret import Secret
from quaymirror.store.layout import OCILayout
from quaymirror.testing import Fault, Hold, QuayServer, Registry, bad_gateway, make_image, make_index, make_layer
from quaymirror.testing import Status as Answer

EVERYTHING = Selection("kolla", "*", TAG)


async def test_every_image_is_mirrored_byte_for_byte_under_its_name(tmp_path: Path) -> None:
    registry, images = kolla()
    async with QuayServer(registry) as server:
        report = await quaymirror.sync(EVERYTHING, tmp_path / "mirror", Options.of(server=server.url))

    assert report.exit_code is ExitCode.OK
    assert layouts.names(tmp_path / "mirror") == {f"kolla/{name}:{TAG}": image.digest for name, image in images.items()}
    expected = {node.digest for image in images.values() for node in image.walk()}
    expected |= {digest for image in images.values() for digest in image.all_blobs()}
    assert layouts.check(tmp_path / "mirror") == expected


async def test_shared_layers_leave_the_cdn_once_and_no_credentials_reach_it(tmp_path: Path) -> None:
    registry, images = kolla(200, layer_size=2048)
    organization = registry.organization("kolla")
    for number in range(50):
        organization.repository(f"other-{number}").push("2024.1", next(iter(images.values())))
        organization.repository(f"empty-{number}")

    mirror = tmp_path / "mirror"
    async with QuayServer(registry, require_token=True) as server:
        settings = Options.of(server=server.url, concurrency=16)
        report = await quaymirror.sync(EVERYTHING, mirror, settings)
        assert server.blob_bytes() == unique_bytes(images)
        on_cdn = [request for request in server.requests if request.listener == "cdn"]
        assert on_cdn
        assert not any({"authorization", "cookie"} & request.headers.keys() for request in on_cdn)
        server.reset_records()
        again = await quaymirror.sync(EVERYTHING, mirror, settings)
        assert server.count("^/v2/") == 0

    manifests = sum(len(node.raw) for node in {n.digest: n for i in images.values() for n in i.walk()}.values())
    assert report.bytes_fetched == unique_bytes(images) + manifests
    assert report.counts == {Status.MIRRORED: 200, Status.SKIPPED: 100}
    assert dict(report.skipped) == {"no such tag": 50, "no tags": 50}
    assert again.counts == {Status.UNCHANGED: 200, Status.SKIPPED: 100}


async def test_a_second_run_asks_the_registry_nothing_and_rewrites_no_file(tmp_path: Path) -> None:
    registry, images = kolla()
    mirror = tmp_path / "mirror"
    async with QuayServer(registry) as server:
        settings = Options.of(server=server.url)
        await quaymirror.sync(EVERYTHING, mirror, settings)
        before = {path: path.stat().st_mtime_ns for path in mirror.rglob("*") if ".quaymirror" not in path.parts}
        server.reset_records()
        report = await quaymirror.sync(EVERYTHING, mirror, settings)
        assert server.count("^/v2/") == 0
        assert server.blob_bytes() == 0

    assert report.counts == {Status.UNCHANGED: len(images), Status.SKIPPED: 0}
    assert report.bytes_fetched == 0
    assert before == {path: path.stat().st_mtime_ns for path in mirror.rglob("*") if ".quaymirror" not in path.parts}


async def test_the_first_image_starts_downloading_while_later_pages_are_still_being_listed(tmp_path: Path) -> None:
    registry, _ = kolla(3)
    organization = registry.organization("kolla")
    for number in range(400):
        organization.repository(f"empty-{number:03}")

    async with QuayServer(registry) as server:
        first_blob = asyncio.Event()
        server.faults.append(Fault(r"^/api/v1/repository$", Hold(first_blob), query="next_page", nth=1))
        server.on_request = lambda request: first_blob.set() if "/blobs/" in request.path else None
        report = await quaymirror.sync(EVERYTHING, tmp_path / "mirror", Options.of(server=server.url))
        asked = ["blob" if "/blobs/" in r.path else "page" if "next_page" in r.query else "" for r in server.requests]

    assert report.exit_code is ExitCode.OK
    # The second page was not answered before a blob was asked for, and there were three more after it. At the end all
    # pages are listed again.
    assert asked.count("page") == 2 * 4
    assert asked.index("page") < asked.index("blob") < len(asked) - 1 - asked[::-1].index("page")


async def test_images_that_wait_for_a_layer_of_another_do_not_keep_the_next_ones_waiting(tmp_path: Path) -> None:
    base, registry = make_layer("base", 2048), Registry()
    own = {name: make_layer(name, 2048) for name in ("a", "b", "c", "d", "e", "f")}
    for name, layer in own.items():
        registry.organization("kolla").repository(name).push(TAG, make_image([base, layer]))

    seen: set[str] = set()
    all_seen = asyncio.Event()

    def look(request: Any) -> None:
        seen.update(name for name, layer in own.items() if layer.blob.digest.partition(":")[2] in request.path)
        if len(seen) == len(own):
            all_seen.set()

    async with QuayServer(registry) as server:
        # The layer that all of them have comes only when the own layer of each was asked for: two are fetched at once.
        server.faults.append(Fault(base.blob.digest.partition(":")[2], Hold(all_seen), listener="cdn"))
        server.on_request = look
        report = await quaymirror.sync(EVERYTHING, tmp_path / "mirror", Options.of(server=server.url, concurrency=2))

    assert report.exit_code is ExitCode.OK
    assert len(layouts.names(tmp_path / "mirror")) == len(own)


async def test_a_moved_tag_replaces_its_entry_and_other_tags_and_tools_keep_theirs(tmp_path: Path) -> None:
    registry, images = kolla(4)
    mirror = tmp_path / "mirror"
    name = next(iter(images))
    repository = registry.organization("kolla").repository(name)
    async with QuayServer(registry) as server:
        settings = Options.of(server=server.url)
        await quaymirror.sync(EVERYTHING, mirror, settings)
        index = json.loads((mirror / "index.json").read_bytes())
        foreign = {**index["manifests"][0], "annotations": {"org.opencontainers.image.ref.name": "theirs"}}
        index["manifests"].append(foreign)
        (mirror / "index.json").write_text(json.dumps(index))

        moved = small_image("moved")
        repository.push(TAG, moved)
        repository.push("2024.2", small_image("older"))
        await quaymirror.sync(EVERYTHING, mirror, settings)
        await quaymirror.sync(Selection("kolla", "*", "2024.2"), mirror, settings)

    found = layouts.names(mirror)
    assert found[f"kolla/{name}:{TAG}"] == moved.digest
    assert found[f"kolla/{name}:2024.2"] == small_image("older").digest
    assert found["theirs"] == foreign["digest"]
    assert len(found) == 4 + 1 + 1


async def test_replacing_images_of_another_server_is_reported_once(tmp_path: Path) -> None:
    told: list[str] = []
    registry, _ = kolla(3)
    async with QuayServer(registry) as first, QuayServer(registry) as second:
        for server in (first, first, second):
            told.clear()
            report = await quaymirror.sync(
                EVERYTHING,
                tmp_path / "mirror",
                Options.of(server=server.url),
                observer=lambda event: told.append(event.message) if isinstance(event, Notice) else None,
            )
            assert report.exit_code is ExitCode.OK
            assert len(told) == (server is second)

    assert first.host in told[0]
    assert second.host in told[0]


async def test_all_platforms_are_mirrored_by_default_and_a_single_one_as_a_plain_image(tmp_path: Path) -> None:
    registry = Registry()
    amd = make_image([make_layer("base", 2048), make_layer("amd", 2048)], platform="linux/amd64")
    arm = make_image([make_layer("base", 2048), make_layer("arm", 2048)], platform="linux/arm64")
    ppc = make_image([make_layer("ppc", 2048)], platform="linux/ppc64le")
    index = make_index([(amd, "linux/amd64"), (arm, "linux/arm64"), (ppc, "linux/ppc64le")])
    registry.organization("kolla").repository("multi").push(TAG, index)
    registry.organization("kolla").repository("single").push(TAG, ppc)
    async with QuayServer(registry) as server:
        everything = Options.of(server=server.url)
        await quaymirror.sync(EVERYTHING, tmp_path / "all", everything)
        one = Options.of(server=server.url, platforms=(Platform("linux", "arm64"),))
        report = await quaymirror.sync(EVERYTHING, tmp_path / "one", one)
        assert report.exit_code is ExitCode.OK
        two = Options.of(server=server.url, platforms=(Platform("linux", "arm64"), Platform("linux", "amd64")))
        await quaymirror.sync(EVERYTHING, tmp_path / "two", two)
        none = Options.of(server=server.url, platforms=(Platform("linux", "s390x"),))
        report = await quaymirror.sync(EVERYTHING, tmp_path / "none", none)
        server.reset_records()
        again = await quaymirror.sync(EVERYTHING, tmp_path / "one", one)
        assert server.count("^/v2/") == 0

    assert layouts.names(tmp_path / "all")[f"kolla/multi:{TAG}"] == index.digest
    assert layouts.names(tmp_path / "one") == {f"kolla/multi:{TAG}": arm.digest, f"kolla/single:{TAG}": ppc.digest}
    assert layouts.names(tmp_path / "two")[f"kolla/multi:{TAG}"] == index.digest
    assert layouts.names(tmp_path / "none") == {f"kolla/single:{TAG}": ppc.digest}
    assert report.counts == {Status.MIRRORED: 1, Status.SKIPPED: 1}
    assert again.counts == {Status.UNCHANGED: 2, Status.SKIPPED: 0}


# Docker's schema 2 knows no zstd.
@pytest.mark.parametrize(
    ("media", "compression"),
    [("oci", "gzip"), ("oci", "zstd"), ("oci", "none"), ("docker", "gzip"), ("docker", "none")],
)
async def test_layers_of_any_compression_and_manifests_of_both_families_are_mirrored(
    tmp_path: Path, media: str, compression: str
) -> None:
    image = make_image([make_layer("x", 5000, compression=compression)], media=media)  # type: ignore[arg-type]
    registry = Registry()
    registry.organization("kolla").repository("x").push(TAG, image)
    async with QuayServer(registry) as server:
        report = await quaymirror.sync(EVERYTHING, tmp_path / "mirror", Options.of(server=server.url))

    assert report.exit_code is ExitCode.OK
    assert layouts.blob(tmp_path / "mirror", image.digest) == image.raw
    assert all(layouts.blob(tmp_path / "mirror", blob.digest) == blob.data for blob in image.blobs)


async def test_one_failing_tag_check_fails_that_image_only(tmp_path: Path) -> None:
    registry, images = kolla(5)
    broken = sorted(images)[2]
    async with QuayServer(registry) as server:
        server.faults.append(Fault(rf"^/api/v1/repository/kolla/{broken}/tag/", Answer(400, body=b"{}")))
        report = await quaymirror.sync(EVERYTHING, tmp_path / "mirror", Options.of(server=server.url))

    assert report.exit_code is ExitCode.PARTIAL
    assert report.counts == {Status.MIRRORED: 4, Status.FAILED: 1, Status.SKIPPED: 0}
    assert [f"{failed.repository}:{failed.tag}" for failed in report.failed_checks] == [
        f"{server.host}/kolla/{broken}:{TAG}"
    ]
    errors = [o["error"] for o in report.to_json()["outcomes"]]
    assert [error["phase"] for error in errors if error is not None] == ["discover"]
    assert f"kolla/{broken}:{TAG}" not in layouts.names(tmp_path / "mirror")


async def test_an_interrupted_listing_keeps_mirrored_images_and_fails_the_run(tmp_path: Path) -> None:
    registry, _ = kolla(3)
    for number in range(150):
        registry.organization("kolla").repository(f"late-{number:03}")

    async with QuayServer(registry) as server:
        server.faults.append(Fault(r"^/api/v1/repository$", bad_gateway(), query="next_page"))
        report = await quaymirror.sync(EVERYTHING, tmp_path / "mirror", Options.of(server=server.url, retries=0))

    assert report.exit_code is ExitCode.UNAVAILABLE
    assert not report.complete
    layouts.check(tmp_path / "mirror")


async def test_an_unknown_organization_and_an_empty_one_are_distinguished(tmp_path: Path) -> None:
    registry = Registry()
    registry.organization("empty")
    registry.user("somebody")
    async with QuayServer(registry) as server:
        settings = Options.of(server=server.url)
        reports = {
            name: await quaymirror.sync(Selection(name), tmp_path / name, settings)
            for name in ("empty", "unknown", "somebody")
        }

    assert {report.exit_code for report in reports.values()} == {ExitCode.EMPTY}
    messages = {name: str(report.fatal) for name, report in reports.items()}
    assert "no repositories that are visible" in messages["empty"]
    assert "no organization 'unknown'" in messages["unknown"]
    assert "the user 'somebody' has no repositories" in messages["somebody"]


async def test_a_selection_that_matches_nothing_has_an_exit_code(tmp_path: Path) -> None:
    registry, _ = kolla(2)
    async with QuayServer(registry) as server:
        settings = Options.of(server=server.url)
        report = await quaymirror.sync(Selection("kolla", "nothing-*", TAG), tmp_path / "mirror", settings)
        allowed = Options.of(server=server.url, allow_empty=True)
        tolerated = await quaymirror.sync(Selection("kolla", "nothing-*", TAG), tmp_path / "mirror", allowed)

    assert report.exit_code is ExitCode.EMPTY
    assert tolerated.exit_code is ExitCode.OK


async def test_a_dry_run_reports_the_bytes_to_fetch_and_writes_nothing(tmp_path: Path) -> None:
    registry, images = kolla(10)
    async with QuayServer(registry) as server:
        planned = await quaymirror.sync(EVERYTHING, tmp_path / "mirror", Options.of(server=server.url, dry_run=True))
        assert not (tmp_path / "mirror").exists()
        assert server.blob_bytes() == 0
        real = await quaymirror.sync(EVERYTHING, tmp_path / "mirror", Options.of(server=server.url))
        again = await quaymirror.sync(EVERYTHING, tmp_path / "mirror", Options.of(server=server.url, dry_run=True))

    assert planned.counts == {Status.MIRRORED: len(images), Status.SKIPPED: 0}
    assert planned.bytes_fetched == real.bytes_fetched
    assert again.bytes_fetched == 0
    assert again.counts == {Status.UNCHANGED: len(images), Status.SKIPPED: 0}


async def test_two_concurrent_runs_in_one_process_are_independent(tmp_path: Path) -> None:
    registry, images = kolla(8)
    reports: list[quaymirror.Report] = []

    async def one(name: str, server: QuayServer) -> None:
        reports.append(await quaymirror.sync(EVERYTHING, tmp_path / name, Options.of(server=server.url)))

    async with QuayServer(registry) as first, QuayServer(registry) as second, asyncio.TaskGroup() as tasks:
        tasks.create_task(one("a", first))
        tasks.create_task(one("b", second))

    assert [report.exit_code for report in reports] == [ExitCode.OK, ExitCode.OK]
    assert len(layouts.names(tmp_path / "a")) == len(layouts.names(tmp_path / "b")) == len(images)


async def test_only_one_run_at_a_time_writes_a_mirror(tmp_path: Path) -> None:
    registry, _ = kolla(2)
    async with QuayServer(registry) as server:
        async with OCILayout.open(tmp_path / "mirror"):
            with pytest.raises(quaymirror.QuaymirrorError, match=r"in use by another run \(process [0-9]+ on "):
                await quaymirror.sync(EVERYTHING, tmp_path / "mirror", Options.of(server=server.url))

        assert server.requests == []


async def test_private_repositories_are_listed_and_pulled_with_one_token(tmp_path: Path) -> None:
    registry, images = kolla(4)
    organization = registry.organization("kolla")
    private = organization.repository("secret-service", public=False)
    private.push(TAG, small_image("private"))
    registry.user("operator")
    organization.grant("operator")
    token = registry.oauth_token("operator", scopes=("repo:read",))
    async with QuayServer(registry) as server:
        with_token = Options.of(server=server.url, api_token=Secret(token))
        report = await quaymirror.sync(EVERYTHING, tmp_path / "mirror", with_token)
        wrong = Options.of(server=server.url, api_token=Secret("x" * 40))
        refused = await quaymirror.sync(EVERYTHING, tmp_path / "other", wrong)

    assert report.exit_code is ExitCode.OK
    assert len(layouts.names(tmp_path / "mirror")) == len(images) + 1
    assert refused.exit_code is ExitCode.CREDENTIALS
    assert token not in json.dumps(report.to_json())


async def test_discover_yields_pinned_references_without_pulling(tmp_path: Path) -> None:
    registry, images = kolla(5)
    async with QuayServer(registry) as server:
        found = [image async for image in quaymirror.discover(EVERYTHING, Options.of(server=server.url))]
        assert server.count("^/v2/") == 0

    assert {image.reference.name: str(image.reference.digest) for image in found} == {
        f"kolla/{name}:{TAG}": image.digest for name, image in images.items()
    }
