"""The commands of the how-to guides, run in their order as they are written: no step is missing on a page.

Paths begin in a directory of the test, and the reader's own registries are servers of the test. A page's first commands
find what the page says is there: a mirror, a certificate, a key.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import anyio
import bcrypt
import peers
import pytest
import trustme
from organizations import TAG, small_image
from receiver import Receiver
from serving import write_layout
from signing import public_key
from source_signatures import sign_with_tag

from quaymirror.testing import QuayServer, Registry

HOW_TO = Path(__file__).parents[2] / "docs/how-to"
SHOWN_SERVER = "http://127.0.0.1:43211"
KOLLA_TAG = "2025.1-debian-bookworm"
_LOCAL = re.compile(r"(?:(?<=://)|(?<![\w./-]))/(srv|media|etc|var/lib|backup|tmp)/")
_REGISTRY = re.compile(r"registry://(?:registry\.inside:5000|registry\.example|mirror\.example)([^\s']*)")
pytestmark = pytest.mark.timeout(300)
# Programs of the pages that a test can run; others are tested with the peers.
# Their commands run with servers that imitate these registries.
FROM_REGISTRIES = {page.stem for page in HOW_TO.glob("from-*.md")} | {"other-registries"}
_PROGRAMS = ("quaymirror ", "rsync ", "cp ", "rm ", "mv ", "docker ", "skopeo ", "podman pull oci:")


def organizations() -> Registry:
    """Return the organizations of the pages, with few small images."""
    registry = Registry()
    for organization, tag in (("kolla", TAG), ("openstack.kolla", KOLLA_TAG), ("acme", "stable")):
        for name in ("nova-api", "nova-compute"):
            registry.organization(organization).repository(name).push(tag, small_image(f"{organization}/{name}"))

    registry.organization("openstack.kolla").repository("nova-api").push(f"{KOLLA_TAG}-aarch64", small_image("arm"))
    registry.organization("openstack.kolla").repository("nova-api").push("latest", small_image("latest"))
    return registry


def commands(page: str) -> list[str]:
    """Return the commands of a page, continued lines joined, without comments."""
    text = (HOW_TO / f"{page}.md").read_text(encoding="utf-8")
    found = re.findall(r"(?m)(?:^    [^\n]+\n)+|^ {6,}[^\n]+\n", text)
    found += re.findall(r"(?ms)^```console\n(.*?)^```", text)
    lines = (line.strip().partition("  #")[0].rstrip() for block in found for line in block.splitlines())
    return [line.removeprefix("$ ") for line in lines if line.removeprefix("$ ").startswith(_PROGRAMS)]


def toml_of(page: str) -> str:
    """Return the configuration file of a page."""
    (toml,) = re.findall(r"(?ms)^```toml\n(.*?)^```", (HOW_TO / f"{page}.md").read_text(encoding="utf-8"))
    return str(toml)


class Machine:
    """A machine of the reader: a directory in place of `/`, a home, and quaymirror on the path."""

    def __init__(self, root: Path, server: str, target: str) -> None:
        self.root, self.target = root, target
        self.home, self.work, bin_directory = root / "home", root / "work", root / "bin"
        for path in (
            "srv",
            "media",
            "etc/quaymirror",
            "etc/nginx",
            "etc/sysusers.d",
            "etc/tmpfiles.d",
            "etc/systemd/system",
            "var/lib/quaymirror",
            "var/lib/node_exporter",
            "tmp",
        ):
            (root / path).mkdir(parents=True)

        for directory in (self.home / ".ssh", self.work, bin_directory):
            directory.mkdir(parents=True)

        # Pages about units begin in a clone.
        (self.work / "examples").symlink_to(HOW_TO.parents[1] / "examples")
        program = bin_directory / "quaymirror"
        started = os.environ.get("NEWCOMER_PROGRAM") or f"{sys.executable} -m quaymirror"
        program.write_text(f'#!/bin/sh\nexec {started} "$@"\n')
        program.chmod(0o755)
        path = f"{bin_directory}:/usr/local/bin:/usr/bin:/bin"
        self.env = os.environ | {"PATH": path, "HOME": str(self.home), "QUAYMIRROR_SERVER": server}
        self.env.pop("XDG_STATE_HOME", None)

    def local(self, text: str) -> str:
        """Return a text with paths and registries of the test."""
        registry = _REGISTRY.sub(lambda found: f"registry://{self.target}{found[1]}?insecure=true", text)
        return _LOCAL.sub(lambda found: f"{self.root}/{found[1]}/", registry).replace("2026-03-03", time.strftime("%F"))

    def path(self, name: str) -> Path:
        """Return the path of the test for one of a page."""
        return Path(self.local(name))

    def mirror(self, *paths: str, organization: str = "kolla", tag: str = TAG) -> None:
        """Mirror an organization, as the page before did."""
        for path in paths:
            self.run(f"quaymirror sync {organization} '*' {tag} --to {path}")

    def run(self, line: str, *codes: int) -> str:
        """Type a line into a shell; return what it printed."""
        if line.startswith("quaymirror serve ") and "--write-nginx" not in line:
            return self.serve(line)

        done = subprocess.run(
            ["bash", "-c", self.local(line)], cwd=self.work, env=self.env, capture_output=True, text=True, check=False
        )
        assert done.returncode in (codes or (0,)), f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def started(self, line: str, sign: str) -> Iterator[str]:
        """Type a line; hand out what the program says in its first line with `sign`. It ends with the context."""
        command = ["bash", "-c", f"exec {self.local(line)}"]
        with subprocess.Popen(command, cwd=self.work, env=self.env, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stderr is not None
                said = next((said for said in process.stderr if sign in said), "")
                assert said, line
                yield said
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=20)
            finally:
                process.kill()

    def serve(self, line: str) -> str:
        """Serve until a client has pulled the list of repositories."""
        line = re.sub(r" --listen \S+", "", line) + " --listen 127.0.0.1:0"
        with self.started(line, "serving at") as said:
            request = urllib.request.Request(f"{said.split()[-1]}/v2/_catalog")
            request.add_header("Authorization", "Basic bWlycm9yOnJpZ2h0")
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            with urllib.request.urlopen(request, timeout=20, context=context) as answer:
                found: str = answer.read().decode()

        assert "kolla/nova-api" in found
        return found


@pytest.fixture
def lines(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """The commands of the page that the test is named for; it has to run all of them."""
    found = commands(request.function.__name__.removeprefix("test_").replace("_", "-"))
    assert found
    yield found
    assert found == [], "not run"


async def follow(machine: Machine, lines: list[str], count: int = 0, *, codes: Iterable[int] = ()) -> None:
    """Run the next `count` lines, all if 0; those of programs that are not installed are left out."""
    for _ in range(count or len(lines)):
        line = lines.pop(0)
        if shutil.which(line.split()[0], path=machine.env["PATH"]):
            await anyio.to_thread.run_sync(partial(machine.run, line, *codes))


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    async with QuayServer(organizations()) as server, Receiver() as target:
        yield Machine(tmp_path, server.url, target.address.removeprefix("registry://").partition("?")[0])


async def test_nightly(machine: Machine, lines: list[str]) -> None:
    await follow_nightly(machine, lines)


@pytest.mark.soak
async def test_serve(machine: Machine, lines: list[str]) -> None:
    await anyio.to_thread.run_sync(machine.mirror, "/srv/mirror")
    await follow_serve(machine, lines)


@pytest.mark.soak
async def test_air_gap(machine: Machine, lines: list[str]) -> None:
    await follow_air_gap(machine, lines)


async def follow_nightly(machine: Machine, lines: list[str]) -> None:
    (machine.work / "quaymirror.toml").write_text(machine.local(toml_of("nightly")))
    await follow(machine, lines)
    assert not machine.path("/srv/mirror/index.json").exists()
    # These are the units that systemd-analyze checks, and this is the file that they name.
    units = {path.name for path in machine.path("/etc/systemd/system/").iterdir()}
    assert units == {"quaymirror.service", "quaymirror.timer", "quaymirror-failed@.service"}
    assert (
        f"--config /etc/quaymirror/{machine.path('/etc/quaymirror/quaymirror.toml').name} "
        in (machine.path("/etc/systemd/system/") / "quaymirror.service").read_text()
    )
    await anyio.to_thread.run_sync(machine.run, "quaymirror run")
    assert machine.path("/srv/mirror/index.json").exists()
    assert machine.path("/var/lib/quaymirror/report.json").exists()
    assert machine.path("/var/lib/node_exporter/quaymirror.prom").exists()


async def follow_serve(machine: Machine, lines: list[str]) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("registry.example")
    certificate.private_key_pem.write_to_path(machine.work / "registry.key")
    certificate.cert_chain_pems[0].write_to_path(machine.work / "registry.crt")
    (machine.work / "users").write_text("mirror:" + bcrypt.hashpw(b"right", bcrypt.gensalt(4)).decode() + "\n")
    image = small_image("one")
    write_layout(machine.path("/srv/base"), {f"base/debian:{TAG}": image})
    for name in ("/srv/kolla", "/srv/kolla-lab"):
        write_layout(machine.path(name), {f"kolla/nova-api:{TAG}": image})

    await follow(machine, lines)
    assert machine.path("/etc/nginx/quaymirror/nginx.conf").exists()


async def follow_air_gap(machine: Machine, lines: list[str]) -> None:
    machine.path("/media/disk").mkdir()
    machine.path("/srv/images").mkdir()
    write_layout(machine.work / "DIR", {"2025.1": small_image("other")})
    await follow(machine, lines)
    assert len(list(machine.path("/srv/images").glob("*.tar"))) == 2


@pytest.mark.soak
async def test_a_newcomer_follows_one_page_after_the_other(machine: Machine) -> None:
    # In `nox -s newcomer` with the program that the README's commands have made.
    demo, *lines = commands("../tutorial/first-mirror")
    # Until its last page, a newcomer's settings are those that the pages name.
    server = machine.env.pop("QUAYMIRROR_SERVER")
    with machine.started(demo, "Serving at") as said:
        [url] = re.findall(r"http://[\d.:]+", said)
        (machine.work / "quaymirror.toml").write_text(toml_of("../tutorial/first-mirror").replace(SHOWN_SERVER, url))
        await follow(machine, [line.replace(SHOWN_SERVER, url) for line in lines])

    machine.env["QUAYMIRROR_SERVER"] = server
    await follow_nightly(machine, commands("nightly"))
    await follow_serve(machine, commands("serve"))
    await follow_air_gap(machine, commands("air-gap"))


@pytest.mark.soak
async def test_carry(tmp_path: Path) -> None:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed")

    found = commands("carry")
    (signers,) = re.findall(r"(?m)^    (near@example.org .*) ssh-ed25519 ", (HOW_TO / "carry.md").read_text())
    async with QuayServer(organizations()) as server:
        near, far = (Machine(tmp_path / name, server.url, "") for name in ("near", "far"))
        key = near.home / ".ssh/id_ed25519"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        public = " ".join(key.with_suffix(".pub").read_text().split()[:2])
        far.path("/etc/quaymirror/signers").write_text(f"{signers} {public}\n")
        # Media travel between both, and so does the inventory.
        near.path("/media/").rmdir()
        near.path("/media/").symlink_to(far.path("/media/"))
        shutil.rmtree(near.work)
        near.work.symlink_to(far.work)
        await anyio.to_thread.run_sync(near.mirror, "/srv/mirror")
        for line in found:
            machine = far if line.startswith(("quaymirror import", "quaymirror inventory")) else near
            await anyio.to_thread.run_sync(machine.run, line)

        again = "quaymirror import /media/usb /srv/mirror --allowed-signers /etc/quaymirror/signers"
        await anyio.to_thread.run_sync(far.run, again)
        await anyio.to_thread.run_sync(far.run, "quaymirror verify /srv/mirror")
        assert "kolla/nova-api" in far.path("/srv/mirror/index.json").read_text()


@pytest.mark.soak
async def test_move(machine: Machine, lines: list[str]) -> None:
    (machine.work / "sync.yml").write_text(f"quay.io:\n  images:\n    kolla/nova-api: [{TAG}]\n")
    await follow(machine, lines)


@pytest.mark.soak
async def test_rate_limits(machine: Machine, lines: list[str]) -> None:
    await follow(machine, lines)


@pytest.mark.soak
async def test_signatures(tmp_path: Path, lines: list[str]) -> None:
    registry, signed = organizations(), []
    for name in ("nova-api", "nova-compute"):
        repository = registry.organization("openstack.kolla").repository(name)
        image = small_image(f"openstack.kolla/{name}")
        signed.append((repository, image))

    async with QuayServer(registry) as server:
        host = server.url.removeprefix("http://")
        for repository, image in signed:
            sign_with_tag(repository, image, "p256", f"{host}/{repository.full_name}")

        machine = Machine(tmp_path, server.url, "")
        shutil.copy(public_key("p256"), machine.work / "kolla.pub")
        (policy,) = re.findall(r"(?ms)^```json\n(.*?)^```", (HOW_TO / "signatures.md").read_text(encoding="utf-8"))
        # quay.io is the server of the test here.
        (machine.work / "policy.json").write_text(policy.replace("quay.io/", f"{host}/"))
        await follow(machine, lines)


@pytest.mark.soak
async def test_several_machines(machine: Machine, lines: list[str]) -> None:
    # The shards of a mirror in an object store, and a cluster, have tests of their own.
    elsewhere = next(number for number, line in enumerate(lines) if "s3://" in line)
    assert all(re.search("s3://|--cluster|merge-reports", line) for line in lines[elsewhere:])
    del lines[elsewhere:]
    await follow(machine, lines, 1)
    shards = [line for line in lines if "--shard " in line]
    assert len(shards) == 3
    async with anyio.create_task_group() as tasks:
        for line in shards:
            lines.remove(line)
            tasks.start_soon(anyio.to_thread.run_sync, machine.run, line)

    await follow(machine, lines)


def test_each_page_with_commands_is_run_here_or_elsewhere() -> None:
    elsewhere = {
        "install",  # by `nox -s build`, and the image by the tests of the examples
        "object-stores",  # with a server of the tests of object stores
        *FROM_REGISTRIES,
        "use-the-mirror",  # by the tests with podman and skopeo
        "uninstall",
    }
    pages = {page.stem for page in HOW_TO.glob("*.md")}
    here = {name.removeprefix("test_").replace("_", "-") for name in globals() if name.startswith("test_")}
    with_commands = {page for page in pages if any(line.startswith("quaymirror") for line in commands(page))}
    assert with_commands - here - elsewhere == set()


@pytest.mark.soak
async def test_disaster_recovery(machine: Machine, lines: list[str]) -> None:
    await anyio.to_thread.run_sync(machine.mirror, "/srv/mirror")
    if shutil.which("rsync") is None:
        shutil.copytree(machine.path("/srv/mirror"), machine.path("/backup/mirror"))
    else:
        machine.path("/backup/mirror").mkdir(parents=True)

    await follow(machine, lines)


@pytest.mark.soak
async def test_filtered_images(machine: Machine, lines: list[str]) -> None:
    machine.path("/srv/images").mkdir()
    await follow(machine, lines)


@pytest.mark.soak
async def test_kolla_ansible(machine: Machine, lines: list[str]) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("registry.example")
    certificate.private_key_pem.write_to_path(machine.work / "registry.key")
    certificate.cert_chain_pems[0].write_to_path(machine.work / "registry.crt")
    docker = machine.root / "bin/docker"
    docker.write_text(f"#!/bin/sh\necho quay.io/openstack.kolla/nova-api:{KOLLA_TAG}\n")
    docker.chmod(0o755)
    machine.env["QUAYMIRROR_DEFAULT_REGISTRY"] = ""
    await follow(machine, lines, 2)
    # quay.io is the server of the test here.
    images = machine.work / "images.txt"
    images.write_text(images.read_text().replace("quay.io/", ""))
    await follow(machine, lines)


@pytest.mark.soak
async def test_prune(machine: Machine, lines: list[str]) -> None:
    await follow(machine, lines)


@pytest.mark.soak
async def test_repair(machine: Machine, lines: list[str]) -> None:
    await anyio.to_thread.run_sync(machine.mirror, "/srv/mirror")
    await follow(machine, lines)


@pytest.mark.soak
async def test_snapshots(machine: Machine, lines: list[str]) -> None:
    await anyio.to_thread.run_sync(machine.mirror, "/srv/mirror")
    await anyio.to_thread.run_sync(
        partial(machine.mirror, "/srv/mirror", organization="openstack.kolla", tag=KOLLA_TAG)
    )
    registry = next(number for number, line in enumerate(lines) if "tuesday.json" in line)
    await follow(machine, lines, registry + 1)
    shutil.copy(machine.work / "tuesday.json", machine.work / "monday.json")
    with ExitStack() as stack:
        if shutil.which("podman") is not None and os.geteuid() == 0:
            program = machine.root / "bin/podman"
            program.write_text(f'#!/bin/sh\nexec {shlex.join(stack.enter_context(peers.podman()))} "$@"\n')
            program.chmod(0o755)

        await follow(machine, lines)


@pytest.mark.soak
async def test_into_a_registry(machine: Machine, lines: list[str]) -> None:
    lines[:] = [line for line in lines if "…" not in line]
    await follow(machine, lines)


@pytest.mark.soak
async def test_private_organizations(machine: Machine, lines: list[str]) -> None:
    machine.path("/etc/quaymirror/token").write_text("token\n")
    # Credentials that the server does not accept are refused, as the page says.
    await follow(machine, lines, codes=(4,))


@pytest.mark.soak
async def test_select(machine: Machine, lines: list[str]) -> None:
    (machine.work / "images.txt").write_text(f"openstack.kolla/nova-api:{KOLLA_TAG}\n")
    # References with the names of other registries are tested where those are imitated.
    lines[:] = [line.replace(" --default-registry quay.io", "") for line in lines]
    lines[:] = [line for line in lines if not re.search(r"quay\.io|registry\.example|docker ", line)]
    await follow(machine, lines, codes=(0, 3))


@pytest.mark.soak
async def test_watch_and_report(machine: Machine, lines: list[str]) -> None:
    machine.path("/srv/reports").mkdir()
    (machine.work / "quaymirror.toml").write_text(
        machine.local(f'[jobs.nightly]\norganization = "kolla"\ntags = ["{TAG}"]\nto = "/srv/mirror"\n')
    )
    await anyio.to_thread.run_sync(machine.mirror, "/srv/mirror")
    await follow(machine, lines)


@pytest.mark.soak
async def test_upgrade(machine: Machine, lines: list[str]) -> None:
    await anyio.to_thread.run_sync(machine.mirror, "/srv/mirror")
    await follow(machine, lines)
    await anyio.to_thread.run_sync(machine.mirror, "/srv/mirror")
