"""Unpacked images: no archive writes outside of its directory."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from forked_workers import fork_workers
from organizations import TAG, small_image

import quaymirror
from quaymirror import Report, Selection
from quaymirror.errors import ExitCode
from quaymirror.testing import Blob, Layer, QuayServer, Registry, SourceManifest, digest_of, make_image

UNPACKED = ["oci://{}/{{repo}}", "dir://{}/{{repo}}?expand=true", "mounts://{}/{{repo}}"]
CANARY = "the host's own"


def member(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", content: bytes = b"hostile", mode: int = 0o777
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    info.size = len(content) if kind == tarfile.REGTYPE else 0
    return info


def layer(*members: tarfile.TarInfo) -> Layer:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for info in members:
            archive.addfile(info, io.BytesIO(b"hostile"[: info.size]))

    return Layer(Blob.of(gzip.compress(buffer.getvalue(), 1)), digest_of(buffer.getvalue()))


SYMLINK, HARDLINK, DIRECTORY = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE
UP = "../" * 30


def hostile(outside: Path) -> dict[str, list[list[tarfile.TarInfo]]]:
    """Return images, by name, that try to write to `outside` or to change its files."""
    there = str(outside).lstrip("/")
    return {
        "a path upwards": [[member(f"{UP}{there}/new")]],
        "a path upwards from a directory": [[member("a", DIRECTORY), member(f"a/{UP}{there}/new")]],
        "an absolute path": [[member(f"/{there}/new")]],
        "a path with two slashes": [[member(f"//{there}/new")]],
        "through a link": [[member("a", SYMLINK, f"/{there}"), member("a/new")]],
        "through a link upwards": [[member("a", SYMLINK, f"{UP}{there}"), member("a/new")]],
        "through two links": [[member("a", SYMLINK, "/"), member("b", SYMLINK, f"a/{there}"), member("b/new")]],
        "through a link of another layer": [[member("a", SYMLINK, f"/{there}")], [member("a/new")]],
        "onto a link": [[member("./a", SYMLINK, f"/{there}/file"), member("a")]],
        "onto a link of another layer": [[member("./a", SYMLINK, f"/{there}/file")], [member("a")]],
        "a directory that is a link": [[member("./a", SYMLINK, f"/{there}"), member("a", DIRECTORY)]],
        "a hard link": [[member("a", HARDLINK, f"/{there}/file")], [member("./a")]],
        "a hard link upwards": [[member("a", HARDLINK, f"{UP}{there}/file")], [member("./a")]],
        "a hard link through a link": [
            [member("l", SYMLINK, f"/{there}"), member("a", HARDLINK, "l/file")],
            [member("./a")],
        ],
        "a hard link to a link": [[member("l", SYMLINK, f"/{there}/file"), member("a", HARDLINK, "l")]],
        "a pipe": [[member(f"{UP}{there}/new", tarfile.FIFOTYPE)]],
        "a link": [[member(f"{UP}{there}/new", SYMLINK, "x")]],
        "a whiteout upwards": [[member(f"{UP}{there}/.wh.new")]],
        "a whiteout through a link": [[member("aaaa", SYMLINK, f"/{there}"), member("xxxxaaaa/.wh.new")]],
        "a whiteout of what begins with a slash": [[member(f"aaaa/{there}/.wh.new")]],
        "an opaque directory upwards": [[member(f"{UP}{there}/.wh..wh..opq")]],
        "an opaque directory through a link": [[member("a", SYMLINK, f"/{there}"), member("a/.wh..wh..opq")]],
    }


CASES = list(hostile(Path("/outside")))


async def derive(to: str, **images: SourceManifest) -> Report:
    registry = Registry()
    for name, image in images.items():
        registry.organization("kolla").repository(name).push(TAG, image)

    async with QuayServer(registry) as server:
        options = quaymirror.Options.of(server=server.url, allow_extract=True)
        return await quaymirror.sync(Selection("kolla", "*", TAG), to, options)


def outcomes(report: Report) -> dict[str, str]:
    return {outcome.reference.repository.name: outcome.status.value for outcome in report.outcomes}


def state_of(directory: Path) -> list[tuple[str, int, str, list[str]]]:
    """Return all that an archive could have changed."""
    return [
        (path.name, path.lstat().st_mode, path.read_text() if path.is_file() else "", os.listxattr(path))
        for path in [directory, *sorted(directory.iterdir())]
    ]


def mounted_below(directory: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if f" {directory}/" in line]


@pytest.fixture(autouse=True)
def _workers_are_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image that fails ends its worker."""
    fork_workers(monkeypatch)


@pytest.fixture(autouse=True)
def _nothing_mounted(tmp_path: Path) -> object:
    yield
    for path in tmp_path.glob("*/*/rootfs"):
        subprocess.run(["umount", str(path)], check=False, capture_output=True)


@pytest.mark.parametrize("address", UNPACKED, ids=lambda address: address.partition(":")[0])
async def test_no_archive_writes_outside_of_its_directory(address: str, tmp_path: Path) -> None:
    images, before = {"glance": small_image("glance")}, {}
    for number, name in enumerate(CASES):
        outside = tmp_path / f"outside-{number}"
        outside.mkdir(mode=0o700)
        (outside / "file").write_text(CANARY)
        (outside / "file").chmod(0o600)
        before[outside] = state_of(outside)
        images[f"image-{number}"] = make_image([layer(*members) for members in hostile(outside)[name]])

    report = await derive(address.format(tmp_path / "images"), **images)

    changed = [CASES[int(path.name.rpartition("-")[2])] for path, state in before.items() if state_of(path) != state]
    assert not changed
    assert report.exit_code is ExitCode.PARTIAL
    assert outcomes(report)["kolla/glance"] == "mirrored"
    messages = [outcome.error.message for outcome in report.outcomes if outcome.error]
    assert sum("would be written outside of the image: refused" in message for message in messages) >= 8, messages


@pytest.mark.parametrize("address", UNPACKED, ids=lambda address: address.partition(":")[0])
async def test_links_as_real_images_have_them_are_unpacked(address: str, tmp_path: Path) -> None:
    image = make_image(
        [
            layer(
                member("usr/bin", DIRECTORY, mode=0o755),
                member("usr/bin/dash", mode=0o4755),
                member("bin", SYMLINK, "/usr/bin"),
                member("etc", DIRECTORY, mode=0o755),
                member("etc/sh", SYMLINK, "/usr/bin/dash"),
                member("etc/up", SYMLINK, "../../../../elsewhere"),
                member("usr/bin/sh", HARDLINK, "usr/bin/dash", mode=0o4755),
                member(f"/{tmp_path}/absolute"),
            )
        ]
    )
    report = await derive(address.format(tmp_path / "images"), nova=image)

    assert report.exit_code is ExitCode.OK, [outcome.error for outcome in report.outcomes]
    [dash] = [
        path
        for path in (tmp_path / "images" / "nova").rglob("usr/bin/dash")
        if "rootfs" not in path.parts or "mounts" not in address
    ]
    assert dash.stat().st_mode & 0o7777 == 0o4755
    assert dash.stat().st_nlink == 2
    assert (dash.parents[2] / "bin").readlink() == Path("/usr/bin")
    assert (dash.parents[2] / "etc/up").readlink() == Path("../../../../elsewhere")
    assert (dash.parents[2] / f"{tmp_path}/absolute".lstrip("/")).read_bytes() == b"hostile"
    assert not (tmp_path / "absolute").exists()


async def test_an_image_that_fails_after_it_was_mounted_leaves_nothing_mounted(tmp_path: Path) -> None:
    broken = make_image([layer(member("etc/file"))], config_extra={"config": None})
    to = f"mounts://{tmp_path}/images/{{repo}}"
    report = await derive(to, nova=broken, glance=small_image("glance"))
    assert outcomes(report) == {"kolla/glance": "mirrored", "kolla/nova": "failed"}
    assert not [line for line in mounted_below(tmp_path) if "/nova/" in line]
    assert not (tmp_path / "images/nova").exists()

    # Nothing is in the way of the next run.
    assert outcomes(await derive(to, nova=small_image("nova"))) == {"kolla/nova": "mirrored"}


async def test_existing_directories_are_neither_unmounted_nor_removed(tmp_path: Path) -> None:
    (tmp_path / "images/nova").mkdir(parents=True)
    (tmp_path / "images/nova/mine").write_text(CANARY)
    report = await derive(f"mounts://{tmp_path}/images/{{repo}}", nova=small_image("nova"))

    assert outcomes(report) == {"kolla/nova": "failed"}
    assert (tmp_path / "images/nova/mine").read_text() == CANARY
