"""The workers of a cluster fetch the blobs of a run: in this process, and as real processes of Dask."""

from __future__ import annotations

import asyncio
import base64
import gc
import importlib.util
import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import click
import peers
import pytest
import trustme
from aiohttp import web
from click.testing import CliRunner
from organizations import TAG, kolla, small_image, unique_bytes
from receiver import Breakage, Receiver, Request, refusal

import quaymirror
from quaymirror import Options, Selection, Status
from quaymirror.cli.main import main
from quaymirror.errors import ConfigError, ConnectFailed, ExitCode, Side
from quaymirror.events import Event, Notice
from quaymirror.http.limiter import PauseSeen, ignore_pause
from quaymirror.run.cluster import Cluster, _reason
from quaymirror.run.cluster_worker import BlobOrder, BlobResult, Worker, settings_of
from quaymirror.secret import Credentials, Secret
from quaymirror.testing import Call, Fault, Hold, QuayServer, Registry, SourceManifest, too_many_requests

ADDRESS = "tcp://127.0.0.1:8786"
NEEDS_DASK = pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="distributed is not installed")


class InProcess:
    """Workers in this process, which get their orders and give their results as bytes."""

    def __init__(self) -> None:
        self.address = ADDRESS
        self.threads, self.workers = 4, 2
        self.pause_seen: PauseSeen = ignore_pause
        self.messages: list[bytes] = []
        self.refuses = False
        self.repeats = 1
        self.told: list[tuple[str, float]] = []
        self.members = [Worker(self._pause, f"worker-{number}") for number in range(self.workers)]

    async def bring(self, order: BlobOrder) -> BlobResult:
        if self.refuses:
            raise ConnectFailed("all of them are busy")

        message = pickle.dumps(order)
        self.messages.append(message)
        result = BlobResult()
        for _ in range(self.repeats):
            worker = self.members[len(self.messages) % len(self.members)]
            done = pickle.dumps(await worker.carry_out(pickle.loads(message)))
            result = pickle.loads(done)

        return result

    def _pause(self, host: str, seconds: float, reason: str) -> None:
        self.told.append((host, seconds))
        self.pause_seen(host, seconds, reason)
        for member in self.members:
            member.pause(host, seconds, reason)

    @asynccontextmanager
    async def open(self, *_: object) -> AsyncIterator[InProcess]:
        yield self


@pytest.fixture
async def cluster(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[InProcess]:
    workers = InProcess()
    monkeypatch.setattr(Cluster, "open", workers.open)
    yield workers
    for member in workers.members:
        await member.close()


def options_for(server: QuayServer, directory: Path, **more: object) -> Options:
    return Options.of(server=server.url, state=directory / "state", cluster=ADDRESS, **more)


async def test_a_run_that_orders_no_blob_says_nothing_of_workers(tmp_path: Path, cluster: InProcess) -> None:
    registry, _ = kolla(1)
    notices: list[Notice] = []

    def observe(event: Event) -> None:
        if isinstance(event, Notice):
            notices.append(event)

    async with QuayServer(registry) as server, Receiver() as target:
        options = options_for(server, tmp_path)
        await quaymirror.sync(Selection("kolla", "*", TAG), target.address, options)
        await quaymirror.sync(Selection("kolla", "*", TAG), target.address, options, observer=observe)

    assert cluster.messages
    assert not notices


async def test_workers_fetch_each_blob_once_and_the_report_names_them(tmp_path: Path, cluster: InProcess) -> None:
    registry, images = kolla(12)
    blobs = {digest for image in images.values() for digest in image.all_blobs()}
    async with QuayServer(registry) as server, Receiver() as target:
        report = await quaymirror.sync(Selection("kolla", "*", TAG), target.address, options_for(server, tmp_path))
        assert report.exit_code is ExitCode.OK
        assert (
            server.blob_bytes()
            == unique_bytes(images)
            == sum(worker["bytes_fetched"] for worker in report.workers.values())
        )
        assert set(report.to_json()["workers"]) == {"worker-0", "worker-1"}
        assert report.progress.worker_bytes == {name: each["bytes_fetched"] for name, each in report.workers.items()}
        assert sum(worker["blobs"] for worker in report.workers.values()) == len(cluster.messages) == len(blobs)
        manifests = sum(len(image.raw) + sum(len(each.raw) for each in image.children) for image in images.values())
        assert report.bytes_fetched == unique_bytes(images) + manifests
        assert all(target.manifests[f"kolla/{name}"][TAG][1] == image.raw for name, image in images.items())


async def test_messages_hold_no_secrets(tmp_path: Path, cluster: InProcess) -> None:
    registry, _ = kolla(1)
    secret = Secret("hunter2")
    mine = Credentials("me", secret)
    async with QuayServer(registry) as server, Receiver() as target:
        options = options_for(server, tmp_path, dest_credentials=mine, environment={"PASSWORD": "hunter2"})
        await quaymirror.sync(Selection("kolla", "*", TAG), target.address, options)

    cluster.messages.append(pickle.dumps(settings_of(options.replace(api_token=secret, credentials=mine), 1)))
    assert len(cluster.messages) > 1
    assert not any(b"hunter2" in message for message in cluster.messages)


async def test_workers_read_their_credentials_again_in_each_run(
    tmp_path: Path, cluster: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def login(password: str) -> str:
        return base64.b64encode(f"mirror:{password}".encode()).decode()

    def check(request: Request) -> web.Response | None:
        if request.headers.get("Authorization") == f"Basic {login('right')}":
            return None

        answer = refusal(401, "UNAUTHORIZED")
        answer.headers["WWW-Authenticate"] = 'Basic realm="mirror"'
        return answer

    registry, images = kolla(2)
    authfile, mine = tmp_path / "auth.json", Credentials("mirror", Secret("right"))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(authfile))
    brought: list[int] = []
    async with QuayServer(registry) as server, Receiver() as target:
        target.breakages = [Breakage(method, "", check, nth=0) for method in ("GET", "HEAD", "POST", "PUT", "PATCH")]
        for password, name in zip(("wrong", "right"), images, strict=True):
            authfile.write_text(json.dumps({"auths": {target.host: {"auth": login(password)}}}))
            options = options_for(server, tmp_path, dest_credentials=mine)
            report = await quaymirror.sync(Selection("kolla", name, TAG), target.address, options)
            assert report.exit_code is ExitCode.OK
            brought.append(sum(worker["blobs"] for worker in report.workers.values()))

    assert brought[0] == 0 < brought[1]


async def test_an_order_that_is_given_again_costs_one_request_to_the_target(tmp_path: Path, cluster: InProcess) -> None:
    registry, images = kolla(2)
    cluster.repeats = 2
    async with QuayServer(registry) as server, Receiver() as target:
        report = await quaymirror.sync(Selection("kolla", "*", TAG), target.address, options_for(server, tmp_path))
        assert report.exit_code is ExitCode.OK
        assert server.blob_bytes() == unique_bytes(images)
        assert target.count("PUT", "/blobs/uploads/") == len(cluster.messages)


async def test_what_workers_can_not_bring_is_fetched_by_the_coordinator(tmp_path: Path, cluster: InProcess) -> None:
    registry, images = kolla(2)
    cluster.refuses, notices = True, list[str]()

    def observe(event: Event) -> None:
        if isinstance(event, Notice):
            notices.append(event.message)

    async with QuayServer(registry) as server, Receiver() as target:
        options = options_for(server, tmp_path)
        report = await quaymirror.sync(Selection("kolla", "*", TAG), target.address, options, observer=observe)
        assert report.exit_code is ExitCode.OK
        assert server.blob_bytes() == unique_bytes(images)

    assert "blobs that workers can't bring are left to this machine: all of them are busy" in notices
    assert notices[-1].startswith(f"0 workers at {ADDRESS} brought 0 blobs")


@pytest.mark.parametrize("size", [2_000, 2_000_000], ids=["small", "large"])
async def test_a_target_that_refuses_blobs_costs_the_source_no_more_than_a_run_of_one_machine(
    tmp_path: Path, cluster: InProcess, size: int
) -> None:
    registry = Registry()
    images = {name: small_image(name, size) for name in ("one", "two", "three")}
    for name, image in images.items():
        registry.organization("kolla").repository(name).push(TAG, image)

    costs: list[int] = []
    for address in (None, ADDRESS):
        async with QuayServer(registry) as server, Receiver() as target:
            target.breakages = [
                Breakage(method, "/blobs/uploads/", lambda _: refusal(422, "UNSUPPORTED"), nth=0)
                for method in ("PUT", "PATCH")
            ]
            options = options_for(server, tmp_path, retries=0).replace(cluster=address)
            report = await quaymirror.sync(Selection("kolla", "*", TAG), target.address, options)
            assert report.exit_code is ExitCode.PARTIAL
            assert [each.error.side for each in report.outcomes if each.error] == [Side.TARGET] * len(images)
            costs.append(server.blob_bytes())

    assert cluster.messages
    assert costs[1] <= costs[0]


async def test_a_pause_that_a_host_asks_of_one_worker_holds_for_all(tmp_path: Path, cluster: InProcess) -> None:
    registry, _ = kolla(3)
    async with QuayServer(registry) as server, Receiver() as target:
        server.faults.append(Fault("^/v2/.*/blobs/", too_many_requests("1"), times=1))
        report = await quaymirror.sync(Selection("kolla", "*", TAG), target.address, options_for(server, tmp_path))
        assert report.exit_code is ExitCode.OK
        [(host, seconds)] = cluster.told
        assert seconds == 1
        # Both workers were told, and the coordinator counts the pause as its own.
        assert report.hosts[host].pauses >= 1
        refused = next(request.at for request in server.requests if request.status == 429)
        in_pause = [one for one in server.requests if "/blobs/" in one.path and refused < one.at < refused + 0.95]
        assert len(in_pause) <= 4 * cluster.threads


async def test_an_order_of_another_version_is_refused_by_the_worker(tmp_path: Path, cluster: InProcess) -> None:
    registry, _ = kolla(1)
    async with QuayServer(registry) as server, Receiver() as target:
        await quaymirror.sync(Selection("kolla", "*", TAG), target.address, options_for(server, tmp_path))

    order: BlobOrder = pickle.loads(cluster.messages[0])
    result = await Worker(ignore_pause).carry_out(
        BlobOrder(order.run_id, order.source, order.job, order.place, (), "0")
    )
    assert result.failure is not None
    assert result.failure.is_a(ConfigError)
    assert "install the same" in result.failure.message


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--cluster", "tcp://scheduler.example:8786", "--to", "registry://r.example"], "use tls://"),
        (["--cluster", ADDRESS, "--to", "mirror"], "--cluster needs a registry"),
        (["--cluster", ADDRESS, "--to", "s3://bucket"], "--cluster needs a registry"),
    ],
)
def test_contradictions_are_refused_before_any_request(words: list[str], says: str) -> None:
    result = CliRunner().invoke(main, ["sync", "kolla", *words], standalone_mode=False)
    text = str(result.exception) if isinstance(result.exception, click.UsageError | ConfigError) else result.output
    assert says in text


async def test_without_the_extra_one_line_names_it_before_any_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    registry, _ = kolla(1)
    async with QuayServer(registry) as server, Receiver() as target:
        with pytest.raises(ConfigError, match=r"pip install 'quaymirror\[cluster\]'"):
            await quaymirror.sync(Selection("kolla", "*", TAG), target.address, options_for(server, tmp_path))

        assert not server.requests
        assert not target.requests


class Processes:
    """A scheduler and workers of Dask, each a process."""

    def __init__(self, directory: Path, threads: int, environment: Mapping[str, str]) -> None:
        self.port = peers.free_port()
        self.environment = environment
        self._protocol = "tls" if environment else "tcp"
        self.address = f"{self._protocol}://127.0.0.1:{self.port}"
        self._directory = directory
        self._threads = threads
        self.workers: list[subprocess.Popen[bytes]] = []
        self._all: list[subprocess.Popen[bytes]] = []

    def start(self, workers: int) -> None:
        here = ("--host", "127.0.0.1", "--no-dashboard", "--protocol", self._protocol)
        scheduler = self._start("dask_scheduler", *here, "--port", str(self.port))
        peers.wait_for(self.port, scheduler)
        threads = ("--no-nanny", "--nthreads", str(self._threads))
        self.workers = [self._start("dask_worker", self.address, *here, *threads) for _ in range(workers)]

    def stop(self) -> None:
        for process in reversed(self._all):
            process.kill()
            process.wait()

    def _start(self, module: str, *words: str) -> subprocess.Popen[bytes]:
        with (self._directory / f"{module}-{len(self._all)}.log").open("wb") as log:
            command = [sys.executable, "-m", f"distributed.cli.{module}", *words]
            environment = {**os.environ, **self.environment}
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._directory, env=environment)

        self._all.append(process)
        return process


@contextmanager
def processes(
    directory: Path, workers: int = 2, threads: int = 2, environment: Mapping[str, str] | None = None
) -> Iterator[Processes]:
    made = Processes(directory, threads, environment or {})
    try:
        made.start(workers)
        yield made
    finally:
        made.stop()


async def start_sync(
    directory: Path, server: QuayServer, host: str, dask: Processes, *words: str
) -> asyncio.subprocess.Process:
    to = ("--to", f"registry://{host}?insecure=true", "--cluster", dask.address)
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "quaymirror", "sync", "kolla", "*", TAG, "--server", server.url, *to),
        *("--report", "report.json", "--progress", "none", *words),
        cwd=directory,
        env={**os.environ, "XDG_STATE_HOME": str(directory / "xdg"), **dask.environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


def check_pulled(host: str, images: Mapping[str, SourceManifest]) -> None:
    for name, image in images.items():
        reference = f"docker://{host}/kolla/{name}:{TAG}"
        assert peers.skopeo("inspect", "--raw", "--tls-verify=false", reference).encode() == image.raw


@NEEDS_DASK
@pytest.mark.interop
async def test_processes_of_dask_bring_the_blobs_although_one_is_killed(tmp_path: Path) -> None:
    registry, images = kolla(8)
    with peers.DockerRegistry(tmp_path) as target, processes(tmp_path) as dask:
        async with QuayServer(registry) as server:
            run = await start_sync(tmp_path, server, target.host, dask)
            while not server.blob_bytes():
                await anyio.sleep(0.01)

            dask.workers[0].kill()
            _, error = await run.communicate()
            assert run.returncode == 0, error.decode()
            assert b"distributed" not in error
            report = json.loads((tmp_path / "report.json").read_text())
            assert report["images"]["mirrored"] == len(images)
            assert sum(worker["blobs"] for worker in report["workers"].values()) >= 1

        check_pulled(target.host, images)


@NEEDS_DASK
async def test_without_a_scheduler_or_workers_a_run_ends_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quaymirror.run import cluster

    monkeypatch.setattr(cluster, "_FIRST_WORKER_SECONDS", 0.1)
    address = f"tcp://127.0.0.1:{peers.free_port()}"
    with monkeypatch.context() as patch:
        # A refused connection is tried again until this time is over.
        patch.setattr(cluster, "_CONNECT_SECONDS", 1.0)
        with pytest.raises(ConnectFailed, match="can't be reached: ") as raised:
            async with Cluster.open(address, "run"):
                pass

    assert raised.value.exit_code is ExitCode.UNAVAILABLE
    with processes(tmp_path, workers=0) as dask, pytest.raises(ConnectFailed, match="no workers at tcp://"):
        async with Cluster.open(dask.address, "run"):
            pass


@asynccontextmanager
async def silent_server() -> AsyncIterator[str]:
    """Accept connections and say nothing; the value is the address, as that of a scheduler."""
    ended = asyncio.Event()

    async def say_nothing(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    try:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        ended.set()
        server.close()
        await server.wait_closed()


@NEEDS_DASK
@pytest.mark.timeout(30)
async def test_a_server_that_says_nothing_is_no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    from quaymirror.run import cluster

    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 0.3)
    async with silent_server() as address:
        with pytest.raises(ConnectFailed, match="can't be reached: no answer"):
            async with Cluster.open(address, "run"):
                pass


@NEEDS_DASK
@pytest.mark.timeout(30)
async def test_a_server_of_http_is_no_scheduler() -> None:
    async with QuayServer(kolla(1)[0]) as server:
        address = server.url.replace("http:", "tcp:")
        with pytest.raises(ConnectFailed, match="can't be reached: no answer of a scheduler"):
            async with Cluster.open(address, "run"):
                pass


@NEEDS_DASK
@pytest.mark.timeout(30)
async def test_a_run_that_connects_to_a_cluster_can_be_stopped(tmp_path: Path) -> None:
    stop = quaymirror.Stop()
    registry, _ = kolla(1)
    async with silent_server() as address, QuayServer(registry) as server, Receiver() as target:
        options = options_for(server, tmp_path).replace(cluster=address)
        stop.request("stopped by SIGTERM", ExitCode.TERMINATED)
        report = await quaymirror.sync(Selection("kolla", "*", TAG), target.address, options, stop=stop)
        assert report.exit_code is ExitCode.TERMINATED
        assert not server.requests


@NEEDS_DASK
async def test_a_run_goes_on_by_itself_when_its_cluster_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quaymirror.run import cluster

    for name, seconds in (("_LOOK_SECONDS", 0.1), ("_LOST_SECONDS", 0.5)):
        monkeypatch.setattr(cluster, name, seconds)

    registry, images = kolla(60)
    with processes(tmp_path) as dask:
        async with QuayServer(registry) as server, Receiver() as target:

            def kill_all(_: object) -> None:
                dask.stop()

            target.breakages = [Breakage("PUT", "/blobs/uploads/", kill_all, nth=3)]
            notices: list[str] = []

            def observe(event: Event) -> None:
                if isinstance(event, Notice):
                    notices.append(event.message)

            options = options_for(server, tmp_path).replace(cluster=dask.address)
            report = await quaymirror.sync(Selection("kolla", "*", TAG), target.address, options, observer=observe)
            assert report.exit_code is ExitCode.OK
            assert any("left to this machine: " in text and "its scheduler or all of its" in text for text in notices)
            assert all(target.manifests[f"kolla/{name}"][TAG][1] == image.raw for name, image in images.items())


async def interrupted(run: asyncio.subprocess.Process, then: Callable[[], None]) -> str:
    """Send SIGINT to a run, call `then` once it says that it stops, and return all that it says until its end."""
    run.send_signal(signal.SIGINT)
    assert run.stderr is not None
    said = ""
    async for line in run.stderr:
        said += line.decode()
        if "stopping" in line.decode():
            then()

    await run.wait()
    return said


@NEEDS_DASK
@pytest.mark.parametrize("signals", [1, 2])
async def test_a_run_with_workers_ends_on_a_signal_and_the_next_one_completes_it(tmp_path: Path, signals: int) -> None:
    registry, images = kolla(20)
    asked, held = asyncio.Event(), asyncio.Event()
    with processes(tmp_path) as dask:
        async with QuayServer(registry) as server, Receiver() as target:
            server.faults += [
                Fault("/blobs/", Hold(held), nth=12),
                Fault("/blobs/", Call(lambda _: asked.set()), nth=12),
            ]
            run = await start_sync(tmp_path, server, target.host, dask, "--concurrency", "2", "--progress", "plain")
            await asked.wait()
            # Once, what has begun is finished; twice, no blob is waited for.
            said = await interrupted(run, held.set if signals == 1 else partial(run.send_signal, signal.SIGINT))
            assert run.returncode == ExitCode.INTERRUPTED, said
            assert "Traceback" not in said
            assert "distributed" not in said
            report = json.loads((tmp_path / "report.json").read_text())
            assert report["images"]["mirrored"] < len(images)
            server.faults.clear()
            run = await start_sync(tmp_path, server, target.host, dask)
            _, error = await run.communicate()
            assert run.returncode == 0, error.decode()
            assert all(target.manifests[f"kolla/{name}"][TAG][1] == image.raw for name, image in images.items())


@NEEDS_DASK
async def test_a_run_with_workers_ends_at_its_time_limit(tmp_path: Path) -> None:
    registry, images = kolla(4)
    options = {"concurrency": 1, "max_duration": 3.0}
    with processes(tmp_path) as dask:
        async with QuayServer(registry) as server, Receiver() as target:
            # No worker gets this blob.
            server.faults.append(Fault("/blobs/", Hold(asyncio.Event()), nth=2))
            limited = options_for(server, tmp_path, **options).replace(cluster=dask.address)
            report = await quaymirror.sync(Selection("kolla", "*", TAG), target.address, limited)
            assert report.exit_code is ExitCode.PARTIAL
            assert report.stopped == "the time limit was reached"
            assert report.counts[Status.MIRRORED] < len(images)
            server.faults.clear()
            report = await quaymirror.sync(
                Selection("kolla", "*", TAG), target.address, limited.replace(max_duration=None)
            )
            assert report.exit_code is ExitCode.OK
            assert all(target.manifests[f"kolla/{name}"][TAG][1] == image.raw for name, image in images.items())


@dataclass(frozen=True)
class Certificates:
    """The files of one authority, and the settings of Dask that name them."""

    files: Mapping[str, Path]

    @classmethod
    def of(cls, authority: trustme.CA, directory: Path) -> Certificates:
        directory.mkdir()
        files = {name: directory / f"{name}.pem" for name in ("ca", "cert", "key")}
        issued = authority.issue_cert("127.0.0.1")
        authority.cert_pem.write_to_path(files["ca"])
        issued.cert_chain_pems[0].write_to_path(files["cert"])
        issued.private_key_pem.write_to_path(files["key"])
        return cls(files)

    @property
    def settings(self) -> dict[str, str]:
        own = {f"{role}.{name}": name for role in ("client", "scheduler", "worker") for name in ("cert", "key")}
        names = {"ca-file": "ca", **own}
        return {f"distributed.comm.tls.{key}": str(self.files[name]) for key, name in names.items()}

    @property
    def environment(self) -> dict[str, str]:
        names = {key: key.replace("-", "_").replace(".", "__").upper() for key in self.settings}
        return {f"DASK_{names[key]}": value for key, value in self.settings.items()}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.of(trustme.CA(), tmp_path_factory.mktemp("cluster") / "tls")


@NEEDS_DASK
async def test_workers_are_reached_over_tls(tmp_path: Path, certificates: Certificates) -> None:
    registry, images = kolla(3)
    with processes(tmp_path, environment=certificates.environment) as dask:
        assert dask.address.startswith("tls://")
        async with QuayServer(registry) as server, Receiver() as target:
            run = await start_sync(tmp_path, server, target.host, dask)
            _, error = await run.communicate()
            assert run.returncode == 0, error.decode()
            report = json.loads((tmp_path / "report.json").read_text())
            assert sum(worker["blobs"] for worker in report["workers"].values()) >= 1
            assert all(target.manifests[f"kolla/{name}"][TAG][1] == image.raw for name, image in images.items())


@NEEDS_DASK
@pytest.mark.parametrize(
    ("scheduler", "client", "reason"),
    [
        ("none", "own", "it does not use TLS: give it certificates, and start it with --protocol tls"),
        ("other", "own", "its certificate is not trusted: self-signed certificate in certificate chain"),
        ("own", "none", "connection reset by peer: if it uses TLS, write tls://"),
    ],
    ids=["plain scheduler", "other authority", "plain client"],
)
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # Dask leaves the socket of a failed handshake open
async def test_schedulers_with_other_settings_of_tls_are_told_in_one_line(
    tmp_path: Path, certificates: Certificates, scheduler: str, client: str, reason: str
) -> None:
    import dask
    import distributed  # which adds its defaults to the configuration

    assert distributed
    others = {"own": certificates, "other": Certificates.of(trustme.CA(), tmp_path / "other")}
    environment = others[scheduler].environment if scheduler in others else {}
    with processes(tmp_path, workers=0, environment=environment) as made:
        address = f"{'tls' if client == 'own' else 'tcp'}://127.0.0.1:{made.port}"
        with dask.config.set(certificates.settings), pytest.raises(ConnectFailed) as raised:
            async with Cluster.open(address, "run"):
                pass

    assert raised.value.message == f"the scheduler at {address} can't be reached: {reason}"
    del raised
    gc.collect()


def test_a_scheduler_that_greets_before_the_handshake_does_not_use_tls() -> None:
    greeted = OSError("Timed out")
    greeted.__cause__ = ValueError("IOStream is not idle; cannot convert to SSL")
    assert _reason(greeted) == "it does not use TLS: give it certificates, and start it with --protocol tls"


@NEEDS_DASK
async def test_tls_without_certificates_is_refused_with_the_names_of_their_settings() -> None:
    with pytest.raises(ConfigError, match="needs certificates: set DASK_DISTRIBUTED__COMM__TLS__CA_FILE"):
        async with Cluster.open("tls://127.0.0.1:1", "run"):
            pass


@NEEDS_DASK
@pytest.mark.soak
@pytest.mark.interop
@pytest.mark.timeout(600)
@pytest.mark.parametrize("percent", [2, 40])
async def test_200_images_arrive_although_a_worker_is_killed(tmp_path: Path, percent: int) -> None:
    registry, images = kolla(200, layer_size=100_000)
    most, rate = unique_bytes(images), 30.0
    with peers.DockerRegistry(tmp_path) as target, processes(tmp_path, threads=4) as dask:
        async with QuayServer(registry) as server:
            run = await start_sync(tmp_path, server, target.host, dask, "--max-requests-per-second", str(rate))
            while server.blob_bytes() < most * percent / 100:
                await anyio.sleep(0.01)

            dask.workers[0].kill()
            _, error = await run.communicate()
            assert run.returncode == 0, error.decode()
            assert json.loads((tmp_path / "report.json").read_text())["images"]["mirrored"] == len(images)
            assert server.blob_bytes() <= 1.05 * most
            seconds = server.requests[-1].at - server.requests[0].at
            assert 0.9 * rate * seconds <= len(server.requests) <= 1.02 * rate * seconds

        check_pulled(target.host, images)
