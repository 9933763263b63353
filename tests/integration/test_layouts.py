"""Layouts as sources: mirrors and layouts of other tools, damaged ones, archives, and their way into a registry."""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import peers
import pytest
from commands import run
from layout_writer import LayoutWriter
from organizations import TAG, kolla, small_image

import quaymirror
from quaymirror import Options, Report, Selection, Status
from quaymirror.catalog.layout import catalog as layout_catalog
from quaymirror.errors import ConfigError, ExitCode, StoreError
from quaymirror.events import ignore
from quaymirror.run.wiring import connect
from quaymirror.selection.layouts import select_images
from quaymirror.selection.source import SourceAddress, parse_layout
from quaymirror.store import leases
from quaymirror.store.local_storage import LocalStorage
from quaymirror.testing import QuayServer, SourceManifest


def layout(path: Path, **names: str) -> LayoutWriter:
    """Return a layout with some images, of repositories with these names, `_` standing for a slash."""
    writer = LayoutWriter(path)
    for name, content in (names or {"kolla_nova": "nova", "kolla_glance": "glance"}).items():
        writer.add(f"{name.replace('_', '/')}:{TAG}", small_image(content, 3000))

    return writer


async def push(source: Path, target: str | Path, *names: str, **options: object) -> Report:
    return await quaymirror.push(source, target, Options.of(state=source.parent / "state", **options), names=names)


def messages(report: Report) -> list[str]:
    return [outcome.error.message for outcome in report.outcomes if outcome.error is not None]


def uploads(asked: list[peers.Asked]) -> list[str]:
    puts = [request.path for request in asked if request.method == "PUT" and "/blobs/uploads/" in request.path]
    return [path.partition("digest=")[2] for path in puts]


async def test_a_layout_of_another_tool_is_copied_with_its_digests(tmp_path: Path) -> None:
    writer = layout(tmp_path / "layout")
    report = await push(writer.root, tmp_path / "copy")
    assert (report.counts[Status.MIRRORED], report.exit_code) == (2, ExitCode.OK)
    found = {
        entry["annotations"]["org.opencontainers.image.ref.name"]: entry["digest"]
        for entry in _index(tmp_path / "copy")
    }
    assert found == {
        entry["annotations"]["org.opencontainers.image.ref.name"]: entry["digest"] for entry in writer.entries
    }
    again = await push(writer.root, tmp_path / "copy")
    assert (again.counts[Status.UNCHANGED], again.bytes_fetched) == (2, 0)


async def test_names_select_images_and_may_be_repeated(tmp_path: Path) -> None:
    writer = layout(tmp_path / "layout", kolla_nova="a", kolla_glance="b", other_nova="c")
    report = await push(writer.root, tmp_path / "copy", "kolla/n*:*", f"other/*:{TAG}")
    assert {outcome.reference.name for outcome in report.outcomes} == {f"kolla/nova:{TAG}", f"other/nova:{TAG}"}


async def test_the_host_of_an_image_is_known_from_its_full_name(tmp_path: Path) -> None:
    writer = LayoutWriter(tmp_path / "layout")
    writer.add(f"kolla/nova:{TAG}", small_image("a"), full=f"quay.io/kolla/nova:{TAG}")
    writer.add("busybox:1", small_image("b"))
    report = await push(writer.root, tmp_path / "copy")
    assert {outcome.reference.full_name for outcome in report.outcomes} == {
        f"quay.io/kolla/nova:{TAG}",
        "localhost/busybox:1",
    }


async def test_a_mirror_of_platforms_and_indexes_is_pushed_whole(tmp_path: Path) -> None:
    registry, images = kolla(6)
    async with QuayServer(registry) as server:
        await quaymirror.sync(Selection("kolla", tags=TAG), tmp_path / "mirror", Options.of(server=server.url))

    report = await push(tmp_path / "mirror", tmp_path / "copy")
    assert (report.counts[Status.MIRRORED], report.exit_code) == (6, ExitCode.OK)
    assert {str(outcome.reference.digest) for outcome in report.outcomes} == {one.digest for one in images.values()}
    assert (await quaymirror.verify(str(tmp_path / "copy"), Options())).damages == ()


@pytest.mark.parametrize("damage", ["missing", "changed", "shorter", "directory"])
@pytest.mark.parametrize("part", ["layer", "config", "manifest"])
async def test_a_damaged_image_is_named_and_the_others_go_on(tmp_path: Path, damage: str, part: str) -> None:
    writer = layout(tmp_path / "layout")
    entry = writer.entries[0]
    manifest = json.loads(writer.path(entry["digest"]).read_text())
    digests = {"layer": manifest["layers"][0]["digest"], "config": manifest["config"]["digest"]}
    digest = digests.get(part, entry["digest"])
    path = writer.path(digest)
    content = path.read_bytes()
    path.unlink()
    match damage:
        case "changed":
            path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        case "shorter":
            path.write_bytes(content[:-1])
        case "directory":
            path.mkdir()

    report = await push(writer.root, tmp_path / "copy", retries=0)
    assert (report.counts[Status.MIRRORED], report.exit_code) == (1, ExitCode.PARTIAL)
    (message,) = messages(report)
    assert digest in message or digest.partition(":")[2] in message
    assert "/copy" not in message


async def test_images_without_tags_are_copied_under_their_digests(tmp_path: Path) -> None:
    writer, image = layout(tmp_path / "layout"), small_image("pinned")
    writer.add(f"kolla/nova@{image.digest}", image)
    report = await push(writer.root, tmp_path / "copy")
    assert (report.counts[Status.MIRRORED], report.exit_code) == (3, ExitCode.OK)
    names = {entry["annotations"]["org.opencontainers.image.ref.name"] for entry in _index(tmp_path / "copy")}
    assert f"kolla/nova@{image.digest}" in names


async def test_entries_without_names_are_left_out_and_make_the_run_partial(tmp_path: Path) -> None:
    writer = layout(tmp_path / "layout")
    writer.add(None, small_image("nameless"))
    writer.add("2025.1", small_image("tag"))
    report = await push(writer.root, tmp_path / "copy")
    assert (report.counts[Status.MIRRORED], report.rejected, report.exit_code) == (2, 2, ExitCode.PARTIAL)


async def test_tags_alone_get_their_repository_from_the_target(tmp_path: Path) -> None:
    writer = LayoutWriter(tmp_path / "layout")
    writer.add("2025.1", small_image("tag"))
    address = select_images(parse_layout(str(writer.root)))[0].in_repository("kolla/nova")
    async with connect(Options(), ignore) as sources:
        services = await sources.open(address.source)
        pages = [page async for page in services.catalog.pages("")]
        assert [entry.name for page in pages for entry in page.repositories] == ["kolla/nova"]


@pytest.mark.parametrize("how", ["plain", "./", "link"])
async def test_an_archive_is_a_layout(tmp_path: Path, how: str) -> None:
    writer = layout(tmp_path / "layout")
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        for path in sorted(writer.root.rglob("*")):
            name = f"{'./' if how == './' else ''}{path.relative_to(writer.root)}"
            archive.add(path, name, recursive=False)
            if how == "link" and path.is_file():
                link = tarfile.TarInfo(f"{name}-2")
                link.type, link.linkname = tarfile.LNKTYPE, name
                archive.addfile(link)

    report = await push(tmp_path / "images.tar", tmp_path / "copy")
    assert (report.counts[Status.MIRRORED], report.exit_code) == (2, ExitCode.OK)
    assert (await quaymirror.verify(str(tmp_path / "copy"), Options())).damages == ()


def _gzip(path: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("index.json"))


def _docker_archive(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("manifest.json"))


def _other(path: Path) -> None:
    path.write_bytes(b"PK\3\4" + bytes(1000))


def _no_index(path: Path) -> None:
    path.mkdir()
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def _mirror_without_index(path: Path) -> None:
    _no_index(path)
    (path / ".quaymirror").mkdir()


def _no_json(path: Path) -> None:
    _no_index(path)
    (path / "index.json").write_text("<html>")


@pytest.mark.parametrize(
    ("make", "code", "message"),
    [
        (None, 2, "no OCI image layout at"),
        (Path.mkdir, 2, "no OCI image layout at"),
        (_gzip, 2, "run gunzip first"),
        (_other, 2, "it has another format"),
        (_docker_archive, 2, "manifest.json is not JSON"),
        (_no_index, 8, "index.json is missing"),
        (_mirror_without_index, 8, "--repair-state` writes it again"),
        (_no_json, 8, "is not JSON"),
        (lambda path: LayoutWriter(path), 9, "has no images"),
    ],
)
async def test_what_is_no_layout_is_one_line(tmp_path: Path, make: object, code: int, message: str) -> None:
    if callable(make):
        make(tmp_path / "it")

    try:
        report = await push(tmp_path / "it", tmp_path / "copy")
    except ConfigError as error:
        found, shown = int(error.exit_code), error.message
    else:
        assert report.fatal is not None
        found, shown = int(report.exit_code), report.fatal.message

    assert (found, message in shown) == (code, True), shown
    assert "\n" not in shown


async def test_blobs_that_are_pushed_are_leased_and_neither_side_waits(tmp_path: Path) -> None:
    writer = layout(tmp_path / "layout")
    (writer.root / ".quaymirror").mkdir()
    address = SourceAddress("ocidir", path=str(writer.root))
    async with connect(Options(), ignore) as sources:
        await sources.open(address)
        assert {str(digest) for digest in LocalStorage(writer.root).leased()} == {e["digest"] for e in writer.entries}

    assert LocalStorage(writer.root).leased() == set()


async def test_read_only_media_need_no_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise StoreError(f"can't create {path}: read-only file system")

    writer = layout(tmp_path / "layout")
    (writer.root / ".quaymirror").mkdir()
    monkeypatch.setattr(leases, "make_directory", refuse)
    async with connect(Options(), ignore) as sources:
        services = await sources.open(SourceAddress("ocidir", path=str(writer.root)))
        (page,) = [page async for page in services.catalog.pages("")]
        assert len(page.repositories) == 2


async def test_a_mirror_whose_blobs_are_being_deleted_is_waited_for_and_then_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = layout(tmp_path / "layout")
    (writer.root / ".quaymirror").mkdir()
    monkeypatch.setattr(layout_catalog, "_LEASE_ATTEMPTS", 2)
    monkeypatch.setattr(layout_catalog, "_LEASE_PAUSE_SECONDS", 0)
    with leases.unchanged(writer.root / ".quaymirror" / leases.DIRECTORY):
        report = await push(writer.root, tmp_path / "copy")

    assert report.exit_code is ExitCode.LOCKED
    assert report.fatal is not None
    assert "try again" in report.fatal.message


async def test_a_source_is_never_its_own_target_and_other_contradictions_are_usage(tmp_path: Path) -> None:
    path = layout(tmp_path / "layout").root
    for target, names, options, message in (
        (path, (), {}, "is the source of the images"),
        (f"ocidir://{path}/../layout", (), {}, "is the source of the images"),
        (tmp_path / "copy", (), {"prune": True}, "--prune does not work with ocidir://"),
        (tmp_path / "copy", ("[:x",), {}, "not a valid glob"),
        ("registry://host/a:b", (), {}, "gives all images the same name"),
        (f"{tmp_path}/{{org}}", (), {}, "has no organization"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            await push(path, target, *names, **options)

    for words, message in (
        (("sync", "ocidir://layout", "*", "--to", "copy"), "--select narrows a layout"),
        (("sync", "kolla", "--select", "a:b"), "--select is for layouts"),
    ):
        done = await run(*words, cwd=tmp_path, check=2)
        assert message in done.stderr, words


async def test_derived_images_have_the_organization_of_each_image(tmp_path: Path) -> None:
    writer = layout(tmp_path / "layout", kolla_nova="a", other_nova="b")
    report = await push(writer.root, f"tar://{tmp_path}/{{org}}/{{repo}}.tar", f"*:{TAG}")
    assert (report.counts[Status.MIRRORED], report.exit_code) == (2, ExitCode.OK)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*.tar")} == {
        "kolla/nova.tar",
        "other/nova.tar",
    }


async def test_push_is_a_command_with_a_report_and_a_dry_run(tmp_path: Path) -> None:
    layout(tmp_path / "layout")
    done = await run("push", "layout", "copy", "kolla/n*:*", "--dry-run", "--progress", "plain", cwd=tmp_path, check=0)
    assert "would fetch" in done.stderr
    assert not (tmp_path / "copy").exists()
    await run("push", "layout", "copy", "--report", "report.json", cwd=tmp_path, check=0)
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["server"], report["images"]["mirrored"]) == ("ocidir://layout", 2)
    listed = await run("list", "ocidir://layout", "--select", "kolla/nova:*", "--json", cwd=tmp_path, check=0)
    assert [row["repository"] for row in json.loads(listed.stdout)] == ["kolla/nova"]
    info = await run("info", "ocidir://copy", "--json", cwd=tmp_path, check=0)
    assert len(json.loads(info.stdout)) == 2


@pytest.mark.interop
async def test_a_mirror_is_pushed_into_a_registry_and_a_second_push_makes_no_blob_request(tmp_path: Path) -> None:
    registry, images = kolla(6)
    with peers.DockerRegistry(tmp_path) as target:
        async with QuayServer(registry) as server:
            await quaymirror.sync(Selection("kolla", tags=TAG), tmp_path / "mirror", Options.of(server=server.url))

        address = f"registry://{target.host}?insecure=true"
        report = await push(tmp_path / "mirror", address)
        assert (report.counts[Status.MIRRORED], report.exit_code) == (6, ExitCode.OK)
        assert max(Counter(uploads(target.requests())).values()) == 1
        _check(target, images)
        target.forget()
        again = await push(tmp_path / "mirror", address)
        assert again.counts[Status.UNCHANGED] == 6
        assert [request.path for request in target.requests()] == ["/v2/"]
        # Without a record of earlier pushes, one HEAD per image shows that.
        target.forget()
        await quaymirror.push(tmp_path / "mirror", address, Options.of(state=tmp_path / "elsewhere"))
        assert [request for request in target.requests() if "/blobs/" in request.path] == []


@pytest.mark.interop
async def test_layouts_of_skopeo_are_read(tmp_path: Path) -> None:
    writer = layout(tmp_path / "layout", kolla_nova="nova")
    source = f"oci:{writer.root}:kolla/nova:{TAG}"
    peers.skopeo("copy", source, f"oci:{tmp_path}/bare:2025.1")
    peers.skopeo("copy", source, f"oci-archive:{tmp_path}/one.tar:other/tool:1")
    with peers.DockerRegistry(tmp_path) as target:
        report = await push(tmp_path / "bare", f"registry://{target.host}/team/nova:{{tag}}?insecure=true")
        assert (report.exit_code, [one.reference.name for one in report.outcomes]) == (
            ExitCode.OK,
            ["team/nova:2025.1"],
        )
        await push(tmp_path / "one.tar", f"registry://{target.host}?insecure=true")
        for name in ("team/nova:2025.1", "other/tool:1"):
            peers.skopeo("inspect", "--tls-verify=false", f"docker://{target.host}/{name}")


def _check(target: peers.DockerRegistry, images: dict[str, SourceManifest]) -> None:
    for name, image in images.items():
        reference = f"docker://{target.host}/kolla/{name}:{TAG}"
        raw = subprocess.run(
            ["skopeo", "inspect", "--raw", "--tls-verify=false", reference], check=True, capture_output=True
        )
        assert raw.stdout == image.raw


def _index(root: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((root / "index.json").read_text())["manifests"]
    return found
