"""`list`, `info`, `remove` and `prune --unselected` of a mirror, and of layouts of other tools."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
import tarfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import layouts
import pytest
from commands import run
from layout_writer import LayoutWriter
from organizations import TAG, kolla, small_image

import quaymirror
from quaymirror import Options
from quaymirror.errors import ConfigError
from quaymirror.oci import Descriptor, Digest, mediatype
from quaymirror.run.mirror_list import list_mirror
from quaymirror.store import documents
from quaymirror.store.local_storage import LocalStorage
from quaymirror.store.reader import LayoutReader
from quaymirror.store.records import ImageRecord
from quaymirror.store.state import State
from quaymirror.testing import QuayServer, make_image, make_index, make_layer

NAME = f"kolla/nova:{TAG}"


async def mirror_of(tmp_path: Path, **names: str) -> Path:
    """Return a mirror of a few images, filled by a run."""
    writer = LayoutWriter(tmp_path / "source")
    for name, content in (names or {"kolla_nova": "nova", "kolla_glance": "glance"}).items():
        writer.add(
            f"{name.replace('_', '/')}:{TAG}",
            small_image(content, 3000),
            full=f"quay.io/{name}:{TAG}".replace("_", "/"),
        )

    report = await quaymirror.push(writer.root, tmp_path / "mirror", Options.of(state=tmp_path / "state"))
    assert report.exit_code == 0
    return tmp_path / "mirror"


async def listed(path: Path | str, *words: str, cwd: Path, check: int = 0) -> list[dict[str, Any]]:
    done = await run("list", str(path), *words, "--json", cwd=cwd, check=check)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


async def test_a_mirror_is_listed_with_sizes_platforms_dates_and_origin(tmp_path: Path) -> None:
    mirror = await mirror_of(tmp_path)
    glance, nova = await listed(mirror, cwd=tmp_path)
    image = small_image("nova", 3000)
    size = len(image.raw) + sum(len(blob.data) for blob in image.all_blobs().values())
    assert (nova["repository"], nova["tag"], nova["digest"]) == ("kolla/nova", TAG, image.digest)
    assert (nova["size"], nova["platforms"], nova["registry"]) == (size, ["linux/amd64"], "quay.io")
    assert 0 < nova["own_size"] <= size
    assert nova["updated"] is not None
    assert glance["repository"] == "kolla/glance"
    lines = (await run("list", str(mirror), "--jsonl", cwd=tmp_path, check=0)).stdout.splitlines()
    assert [json.loads(line) for line in lines] == [glance, nova]
    done = await run("list", str(mirror), cwd=tmp_path, check=0)
    assert image.digest in done.stdout
    assert "2 images" in done.stderr


async def test_own_bytes_are_those_that_no_other_image_needs(tmp_path: Path) -> None:
    mirror = await mirror_of(tmp_path, kolla_nova="same", kolla_copy="same", kolla_other="other")
    rows = {row["repository"]: row for row in await listed(mirror, cwd=tmp_path)}
    assert rows["kolla/nova"]["own_size"] == rows["kolla/copy"]["own_size"] == 0
    assert rows["kolla/other"]["own_size"] > 3000
    found = quaymirror.list_mirror(mirror)
    distinct = rows["kolla/nova"]["size"] + rows["kolla/other"]["own_size"]
    assert found.bytes <= distinct
    # Names select rows, but own bytes are those within the whole mirror.
    (row,) = await listed(mirror, "kolla/nova", cwd=tmp_path)
    assert row["own_size"] == 0


async def test_names_select_images_of_a_mirror(tmp_path: Path) -> None:
    mirror = await mirror_of(tmp_path)
    for words in ((f"kolla/no*:{TAG}",), ("--select", "kolla/nova"), ("kolla/n*",)):
        assert [row["repository"] for row in await listed(mirror, *words, cwd=tmp_path)] == ["kolla/nova"]

    several = await listed(f"ocidir://{mirror}", "--select", "kolla/nova", "--select", "*/glance:*", cwd=tmp_path)
    assert len(several) == 2
    assert len(await listed(mirror, "--exclude", "*/glance", cwd=tmp_path)) == 1
    done = await run("list", str(mirror), "--select", "kolla/nova", "--select", "kolla/none", cwd=tmp_path, check=3)
    assert "no image is called kolla/none" in done.stderr
    await run("list", str(mirror), "nothing/*", cwd=tmp_path, check=9)
    await run("list", str(mirror), "a", "b", cwd=tmp_path, check=2)


async def test_the_images_of_an_earlier_snapshot_are_listed(tmp_path: Path) -> None:
    mirror = await mirror_of(tmp_path)
    writer = LayoutWriter(tmp_path / "next")
    moved = small_image("moved", 3000)
    writer.add(NAME, moved)
    assert (await quaymirror.push(writer.root, mirror, Options.of(state=tmp_path / "state"))).exit_code == 0
    now = {row["repository"]: row["digest"] for row in await listed(mirror, cwd=tmp_path)}
    then = {row["repository"]: row["digest"] for row in await listed(mirror, "--at", "previous", cwd=tmp_path)}
    assert now["kolla/nova"] == moved.digest
    assert then["kolla/nova"] == small_image("nova", 3000).digest
    (info,) = json.loads((await run("info", str(mirror), NAME, "--at", "previous", "--json", cwd=tmp_path)).stdout)
    assert info["mirrored"]["digest"] == then["kolla/nova"]
    await run("list", str(mirror), "--at", "never", cwd=tmp_path, check=2)


async def test_layouts_of_other_tools_are_listed_in_directories_and_archives(tmp_path: Path) -> None:
    writer = LayoutWriter(tmp_path / "layout")
    writer.add("latest", small_image("bare"))
    writer.add(f"docker.io/library/debian:{TAG}", small_image("debian"))
    broken = writer.add(f"kolla/broken:{TAG}", small_image("broken", 5000))
    writer.path(broken["digest"]).write_bytes(b"?")
    with tarfile.open(tmp_path / "layout.tar", "w") as archive:
        archive.add(writer.root, ".")

    for path in (writer.root, tmp_path / "layout.tar"):
        rows = {row["tag"]: row for row in await listed(path, "latest", cwd=tmp_path)}
        assert (rows["latest"]["repository"], rows["latest"]["platforms"]) == ("", ["linux/amd64"])
        assert rows["latest"]["size"] > 0
        done = await run("list", str(path), "--json", cwd=tmp_path, check=3)
        found = {row["repository"]: row for row in json.loads(done.stdout)}
        assert broken["digest"] in done.stderr
        assert found["kolla/broken"]["size"] is None
        assert found["library/debian"]["registry"] == "docker.io"
        infos = json.loads((await run("info", str(path), "*debian*", "--json", cwd=tmp_path, check=0)).stdout)
        assert infos[0]["architecture"] == "amd64"


async def test_an_index_is_listed_and_described_with_every_platform(tmp_path: Path) -> None:
    arm = make_image([make_layer("arm", 2048)], platform="linux/arm64")
    index = make_index([(small_image("amd"), "linux/amd64"), (arm, "linux/arm64")])
    writer = LayoutWriter(tmp_path / "layout")
    writer.add(NAME, index)
    (row,) = await listed(writer.root, cwd=tmp_path)
    assert row["platforms"] == ["linux/amd64", "linux/arm64"]
    done = await run("info", str(writer.root), "--json", cwd=tmp_path, check=0)
    assert [info["platform"] for info in json.loads(done.stdout)] == ["linux/amd64", "linux/arm64"]
    assert {info["index"] for info in json.loads(done.stdout)} == {index.digest}
    one = await run("info", str(writer.root), "--platform", "linux/arm64", "--json", cwd=tmp_path, check=0)
    assert [info["architecture"] for info in json.loads(one.stdout)] == ["arm64"]


async def test_the_table_fits_a_terminal_of_80_columns(tmp_path: Path) -> None:
    mirror = await mirror_of(tmp_path, **{"openstack.kolla_neutron-metering-agent-with-a-long-name": "long"})
    short, full = (terminal_output(mirror, *words) for words in ((), ("--no-trunc",)))
    assert 0 < max(map(len, short)) <= 80
    digest = small_image("long", 3000).digest
    assert any(digest[7:19] in line for line in short)
    assert any(digest in line and "with-a-long-name" in line for line in full)


def terminal_output(mirror: Path, *words: str) -> list[str]:
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "quaymirror", "list", str(mirror), *words]
    process = subprocess.run(
        command, stdout=slave, stderr=subprocess.DEVNULL, env={**os.environ, "COLUMNS": "80"}, timeout=50, check=True
    )
    assert process.returncode == 0
    os.close(slave)
    text = os.read(master, 65536).decode()
    os.close(master)
    return [line for line in text.splitlines() if line]


async def test_a_listing_of_a_source_is_json_as_it_is_found(tmp_path: Path) -> None:
    async with QuayServer(kolla()[0]) as server:
        words = ("list", "kolla", "*", TAG, "--server", server.url)
        array = json.loads((await run(*words, "--json", cwd=tmp_path, check=0)).stdout)
        lines = (await run(*words, "--jsonl", cwd=tmp_path, check=0)).stdout.splitlines()
        assert array == [json.loads(line) for line in lines]
        assert array
        empty = await run("list", "kolla", "none", "--json", "--server", server.url, "--allow-empty", cwd=tmp_path)
        assert json.loads(empty.stdout) == []


def test_what_is_no_layout_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ConfigError, match="no OCI image layout"):
            quaymirror.list_mirror(path)


def test_listing_a_mirror_reads_no_blob(tmp_path: Path) -> None:
    import anyio

    mirror = anyio.run(mirror_of, tmp_path)
    for blob in (mirror / "blobs/sha256").iterdir():
        blob.unlink()

    found = quaymirror.list_mirror(mirror)
    assert [image.platforms for image in found.images] == [("linux/amd64",)] * 2


@pytest.mark.parametrize("place", [0, 4096 + 100])
async def test_a_mirror_with_a_damaged_state_is_listed_from_its_index(tmp_path: Path, place: int) -> None:
    mirror = await mirror_of(tmp_path)
    whole = await listed(mirror, cwd=tmp_path)
    state = mirror / ".quaymirror/state.db"
    content = bytearray(state.read_bytes())
    content[place:] = b"\xa5" * (len(content) - place)
    state.write_bytes(content)
    found = await listed(mirror, cwd=tmp_path)
    assert [(each["digest"], each["size"]) for each in found] == [(each["digest"], each["size"]) for each in whole]


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_mirror_of_20000_images_is_listed_in_at_most_twice_the_time_of_reading_its_index(tmp_path: Path) -> None:
    def node(name: str, media_type: str = mediatype.UNKNOWN) -> Descriptor:
        return Descriptor(media_type, Digest.of(name.encode()), 1000)

    def record(number: int) -> ImageRecord:
        root = node(f"root {number}", mediatype.DOCKER_MANIFEST)
        shared = [node(f"base {layer}") for layer in range(5)] + [
            node(f"{number // 100} {layer}") for layer in range(5)
        ]
        contents = (root, *shared, *(node(f"own {number} {layer}") for layer in range(6)))
        name = f"openstack.kolla/service-{number % 200}:{number // 200}-debian-bookworm"
        return ImageRecord(name, "quay.io", root.digest, root, contents, mirrored=1_700_000_000.0)

    records = [record(number) for number in range(20_000)]
    (tmp_path / ".quaymirror").mkdir()
    state, _ = State.open(tmp_path / ".quaymirror/state.db", sync=False)
    with closing(state):
        state.commit(records)
        state.describe(dict.fromkeys(state.undescribed(), ("linux/amd64", "2026-01-01T00:00:00Z")))
        state.record_sizes()

    (tmp_path / "index.json").write_bytes(documents.project(None, records))
    (tmp_path / "oci-layout").write_bytes(documents.OCI_LAYOUT)
    reader = LayoutReader(LocalStorage(tmp_path))
    reading: list[float] = []
    listing: list[float] = []
    for _ in range(15):
        for costs, function in ((reading, reader.index_entries), (listing, lambda: list_mirror(tmp_path))):
            began = time.process_time()
            assert function()
            costs.append(time.process_time() - began)

    # Other processes of a busy machine only add to the cost.
    assert min(listing) <= 2 * min(reading)


async def test_removed_images_are_untagged_and_stay_in_the_snapshot_before(tmp_path: Path) -> None:
    mirror = await mirror_of(tmp_path)
    shown = await run("remove", str(mirror), "kolla/nova:*", cwd=tmp_path, check=0)
    assert shown.stdout.splitlines() == [NAME]
    assert "--yes" in shown.stderr
    assert NAME in layouts.names(mirror)
    done = json.loads((await run("remove", str(mirror), NAME, "--yes", "--json", cwd=tmp_path, check=0)).stdout)
    assert done["removed"] == [NAME]
    assert layouts.names(mirror).keys() == {f"kolla/glance:{TAG}"}
    snapshots = json.loads((await run("snapshots", str(mirror), "--json", cwd=tmp_path, check=0)).stdout)
    assert (snapshots[-1]["id"], snapshots[-1]["cause"]) == (done["snapshot"], "remove")
    assert len(quaymirror.list_mirror(mirror, at="previous").images) == 2
    missing = await run("remove", str(mirror), NAME, "--yes", cwd=tmp_path, check=2)
    assert "no image matches" in missing.stderr


async def test_held_images_and_those_of_other_tools_are_not_removed(tmp_path: Path) -> None:
    mirror = await mirror_of(tmp_path)
    await quaymirror.hold_names(mirror, ["kolla/nova"])
    with pytest.raises(ConfigError, match=r"held: kolla/nova.*unhold"):
        await quaymirror.remove_images(mirror, ["*"])

    assert len(layouts.names(mirror)) == 2
    await quaymirror.unhold_names(mirror, ["*"])
    index = json.loads((mirror / "index.json").read_bytes())
    foreign = index["manifests"][0] | {"annotations": {"org.opencontainers.image.ref.name": "other:tool"}}
    (mirror / "index.json").write_text(json.dumps(index | {"manifests": [*index["manifests"], foreign]}))
    assert len(quaymirror.list_mirror(mirror).images) == 3
    removed = await quaymirror.remove_images(mirror, ["*"])
    assert len(removed.names) == 2
    assert layouts.names(mirror).keys() == {"other:tool"}


def config_of(tmp_path: Path, mirror: Path, *selections: str, target: str = "") -> str:
    tables = [f'[jobs.j{number}]\nto = "{target or mirror}"\n{text}\n' for number, text in enumerate(selections)]
    (tmp_path / "quaymirror.toml").write_text("\n".join(tables))
    return str(tmp_path / "quaymirror.toml")


async def test_a_job_that_would_mirror_a_removed_image_again_is_named(tmp_path: Path) -> None:
    mirror = await mirror_of(tmp_path)
    config = config_of(tmp_path, mirror, f'organization = "kolla"\nrepositories = ["n*"]\ntags = ["{TAG}"]')
    shown = await run("remove", str(mirror), "*", "--config", config, "--json", cwd=tmp_path, check=0)
    assert json.loads(shown.stdout)["mirrored_again"] == [NAME]
    assert f"{NAME} is selected by a job" in shown.stderr


async def test_images_that_no_job_selects_any_more_are_pruned(tmp_path: Path) -> None:
    mirror = await mirror_of(tmp_path)
    config = config_of(tmp_path, mirror, f'organization = "kolla"\nrepositories = ["n*"]\ntags = ["{TAG}"]')
    words = ("prune", str(mirror), "--unselected", "--config", config)
    # More than the limit is not removed, and not even planned with 0.
    limited = await run(*words, "--yes", cwd=tmp_path, check=5)
    assert "--ignore-max-delete" in limited.stderr
    assert len(layouts.names(mirror)) == 2
    shown = await run(*words, "--ignore-max-delete", "--json", cwd=tmp_path, check=0)
    assert [image["name"] for image in json.loads(shown.stdout)["untag"]] == [f"kolla/glance:{TAG}"]
    assert len(layouts.names(mirror)) == 2
    done = await run(*words, "--ignore-max-delete", "--yes", cwd=tmp_path, check=0)
    assert "not selected" in done.stdout
    assert layouts.names(mirror).keys() == {NAME}
    layouts.check(mirror)


async def test_without_a_job_for_the_mirror_nothing_is_unselected(tmp_path: Path) -> None:
    mirror = await mirror_of(tmp_path)
    config = config_of(tmp_path, mirror, 'organization = "kolla"', target=str(tmp_path / "elsewhere"))
    done = await run("prune", str(mirror), "--unselected", "--config", config, "--yes", cwd=tmp_path, check=2)
    assert "no job has" in done.stderr
    shutil.rmtree(tmp_path / "source")
    assert len(layouts.names(mirror)) == 2
