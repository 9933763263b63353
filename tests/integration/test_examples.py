"""The examples, read by the programs they are for."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import layouts
import peers
import pytest
import yaml
from commands import run
from organizations import TAG, kolla
from serving import served

from quaymirror.cli.sync import sync
from quaymirror.testing import QuayServer, SourceManifest

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = [pytest.mark.interop, pytest.mark.timeout(180)]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[peers.DockerRegistry]:
    with peers.DockerRegistry(tmp_path) as registry:
        yield registry


async def mirrored(url: str, directory: Path) -> tuple[str, SourceManifest]:
    """Fill a registry by quaymirror; return the name and the manifest of one image."""
    source, images = kolla(2)
    async with QuayServer(source) as server:
        target = f"registry://{url.removeprefix('http://')}?insecure=true"
        await run("sync", "kolla", "*", TAG, "--server", server.url, "--to", target, cwd=directory, check=0)

    return next((name, image) for name, image in images.items() if not image.is_index)


async def test_registries_conf_lets_an_image_of_quay_io_come_from_the_mirror(
    tmp_path: Path, registry: peers.DockerRegistry
) -> None:
    name, image = await mirrored(registry.url, tmp_path)
    text = (EXAMPLES / "use-the-mirror/registries.conf").read_text()
    # Tests have no certificate; nor is there a quay.io that must not be asked.
    text = text.replace("registry.example:5000", registry.url.removeprefix("http://")) + "insecure = true\n"
    conf, place = tmp_path / "registries.conf", f"docker://quay.io/kolla/{name}:{TAG}"
    conf.write_text(text)
    raw = peers.skopeo("--registries-conf", str(conf), "inspect", "--raw", place)
    peers.skopeo("--registries-conf", str(conf), "copy", place, f"oci:{tmp_path}/pulled:{name}")

    assert raw.encode() == image.raw
    assert layouts.names(tmp_path / "pulled") == {name: image.digest}
    layouts.check(tmp_path / "pulled")
    assert [asked for asked in registry.requests() if asked.method == "GET" and "/blobs/" in asked.path]


@pytest.mark.soak
async def test_hosts_toml_lets_containerd_take_an_image_of_quay_io_from_the_mirror(
    tmp_path: Path, registry: peers.DockerRegistry
) -> None:
    name, image = await mirrored(registry.url, tmp_path)
    hosts = tmp_path / "certs.d" / "quay.io" / "hosts.toml"
    hosts.parent.mkdir(parents=True)
    text = (EXAMPLES / "use-the-mirror/hosts.toml").read_text()
    hosts.write_text(text.replace("https://registry.example:5000", registry.url))
    (tmp_path / "containerd").mkdir()
    with peers.containerd(tmp_path / "containerd") as address:
        ctr = ["ctr", "--address", address]
        pull = [*ctr, "content", "fetch", "--hosts-dir", str(tmp_path / "certs.d"), f"quay.io/kolla/{name}:{TAG}"]
        done = subprocess.run(pull, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        content = subprocess.run([*ctr, "content", "ls", "-q"], capture_output=True, text=True, check=True).stdout

    assert {image.digest, *image.all_blobs()} <= set(content.split())


def copied_units(directory: Path) -> list[str]:
    """Copy the units, with a program that exists everywhere; return their paths."""
    units = [unit for unit in (EXAMPLES / "systemd").iterdir() if unit.suffix in {".service", ".socket", ".timer"}]
    for unit in units:
        (directory / unit.name).write_text(unit.read_text().replace("/usr/local/bin/quaymirror", "/bin/true"))

    drop_ins = "quaymirror.service.d"
    shutil.copytree(EXAMPLES / "systemd" / drop_ins, directory / drop_ins)
    return [str(directory / unit.name) for unit in units]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_understands_the_units_and_finds_them_protected(tmp_path: Path) -> None:
    units = copied_units(tmp_path)
    verify = ["systemd-analyze", "verify", "--man=no", *units]
    done = subprocess.run(verify, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for unit in units:
        if unit.endswith(".service"):
            security = ["systemd-analyze", "security", "--offline=true", "--threshold=40", unit]
            done = subprocess.run(security, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0, done.stdout


def test_the_units_may_write_where_the_how_to_writes() -> None:
    service = (EXAMPLES / "systemd/quaymirror.service").read_text()
    writable = ["/var/lib/quaymirror", *re.findall(r"[ =-](/\S+)", re.findall(r"(?m)^ReadWritePaths=.*", service)[0])]
    page = (EXAMPLES.parent / "docs/how-to/nightly.md").read_text()
    written = re.findall(r'(?m)^(?:report|metrics-textfile|to) = "(/.+)"', page)
    assert len(written) == 3
    for path in written:
        assert any(Path(path).is_relative_to(directory) for directory in writable), path


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_timer_elapses_every_night() -> None:
    timer = (EXAMPLES / "systemd/quaymirror.timer").read_text()
    when = re.search(r"(?m)^OnCalendar=(.+)$", timer)
    assert when is not None
    command = ["systemd-analyze", "calendar", "--iterations=3", when[1]]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert len(re.findall(r"[0-9]{4}-[0-9]{2}-[0-9]{2} 02:00:00", shown)) == 3


@pytest.mark.parametrize(
    ("file", "schema"),
    [
        ("github-actions.yml", ["--builtin-schema", "vendor.github-workflows"]),
        ("gitlab-ci.yml", ["--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci"]),
        ("../compose/compose.yaml", ["--builtin-schema", "vendor.compose-spec"]),
    ],
)
def test_pipelines_fit_the_schemas_of_their_services(file: str, schema: list[str]) -> None:
    pytest.importorskip("check_jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", *schema, str(EXAMPLES / "ci" / file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["cluster.yaml", "cronjob.yaml", "shards.yaml"])
def test_manifests_fit_the_schemas_of_kubernetes(name: str) -> None:
    """The schemas are large: only `nox -s peers` installs `kubernetes-validate`."""
    pytest.importorskip("kubernetes_validate")
    command = [sys.executable, "-m", "kubernetes_validate", "--strict", str(EXAMPLES / "kubernetes" / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def pods(name: str) -> dict[str, dict[str, Any]]:
    """Return the pods of a manifest, by the names of their jobs and deployments."""
    documents = yaml.safe_load_all((EXAMPLES / "kubernetes" / name).read_text())
    specs = {one["metadata"]["name"]: one["spec"] for one in documents if one["kind"] in ("CronJob", "Deployment")}
    return {name: spec.get("jobTemplate", {"spec": spec})["spec"]["template"]["spec"] for name, spec in specs.items()}


@pytest.mark.parametrize("pod", [*pods("cronjob.yaml").values(), *pods("cluster.yaml").values()])
def test_pods_fit_the_restricted_level_of_pod_security(pod: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    for container in pod["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}

    allowed = {
        "configMap",
        "secret",
        "emptyDir",
        "persistentVolumeClaim",
        "projected",
        "downwardAPI",
        "csi",
        "ephemeral",
    }
    assert all({*volume} - {"name"} <= allowed for volume in pod["volumes"])
    assert pod["automountServiceAccountToken"] is False


def test_the_cron_job_keeps_to_its_time_and_its_names() -> None:
    documents = list(yaml.safe_load_all((EXAMPLES / "kubernetes/cronjob.yaml").read_text()))
    job = next(one for one in documents if one["kind"] == "CronJob")["spec"]
    pod = job["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    assert job["timeZone"]
    assert job["jobTemplate"]["spec"]["activeDeadlineSeconds"] > 4 * 3600
    names = {
        one["metadata"]["name"] for one in documents if one["kind"] in {"ConfigMap", "Secret", "PersistentVolumeClaim"}
    }
    assert names == {"quaymirror"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_alerts_fire_when_they_should() -> None:
    for words in (("check", "rules", "alerts.yml"), ("test", "rules", "alerts.test.yml")):
        command = ["promtool", *words]
        done = subprocess.run(
            command, cwd=EXAMPLES / "prometheus", capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


async def test_alerts_and_the_dashboard_use_metrics_that_exist(tmp_path: Path) -> None:
    registry, _ = kolla(2)
    async with QuayServer(registry) as server:
        words = ("sync", "kolla", "*", TAG, "--server", server.url, "--to", "m", "--metrics-textfile", "m.prom")
        await run(*words, cwd=tmp_path, check=0)

    async with served(tmp_path / "m") as client:
        await client.get("/v2/")
        texts = [(tmp_path / "m.prom").read_text(), (await client.get("/metrics")).body.decode()]

    written = {name for text in texts for name in re.findall(r"(?m)^(?:# HELP )?(quaymirror_\w+)", text)}
    # Those of runs with pauses, which this one did not have, are declared, too.
    assert "quaymirror_paused_seconds" in written
    for file in ("prometheus/alerts.yml", "grafana/quaymirror.json"):
        used = set(re.findall(r"quaymirror_[a-z_]+", (EXAMPLES / file).read_text()))
        assert len(used) >= 8
        assert used <= written

    dashboard = json.loads((EXAMPLES / "grafana/quaymirror.json").read_text())
    assert all(panel["targets"] and panel["gridPos"] for panel in dashboard["panels"])


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_the_recipe_builds_an_image_whose_user_can_write_to_the_mirror_only(tmp_path: Path) -> None:
    """`nox -s peers` makes the root file system and the wheels, so that no registry is needed."""
    root, wheels = (os.environ.get(f"PEERS_{name}", "") for name in ("ROOTFS", "WHEELS"))
    if not root or not wheels:
        pytest.skip("`nox -s peers` makes the root file system")

    storage = [f"--root={tmp_path}/storage", f"--runroot={tmp_path}/run", "--storage-driver=vfs"]

    def buildah(*words: str) -> str:
        command = [peers.require("buildah", everywhere=False), *storage, *words]
        done = subprocess.run(command, cwd=EXAMPLES.parent, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout.strip()

    (tmp_path / "Base").write_text("FROM scratch\nADD root.tar /\n")
    (tmp_path / "root.tar").hardlink_to(root)
    buildah("bud", "-q", "-t", "base", "-f", f"{tmp_path}/Base", str(tmp_path))
    recipe = ["--isolation=chroot", "--format=docker", "--pull-never", "--build-arg=BASE=localhost/base"]
    recipe += ["--build-arg=PIP_NO_INDEX=1", "--build-arg=PIP_FIND_LINKS=/wheels", f"--volume={wheels}:/wheels:ro"]
    recipe += ["-f", "examples/container/Containerfile", "."]
    # The other target is a part of this one.
    buildah("bud", "-q", *recipe[:-3], "--target=serve", "-t", "served", *recipe[-3:])
    image = json.loads(buildah("inspect", "--type=image", "served"))["Docker"]["config"]
    assert image["User"] == "10001:10001"
    assert image["Healthcheck"]["Test"][0] == "CMD"
    assert image["Cmd"][:2] == ["serve", "/mirror"]

    name = buildah("from", "--pull-never", "served")
    inside = ["run", "--isolation=chroot", name, "--"]
    assert buildah(*inside, "id", "-u") == "10001"
    buildah(*inside, "quaymirror", "demo", "--count", "2", "--to", "/mirror/demo", "--progress", "plain")
    assert "kolla/" in buildah(*inside, "quaymirror", "list", "ocidir:///mirror/demo")
    pruned = "\\( -path /proc -o -path /sys -o -path /dev \\) -prune"
    search = f"find / -xdev {pruned} -o -type d -writable -print 2>/dev/null; true"
    writable = {line for line in buildah(*inside, "sh", "-c", search).splitlines() if not line.startswith("/mirror")}
    assert {path for path in writable if not path.startswith(("/tmp", "/var/tmp", "/run/lock"))} == set()


class Chat(BaseHTTPRequestHandler):
    """Takes messages of a chat."""

    got: ClassVar[list[tuple[str, str, str, dict[str, str]]]] = []

    def handle_message(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.got.append((self.command, self.path, self.headers.get("Authorization", ""), body))
        self.send_response(200)
        self.end_headers()

    do_POST = do_PUT = handle_message  # noqa: N815 - the names of http.server

    def log_message(self, *_: object) -> None:
        return


async def test_the_script_for_notifications_sends_the_summary_of_a_run(tmp_path: Path) -> None:
    summary = tmp_path / "summary.json"
    registry, _ = kolla(2)
    async with QuayServer(registry) as server:
        words = ("sync", "kolla", "*", TAG, "--server", server.url, "--to", "m", "--glob", "nova-lost")
        await run(*words, "--notify-command", f"cp /dev/stdin {summary}", cwd=tmp_path, check=3)

    (tmp_path / "sendmail").write_text(f'#!/bin/sh\nexec cat > "{tmp_path}/mail"\n')
    (tmp_path / "sendmail").chmod(0o755)
    Chat.got.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Chat) as chat:
        threading.Thread(target=chat.serve_forever, daemon=True).start()
        (tmp_path / "secret").write_text(f"http://127.0.0.1:{chat.server_port}/hook\nsesame\n")

        def notify(text: str, *words: str) -> None:
            command = [sys.executable, str(EXAMPLES / "notify/notify.py"), *words, f"--sendmail={tmp_path}/sendmail"]
            subprocess.run(command, cwd=tmp_path, input=text, text=True, check=True)

        notify(json.dumps(json.loads(summary.read_text()) | {"exit_code": 0}), "slack", "secret")
        assert not Chat.got
        for channel in (("mail", "ops@example.org"), ("slack", "secret"), ("matrix", "secret", "!room:example.org")):
            notify(summary.read_text(), *channel)

        chat.shutdown()

    said = "quaymirror: partial: some images failed or are missing (exit code 3)"
    assert f"Subject: {said}" in (tmp_path / "mail").read_text().replace("\n ", " ")
    slack, matrix = Chat.got
    assert slack[:3] == ("POST", "/hook", "")
    assert slack[3]["text"].startswith(said)
    assert (matrix[0], matrix[2]) == ("PUT", "Bearer sesame")
    assert matrix[1].startswith("/hook/_matrix/client/v3/rooms/%21room%3Aexample.org/send/m.room.message/")
    assert matrix[3]["body"] == slack[3]["text"]
    assert "2 mirrored" in matrix[3]["body"]


async def test_pipelines_use_existing_commands(tmp_path: Path) -> None:
    """Every command line of the examples is understood, up to where it would ask quay.io."""
    text = (EXAMPLES / "quaymirror.toml").read_text()
    (tmp_path / "quaymirror.toml").write_text(re.sub('"/(?:var/lib/[a-z_]+|srv)/', f'"{tmp_path}/', text))
    texts = [path.read_text() for path in EXAMPLES.rglob("*") if path.is_file()]
    lines = {line.strip() for text in texts for line in re.findall(r"(?m)(?:^|[ /])quaymirror (run [^&\n]*)", text)}
    assert len(lines) >= 3
    for line in lines:
        words = [word if "/" not in word else str(tmp_path / Path(word).name) for word in line.split()]
        done = await run(*words, "--dry-run", "--server", "http://127.0.0.1:1", "--retries", "0", cwd=tmp_path)
        assert done.returncode == 5, done.stderr


def test_the_documented_processes_of_dask_listen_on_loopback_only() -> None:
    """Without TLS, any client that reaches a scheduler or a worker runs code there."""
    pytest.importorskip("distributed")
    from distributed.cli import dask_scheduler, dask_worker

    page = (EXAMPLES.parent / "docs/how-to/several-machines.md").read_text()
    mains = {"scheduler": dask_scheduler.main, "worker": dask_worker.main}
    lines = [line.split()[1:] for line in page.splitlines() if line.startswith("    dask ")]
    assert {name for name, *_ in lines} == set(mains)
    for name, *words in lines:
        given = mains[name].make_context(name, words).params
        assert given["host"] == "127.0.0.1"
        assert given["dashboard_address"].startswith("127.0.0.1:")


def test_the_cluster_of_the_example_understands_its_command_lines() -> None:
    """Scheduler and workers know the options, and the coordinator names the address of the scheduler's service."""
    pytest.importorskip("distributed")
    from distributed.cli import dask_scheduler, dask_worker

    found = pods("cluster.yaml")
    scheduler, worker, coordinator = (
        found[f"quaymirror-{name}"]["containers"][0] for name in ("scheduler", "worker", "cluster")
    )
    dask_scheduler.main.make_context("scheduler", scheduler["command"][2:])
    given = dask_worker.main.make_context("worker", [*worker["command"][2:], *worker["args"]]).params
    words = coordinator["args"]
    assert words[words.index("--cluster") + 1] == given["scheduler"] == "tls://quaymirror-scheduler:8786"
    assert sync.make_context("sync", words[1:]).params["cluster"] == given["scheduler"]
