"""The examples, read by the programs they are for."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import layouts
import peers
import pytest
from commands import run
from organizations import TAG, kolla

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


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_understands_the_units(tmp_path: Path) -> None:
    for unit in (EXAMPLES / "systemd").iterdir():
        text = unit.read_text().replace("/usr/local/bin/quaymirror", "/bin/true").replace("man:quaymirror(1)", "")
        (tmp_path / unit.name).write_text(text)

    command = ["systemd-analyze", "verify", "--man=no", *map(str, sorted(tmp_path.iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "quaymirror" not in done.stderr


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
    ],
)
def test_pipelines_fit_the_schemas_of_their_services(file: str, schema: list[str]) -> None:
    pytest.importorskip("check_jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", *schema, str(EXAMPLES / "ci" / file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def test_the_cron_job_fits_the_schemas_of_kubernetes() -> None:
    """They are too large to be installed for a test: this runs where `kubernetes-validate` is."""
    pytest.importorskip("kubernetes_validate")
    command = [sys.executable, "-m", "kubernetes_validate", "--strict", str(EXAMPLES / "kubernetes/cronjob.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


async def test_pipelines_use_existing_commands(tmp_path: Path) -> None:
    """Every command line of the examples is understood, up to where it would ask quay.io."""
    text = (EXAMPLES / "quaymirror.toml").read_text()
    (tmp_path / "quaymirror.toml").write_text(text.replace("/var/lib/quaymirror", str(tmp_path)))
    texts = [path.read_text() for path in EXAMPLES.rglob("*") if path.is_file()]
    lines = {line for text in texts for line in re.findall(r"(?m)(?:^|[ /])quaymirror (run .*)$", text)}
    assert len(lines) >= 3
    for line in lines:
        words = [word if "/" not in word else str(tmp_path / Path(word).name) for word in line.split()]
        done = await run(*words, "--dry-run", "--server", "http://127.0.0.1:1", "--retries", "0", cwd=tmp_path)
        assert done.returncode == 5, done.stderr
