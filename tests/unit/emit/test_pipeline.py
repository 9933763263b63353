"""The bridge to occystrap, a call at a time, in worker processes as it runs in production."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import anyio
import pytest
from forked_workers import fork_workers

from quaymirror.emit import calls
from quaymirror.emit.extract import confined
from quaymirror.emit.job import Destination, Emission, Job, StagedLayer
from quaymirror.emit.workers import Workers
from quaymirror.errors import ConfigError, EmitFailed


@pytest.fixture(autouse=True)
def _workers_are_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    fork_workers(monkeypatch)


def archive(**files: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(text), 1_700_000_000
            tar.addfile(member, io.BytesIO(text.encode()))

    return buffer.getvalue()


def make_job(tmp_path: Path, name: str, layers: list[bytes], scheme: str, path: Path, *filters: str) -> Job:
    staged = tmp_path / "staged"
    staged.mkdir(exist_ok=True)
    config = {"rootfs": {"type": "layers", "diff_ids": [_digest(layer) for layer in layers]}, "os": "linux"}
    content = json.dumps(config).encode()
    given = []
    for layer in layers:
        encoded = hashlib.sha256(b"compressed" + layer).hexdigest()
        (staged / encoded).write_bytes(layer)
        given.append(StagedLayer(encoded, staged / encoded))

    scratch = tmp_path / f"scratch-{name}"
    scratch.mkdir()
    return Job(
        image=f"kolla/{name}",
        tag="latest",
        config_name=f"{hashlib.sha256(content).hexdigest()}.json",
        config=content,
        layers=tuple(given),
        destination=Destination(scheme, "", str(path), {"unique_names": True} if scheme == "dir" else {}),
        filters=filters,
        scratch=scratch,
    )


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


LAYERS = [archive(a="first"), archive(b="second" * 9_000), archive(c="third")]


async def emit(job: Job) -> Emission:
    async with Workers.open(1) as workers:
        return await workers.run(calls.emit, job)


def manifest(root: Path, name: str) -> Any:
    return json.loads((root / f"manifest-kolla_{name}-latest.json").read_text())[0]


async def test_layers_go_through_in_the_manifests_order_whatever_their_size(tmp_path: Path) -> None:
    job = make_job(tmp_path, "nova", LAYERS, "dir", tmp_path / "out", "normalize-timestamps")
    await emit(job)
    document = manifest(tmp_path / "out", "nova")
    names = []
    for layer in document["Layers"]:
        with tarfile.open(tmp_path / "out" / layer) as tar:
            names += tar.getnames()
            assert all(member.mtime == 0 for member in tar)

    assert names == ["a", "b", "c"]
    config = json.loads((tmp_path / "out" / document["Config"]).read_text())
    assert config["rootfs"]["diff_ids"] == [f"sha256:{layer.partition('/')[0]}" for layer in document["Layers"]]


async def test_staged_layers_stay_for_other_images_and_cost_no_second_copy(tmp_path: Path) -> None:
    job = make_job(tmp_path, "nova", LAYERS, "dir", tmp_path / "out")
    await emit(job)
    for layer in job.layers:
        assert layer.path is not None
        assert layer.path.samefile(tmp_path / "out" / layer.name / "layer.tar")


def test_a_writer_gets_the_file_of_a_filtered_layer(tmp_path: Path) -> None:
    program = """
import sys
from types import SimpleNamespace
from occystrap.constants import IMAGE_LAYER, ImageElement
from quaymirror.emit.pipeline import _WriterProxy
seen = []
with open(sys.argv[1], "wb") as file:
    proxy = _WriterProxy(SimpleNamespace(process_image_element=seen.append))
    proxy.process_image_element(ImageElement(IMAGE_LAYER, "name", file))
sys.exit(seen[0].temp_path != sys.argv[1])
"""
    command = [sys.executable, "-c", program, str(tmp_path / "layer")]
    assert subprocess.run(command, check=False).returncode == 0


@pytest.mark.parametrize(
    ("destination", "is_refused"),
    [
        (Destination("dir", "", "out"), False),
        (Destination("tar", "", "out.tar"), False),
        (Destination("dir", "", "out", {"expand": True}), True),
        (Destination("oci", "", "out"), True),
        (Destination("mounts", "", "out"), True),
    ],
    ids=["dir", "tar", "dir that unpacks", "oci", "mounts"],
)
def test_only_what_unpacks_images_needs_a_python_that_can_check_them(
    destination: Destination, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(tarfile, "data_filter")  # as in Python 3.11.2
    with pytest.raises(EmitFailed, match="Python 3") if is_refused else nullcontext(), confined(destination):
        pass


async def test_a_filter_gets_layers_that_the_destination_has_already(tmp_path: Path) -> None:
    out = tmp_path / "out"
    await emit(make_job(tmp_path, "plain", LAYERS, "dir", out))
    await emit(make_job(tmp_path, "nova", LAYERS, "dir", out, "exclude:pattern=b"))
    excluded = out / manifest(out, "nova")["Layers"][1]
    with tarfile.open(excluded) as tar:
        assert tar.getnames() == []


async def test_layers_that_the_destination_has_are_not_passed_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = make_job(tmp_path, "nova", LAYERS, "dir", out)
    await emit(job)
    there = tuple(StagedLayer(layer.name, None) for layer in job.layers)
    again = make_job(tmp_path, "again", [], "dir", out)
    await emit(Job(**{name: getattr(again, name) for name in again.__slots__} | {"layers": there}))
    assert manifest(out, "again")["Layers"] == manifest(out, "nova")["Layers"]


async def test_a_failing_filter_publishes_nothing_and_is_named(tmp_path: Path) -> None:
    layers = [*LAYERS, b"this is no archive" * 100]
    for scheme, path in (("dir", tmp_path / "out"), ("tar", tmp_path / "nova.tar")):
        with pytest.raises(EmitFailed, match=r"kolla/.*: filter normalize-timestamps failed: "):
            await emit(make_job(tmp_path, scheme, layers, scheme, path, "normalize-timestamps"))

        assert not path.exists()


async def test_a_failing_output_is_named(tmp_path: Path) -> None:
    job = make_job(tmp_path, "nova", LAYERS, "docker", Path())
    with pytest.raises(EmitFailed, match="kolla/nova:latest: output docker failed: "):
        await emit(job)


async def test_catalogs_hold_every_image_however_many_processes_finish_at_once(tmp_path: Path) -> None:
    names = [f"image-{number}" for number in range(32)]
    async with Workers.open(4) as workers, anyio.create_task_group() as tasks:
        for name in names:
            job = make_job(tmp_path, name, LAYERS, "dir", tmp_path / "out")
            tasks.start_soon(workers.run, calls.emit, job)

    catalog = json.loads((tmp_path / "out" / "catalog.json").read_text())
    assert sorted(catalog) == sorted(f"kolla/{name}" for name in names)


async def test_a_damaged_catalog_is_reported(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "catalog.json").write_text('{"kolla/no')
    with pytest.raises(EmitFailed, match=r"catalog\.json is not valid JSON"):
        await emit(make_job(tmp_path, "nova", LAYERS, "dir", tmp_path / "out"))


async def test_all_output_of_filters_is_returned(tmp_path: Path) -> None:
    shared = tmp_path / "layers.jsonl"
    filters = ("search:pattern=?,script_friendly=true", f"inspect:file={shared}")
    names = [f"image-{number}" for number in range(8)]
    emissions = {}
    async with Workers.open(4) as workers, anyio.create_task_group() as tasks:

        async def one(name: str) -> None:
            job = make_job(tmp_path, name, LAYERS, "tar", tmp_path / f"{name}.tar", *filters)
            emissions[name] = await workers.run(calls.emit, job)

        for name in names:
            tasks.start_soon(one, name)

    for name, emission in emissions.items():
        assert [line.split(":")[0] for line in emission.printed] == [f"kolla/{name}"] * 3
        assert [line[-1] for line in emission.printed] == ["a", "b", "c"]

    lines = [json.loads(line) for line in shared.read_text().splitlines()]
    assert sorted(line["name"] for line in lines) == [f"kolla/{name}:latest" for name in names]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nonsense", "Unknown filter"),
        ("exclude", "requires pattern"),
        ("exclude:pattern", "missing ="),
        ("inspect", "requires file"),
        ("search:pattern=(,regex=true", "missing \\)"),
        ("", "Empty filter"),
    ],
)
async def test_a_filter_that_occystrap_rejects_is_refused_in_advance(text: str, words: str) -> None:
    async with Workers.open(1) as workers:
        with pytest.raises(ConfigError, match=f"--filter .*{words}"):
            await workers.run(calls.check, Destination("dir", "", "x"), (text,))
