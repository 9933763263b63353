"""Derived images: shared work is done once, failures affect one image, and interrupted runs leave no partial result."""

from __future__ import annotations

import gzip
import json
import os
import signal
import socketserver
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import anyio
import occy
import pytest
from commands import run
from forked_workers import fork_workers
from organizations import TAG, kolla, small_image
from peers import docker_daemon, docker_registry
from spec_reader import MANIFESTS, Remote

import quaymirror
from quaymirror import Selection
from quaymirror.emit.workers import Workers
from quaymirror.errors import EmitFailed, ExitCode, Phase
from quaymirror.testing import Blob, Layer, QuayServer, Registry, SourceManifest, digest_of, make_artifact, make_image

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def _workers_are_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    fork_workers(monkeypatch)


async def derive(server: QuayServer, to: str, *filters: str, **settings: Any) -> quaymirror.Report:
    options = quaymirror.Options.of(server=server.url, filters=filters, **settings)
    return await quaymirror.sync(Selection("kolla", "*", TAG), to, options)


def outcomes(report: quaymirror.Report) -> dict[str, str]:
    return {outcome.reference.repository.name: outcome.status.value for outcome in report.outcomes}


def registry_of(**images: SourceManifest) -> Registry:
    registry = Registry()
    for name, image in images.items():
        registry.organization("kolla").repository(name).push(TAG, image)

    return registry


def layer(archive: bytes) -> Layer:
    return Layer(Blob.of(gzip.compress(archive, 1)), digest_of(archive))


@pytest.mark.parametrize(
    ("to", "filters"),
    [("dir://{}/all", ()), ("tar://{}/{{repo}}.tar", ()), ("dir://{}/all", ("normalize-timestamps",))],
    ids=["dir", "tar", "filtered"],
)
async def test_a_layer_is_fetched_once_and_decompressed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, filters: tuple[str, ...]
) -> None:
    registry, _ = kolla(20)
    decompressed: Counter[str] = Counter()
    run = Workers.run

    async def counting(self: Workers, function: Callable[..., Any], *arguments: Any) -> Any:
        if function.__name__ == "prepare_layer":
            decompressed[arguments[0].name] += 1

        return await run(self, function, *arguments)

    monkeypatch.setattr(Workers, "run", counting)
    async with QuayServer(registry) as server:
        report = await derive(server, to.format(tmp_path), *filters)
        fetched = Counter(record.path.rpartition("/")[2] for record in server.requests if record.listener == "cdn")

    assert report.exit_code is ExitCode.OK
    assert set(fetched.values()) == set(decompressed.values()) == {1}
    assert len(decompressed) > 20


@pytest.mark.parametrize("filters", [(), ("normalize-timestamps", "exclude:pattern=b*")], ids=["plain", "filtered"])
async def test_the_next_run_neither_fetches_nor_decompresses_layers_that_other_images_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filters: tuple[str, ...]
) -> None:
    first = small_image("nova", 200_000)
    shared = Layer(first.blobs[1], digest_of(gzip.decompress(first.blobs[1].data)))
    second = make_image([shared, layer(gzip.decompress(small_image("glance").blobs[1].data))])
    registry = registry_of(nova=first)
    prepared: list[str] = []
    run = Workers.run

    async def counting(self: Workers, function: Callable[..., Any], *arguments: Any) -> Any:
        if function.__name__ == "prepare_layer":
            prepared.append(f"sha256:{arguments[0].name}")

        return await run(self, function, *arguments)

    async with QuayServer(registry) as server:
        await derive(server, f"dir://{tmp_path}/all", *filters)
        registry.organization("kolla").repository("glance").push(TAG, second)
        monkeypatch.setattr(Workers, "run", counting)
        before = len(server.requests)
        report = await derive(server, f"dir://{tmp_path}/all", *filters)
        fetched = {record.path.rpartition("/")[2] for record in server.requests[before:] if record.listener == "cdn"}

    assert outcomes(report) == {"kolla/nova": "unchanged", "kolla/glance": "mirrored"}
    assert shared.blob.digest not in fetched
    assert prepared == [second.blobs[2].digest]
    for name in ("nova", "glance"):
        document = json.loads((tmp_path / "all" / f"manifest-kolla_{name}-{TAG}.json").read_text())[0]
        config = json.loads((tmp_path / "all" / document["Config"]).read_text())
        contents = [(tmp_path / "all" / one).read_bytes() for one in document["Layers"]]
        assert [digest_of(content) for content in contents] == config["rootfs"]["diff_ids"]


async def test_layers_of_other_filters_are_not_used(tmp_path: Path) -> None:
    async with QuayServer(registry_of(nova=small_image("nova"))) as server:
        await derive(server, f"dir://{tmp_path}/all", "normalize-timestamps")
        report = await derive(server, f"dir://{tmp_path}/all", "normalize-timestamps:ts=5")

    assert outcomes(report) == {"kolla/nova": "mirrored"}
    [document] = json.loads((tmp_path / "all" / f"manifest-kolla_nova-{TAG}.json").read_text())
    for name in document["Layers"]:
        with tarfile.open(tmp_path / "all" / name) as tar:
            assert {member.mtime for member in tar} == {5}


@pytest.mark.parametrize(
    ("to", "place"),
    [("dir://{}/all", "all/kolla%2Fnova%3A2025.1-debian"), ("tar://{}/{{repo}}.tar", "nova")],
)
async def test_a_statement_says_where_a_derived_image_comes_from(tmp_path: Path, to: str, place: str) -> None:
    image = small_image("nova")
    async with QuayServer(registry_of(nova=image)) as server:
        assert (await derive(server, to.format(tmp_path), "normalize-timestamps")).exit_code == ExitCode.OK

    statement = json.loads((tmp_path / f"{place}.provenance.json").read_bytes())
    definition = statement["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["filters"] == ["normalize-timestamps"]
    assert {"sha256": image.digest.partition(":")[2]} in [one["digest"] for one in definition["resolvedDependencies"]]
    directory = tmp_path / "all" if to.startswith("dir") else tmp_path
    assert statement["subject"]
    for subject in statement["subject"]:
        content = (directory / subject["name"]).read_bytes()
        assert digest_of(content) == f"sha256:{subject['digest']['sha256']}"


async def test_info_shows_where_derived_images_come_from(tmp_path: Path) -> None:
    image = small_image("nova")
    async with QuayServer(registry_of(nova=image, glance=small_image("glance"))) as server:
        target = f"tar://{tmp_path}/all/{{repo}}.tar"
        assert (await derive(server, target, "normalize-timestamps")).exit_code == ExitCode.OK

    for place in (target, str(tmp_path / "all")):
        text = (await run("info", place, "kolla/nova:*", cwd=tmp_path, check=0)).stdout
        assert f"@{image.digest}" in text
        assert "filters:     normalize-timestamps" in text
        assert "https://slsa.dev/provenance/v1" in text
        assert "glance" not in text

    [_, shown] = json.loads((await run("info", target, "--json", cwd=tmp_path, check=0)).stdout)
    statement = json.loads((tmp_path / "all" / "nova.provenance.json").read_bytes())
    assert shown == {"image": "kolla/nova", "tag": TAG, "derived": shown["derived"]}
    assert shown["derived"]["provenance"] == statement


@pytest.mark.interop
async def test_in_a_registry_the_statement_is_a_referrer_of_the_derived_image(tmp_path: Path) -> None:
    image = small_image("nova")
    with docker_registry(tmp_path) as url:
        async with QuayServer(registry_of(nova=image)) as server:
            target = f"registry://{url.removeprefix('http://')}/derived?insecure=true"
            report = await derive(server, target, "normalize-timestamps", state=tmp_path / "state")
            assert report.exit_code == ExitCode.OK

        remote = Remote(url)
        derived = remote.digest("derived/kolla/nova", TAG)
        [found] = remote.referrers("derived/kolla/nova", derived)
        content = remote.get(f"derived/kolla/nova/manifests/{found}", MANIFESTS)
        assert content is not None
        manifest = json.loads(content)
        assert manifest["subject"]["digest"] == derived
        statement = remote.get(f"derived/kolla/nova/blobs/{manifest['layers'][0]['digest']}")
        assert statement is not None
        [subject] = json.loads(statement)["subject"]
        assert subject["digest"] == {"sha256": derived.partition(":")[2]}

        place = f"registry://{url.removeprefix('http://')}/derived/kolla/*:{TAG}?insecure=true"
        text = (await run("info", place, cwd=tmp_path, check=0)).stdout
        assert f"of    {derived}  kolla/nova" in text
        assert f"{image.digest}  docker://" in text
        assert "filters:     normalize-timestamps" in text
        [shown] = json.loads((await run("info", place, "--json", cwd=tmp_path, check=0)).stdout)
        assert shown["provenance"] == json.loads(statement)


async def test_info_of_a_registry_shows_only_statements_of_quaymirror_whatever_their_shape(tmp_path: Path) -> None:
    image = small_image("nova")
    registry = registry_of(nova=image)
    kind, build = "application/vnd.in-toto+json", "https://quaymirror.dev/derivation/v1"
    definition = {"buildType": build, "externalParameters": [], "resolvedDependencies": [7, {"uri": "\x1b[2J"}]}
    strange = {"predicateType": "made up", "subject": {}, "predicate": {"buildDefinition": definition}}
    contents = [b"{", b'{"predicate": {"buildDefinition": {"buildType": "of others"}}}', b'{"predicate": 7}']
    repository = registry.organization("kolla").repository("nova")
    async with QuayServer(registry, public_catalog=True) as server:
        words = ("info", f"registry://{server.host}/kolla/nova:{TAG}?insecure=true")
        for content in contents:
            repository.attach(make_artifact(kind, content, subject=image))

        assert "provenance" not in (await run(*words, cwd=tmp_path, check=0)).stdout
        repository.attach(make_artifact(kind, json.dumps(strange).encode(), subject=image))
        text = (await run(*words, cwd=tmp_path, check=0)).stdout
        assert "provenance:  made up" in text


async def test_a_failing_filter_fails_its_image_only_and_says_in_which_phase(tmp_path: Path) -> None:
    bad = make_image([layer(b"this is no archive" * 100)])
    async with QuayServer(registry_of(bad=bad, good=small_image("good"))) as server:
        for to in (f"dir://{tmp_path}/all", f"tar://{tmp_path}/tars/{{repo}}.tar"):
            report = await derive(server, to, "normalize-timestamps")
            assert outcomes(report) == {"kolla/bad": "failed", "kolla/good": "mirrored"}
            assert report.exit_code is ExitCode.PARTIAL
            [error] = [outcome.error for outcome in report.outcomes if outcome.error]
            assert (error.kind, error.phase) == (EmitFailed, Phase.STORE)
            assert "filter normalize-timestamps" in error.message

    assert [path for path in occy.tree(tmp_path) if "bad" in path] == []
    assert not list(tmp_path.rglob(".quaymirror/work"))


async def test_a_layer_left_incomplete_by_a_crash_is_not_used(tmp_path: Path) -> None:
    image = small_image("nova", 200_000)
    encoded = image.blobs[1].digest.partition(":")[2]
    (tmp_path / "all" / encoded).mkdir(parents=True)
    (tmp_path / "all" / encoded / "layer.tar").write_bytes(gzip.decompress(image.blobs[1].data)[:512])
    async with QuayServer(registry_of(nova=image)) as server:
        report = await derive(server, f"dir://{tmp_path}/all")

    assert report.exit_code is ExitCode.OK
    assert (tmp_path / "all" / encoded / "layer.tar").read_bytes() == gzip.decompress(image.blobs[1].data)


async def test_the_next_run_derives_images_that_changed_or_are_gone(tmp_path: Path) -> None:
    registry = registry_of(nova=small_image("nova"), glance=small_image("glance"))
    async with QuayServer(registry) as server:
        to = f"tar://{tmp_path}/{{repo}}.tar"
        await derive(server, to)
        assert set(outcomes(await derive(server, to)).values()) == {"unchanged"}
        (tmp_path / "nova.tar").unlink()
        assert outcomes(await derive(server, to)) == {"kolla/nova": "mirrored", "kolla/glance": "unchanged"}


@pytest.mark.parametrize("to", ["tar://{}/{{repo}}.tar", "oci://{}/{{repo}}"])
async def test_an_image_whose_file_another_run_has_replaced_is_not_unchanged(tmp_path: Path, to: str) -> None:
    registry, first, second = Registry(), "kolla", "openstack"
    for name in (first, second):
        registry.organization(name).repository("nova").push(TAG, small_image(name))

    async with QuayServer(registry) as server:
        settings = quaymirror.Options.of(server=server.url, allow_extract=True)
        for name, expected in ((first, "mirrored"), (second, "mirrored"), (second, "unchanged"), (first, "mirrored")):
            report = await quaymirror.sync(Selection(name, "*", TAG), to.format(tmp_path), settings)
            assert outcomes(report) == {f"{name}/nova": expected}


def slow_image() -> SourceManifest:
    """An image that filters need long for: of very many small members."""
    member = tarfile.TarInfo("etc/hostname").tobuf()
    return make_image([layer(member * 400_000 + bytes(1024))])


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGINT, ExitCode.INTERRUPTED, marks=pytest.mark.soak),
        (signal.SIGTERM, ExitCode.TERMINATED),
        (signal.SIGKILL, None),
    ],
)
async def test_a_run_that_is_terminated_ends_its_workers(
    tmp_path: Path, number: signal.Signals, code: ExitCode | None
) -> None:
    async with QuayServer(registry_of(slow=slow_image())) as server:
        command = [sys.executable, "-m", "quaymirror", "sync", "kolla", "*", TAG, "--server", server.url]
        command += ["--to", f"dir://{tmp_path}/all", "--progress", "none"]
        process = subprocess.Popen([*command, "-f", "normalize-timestamps"], stdout=subprocess.DEVNULL)
        workers = await _until(
            lambda: list((tmp_path / "all" / ".quaymirror").glob("work/layers/*.filtering/*")) and _children(process)
        )
        began = time.monotonic()
        process.send_signal(number)
        if code is not None:
            # The first one lets work in flight finish, the second one does not; two at a time may arrive as one.
            await anyio.sleep(0.2)
            process.send_signal(number)

        ended = await anyio.to_thread.run_sync(process.wait, 10)
        await _until(lambda: not any(map(_is_alive, workers)))
        assert time.monotonic() - began < 2  # one second, and a margin for a busy machine
        assert ended == (code if code is not None else -signal.SIGKILL)
        assert occy.tree(tmp_path) == {}
        if code is not None:
            assert not (tmp_path / "all" / ".quaymirror" / "work").exists()

        # The next run finds no obstacle.
        report = await derive(server, f"dir://{tmp_path}/all")
        assert report.exit_code is ExitCode.OK
        assert not (tmp_path / "all" / ".quaymirror" / "work").exists()


async def _until(condition: Callable[[], Any]) -> Any:
    with anyio.fail_after(60):
        while not (found := condition()):
            await anyio.sleep(0.02)

    return found


def _children(process: subprocess.Popen[bytes]) -> list[int]:
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in text.split()]


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


class Daemon(socketserver.ThreadingUnixStreamServer):
    """As much of a Docker Engine's API as loading images takes."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.images: dict[str, str] = {}
        self.layers: dict[str, list[bytes]] = {}
        super().__init__(str(path), DaemonHandler)


class DaemonHandler(BaseHTTPRequestHandler):
    server: Daemon

    def do_POST(self) -> None:
        if self.path != "/images/load":
            self.send_error(404)
            return

        left = int(self.headers["Content-Length"])
        with tarfile.open(fileobj=self.rfile, mode="r|", bufsize=512) as tar:
            files = {}
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                files[member.name] = file.read()

        assert left > 0
        [manifest] = json.loads(files["manifest.json"])
        for name in manifest["RepoTags"]:
            self.server.images[name] = "sha256:" + manifest["Config"].removesuffix(".json")
            self.server.layers[name] = [files[path] for path in manifest["Layers"]]

        self._send(200, b"{}")

    def do_GET(self) -> None:
        name = self.path.removeprefix("/images/").removesuffix("/json").replace("%3A", ":")
        known = self.server.images.get(name)
        self._send(200 if known else 404, json.dumps({"Id": known}).encode())

    def _send(self, status: int, body: bytes) -> None:
        self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def daemon(path: Path) -> Iterator[Daemon]:
    with Daemon(path) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


async def test_a_daemon_gets_every_image_and_is_asked_for_it_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = {name: small_image(name, 3000, 2000) for name in ("nova", "glance", "heat")}
    to = f"docker://?socket={tmp_path}/docker.sock"
    state = {"environment": {"XDG_STATE_HOME": str(tmp_path / "state")}}
    with daemon(tmp_path / "docker.sock") as docker:
        async with QuayServer(registry_of(**images)) as server:
            report = await derive(server, to, **state)
            assert report.exit_code is ExitCode.OK, [outcome.error for outcome in report.outcomes]
            for name, image in images.items():
                assert docker.images[f"{name}:{TAG}"] == image.document["config"]["digest"]
                assert docker.layers[f"{name}:{TAG}"] == [gzip.decompress(blob.data) for blob in image.blobs[1:]]

            assert set(outcomes(await derive(server, to, **state)).values()) == {"unchanged"}
            del docker.images[f"nova:{TAG}"]
            again = outcomes(await derive(server, to, **state))
            assert again == {"kolla/nova": "mirrored", "kolla/glance": "unchanged", "kolla/heat": "unchanged"}


@pytest.mark.interop
async def test_a_real_daemon_takes_what_it_takes_from_occystrap(tmp_path: Path) -> None:
    images = {name: small_image(name, 3000, 2000) for name in ("nova", "glance", "heat")}
    state = {"environment": {"XDG_STATE_HOME": str(tmp_path / "state")}}
    with docker_daemon(tmp_path) as address:
        to = f"docker://?socket={address.removeprefix('unix://')}"
        async with QuayServer(registry_of(**images)) as server:
            report = await derive(server, to, **state)
            assert report.exit_code is ExitCode.OK, [outcome.error for outcome in report.outcomes]
            ours = await anyio.to_thread.run_sync(_loaded, address)
            assert set(outcomes(await derive(server, to, **state)).values()) == {"unchanged"}
            for name in images:
                subprocess.run(["docker", "-H", address, "rmi", f"{name}:{TAG}"], check=True, capture_output=True)

            assert await anyio.to_thread.run_sync(_loaded, address) == {}
            to = to.replace("://?", "://x?")  # occystrap does not look at the name
            await anyio.to_thread.run_sync(occy.process, server.host, images, TAG, to)
            theirs = await anyio.to_thread.run_sync(_loaded, address)

    assert ours == theirs == {f"{name}:{TAG}": image.document["config"]["digest"] for name, image in images.items()}


def _loaded(address: str) -> dict[str, str]:
    command = ["docker", "-H", address, "images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return {name: identity for name, _, identity in (line.partition(" ") for line in lines)}


def _unmount(root: Path) -> None:
    for rootfs in root.glob("*/rootfs"):
        subprocess.run(["umount", str(rootfs)], check=False, capture_output=True)


def _can_mount(directory: Path) -> bool:
    for name in ("lower", "upper", "work", "merged"):
        (directory / name).mkdir(parents=True)

    options = f"lowerdir={directory}/lower,upperdir={directory}/upper,workdir={directory}/work"
    command = ["mount", "-t", "overlay", "overlay", "-o", options, str(directory / "merged")]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        return False

    subprocess.run(["umount", str(directory / "merged")], check=True)
    return True


@pytest.mark.interop
@pytest.mark.parametrize("address", ["oci://{}/{{repo}}", "mounts://{}/{{repo}}", "dir://{}/{{repo}}?expand=true"])
async def test_unpacked_images_equal_those_of_occystrap(tmp_path: Path, address: str) -> None:
    if address.startswith("mounts") and not _can_mount(tmp_path / "probe"):
        pytest.skip("overlay file systems can't be mounted here")

    registry, images = kolla(6)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    try:
        async with QuayServer(registry) as server:
            report = await derive(server, address.format(ours), allow_extract=True)
            assert report.exit_code is ExitCode.OK, [outcome.error for outcome in report.outcomes]
            with_names = address.format(theirs) + ("&unique_names=true" if "?" in address else "")
            await anyio.to_thread.run_sync(occy.process, server.host, images, TAG, with_names)

        trees = occy.tree(ours), occy.tree(theirs)
        assert any("var/lib/quaymirror" in path for path in trees[0])
        assert trees[0] == trees[1]
    finally:
        _unmount(ours)
        _unmount(theirs)
