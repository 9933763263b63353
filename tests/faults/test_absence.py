"""A 404 proves that something is not there only if it is the answer of the registry, or of its API."""

from __future__ import annotations

import json
from pathlib import Path

import layouts
import pytest
from aiohttp import web
from commands import run
from organizations import TAG, small_image
from pushing import organization
from receiver import Breakage, Receiver
from trouble import GLANCE, NOVA, two_images

from quaymirror.testing import Fault, QuayServer, ReplaceBody, bad_gateway

# As Quay's nginx, or another proxy, answers while what is behind it restarts.
PAGE = bad_gateway(404, "Not Found")
PATHS = {
    "the API's tags": ("^/api/v1/repository/kolla/nova/tag/", "api"),
    "the registry's tags": (f"^/v2/kolla/nova/manifests/{TAG}$", "registry"),
    "manifests": ("^/v2/kolla/nova/manifests/", "api"),
    "blobs": ("^/v2/kolla/nova/blobs/", "api"),
}


@pytest.mark.parametrize("where", PATHS)
async def test_a_page_of_a_proxy_is_an_outage_that_passes(where: str, tmp_path: Path) -> None:
    path, discovery = PATHS[where]
    async with QuayServer(two_images()) as server:
        server.faults.append(fault := Fault(path, PAGE, times=2))
        words = ["sync", "kolla", "*", TAG, "--server", server.url, "--to", "mirror", "--discovery", discovery]
        await run(*words, cwd=tmp_path, check=0)

    assert fault.fired == 2
    assert {*layouts.names(tmp_path / "mirror")} == {NOVA, GLANCE}


@pytest.mark.parametrize("where", PATHS)
async def test_a_page_of_a_proxy_is_no_evidence_however_often_it_comes(where: str, tmp_path: Path) -> None:
    path, discovery = PATHS[where]
    async with QuayServer(two_images()) as server:
        words = ["sync", "kolla", "*", TAG, "--server", server.url, "--to", "mirror", "--discovery", discovery]
        words += ["--retries", "0", "--report", "report.json", "--full-check"]
        server.faults.append(Fault(path, PAGE))
        done = await run(*words, cwd=tmp_path)
        report = json.loads((tmp_path / "report.json").read_text())

    assert done.returncode in (3, 5), done.stderr
    assert "in HTML, which a proxy answered" in json.dumps(report)
    assert "no such tag" not in done.stdout + done.stderr


async def test_a_page_of_a_proxy_does_not_say_that_a_target_lost_anything(tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    async with QuayServer(organization(small_image("pushed"))) as server, Receiver() as target:
        words = ["sync", "kolla", "*", TAG, "--server", server.url, "--to", target.address, "--state", state]
        await run(*words, cwd=tmp_path, check=0)
        page = web.Response(status=404, text="<html>404 Not Found</html>", content_type="text/html")
        target.breakages.append(Breakage("HEAD", "/blobs/", lambda _: page, nth=1))
        done = await run("verify", target.address, "--state", state, cwd=tmp_path)

    assert done.returncode == 0, done.stderr


NO_TAGS = ReplaceBody(b'{"tags": [], "page": 1, "has_additional": true}')


@pytest.mark.parametrize("tag", [TAG, "2025*"], ids=["a tag", "a glob"])
async def test_no_tags_of_several_are_no_answer(tag: str, tmp_path: Path) -> None:
    words = ["sync", "kolla", "*", tag, "--to", "mirror", "--retries", "1"]
    async with QuayServer(two_images()) as server:
        server.faults.append(Fault("^/api/v1/repository/kolla/nova/tag/", NO_TAGS, times=1))
        await run(*words, "--server", server.url, cwd=tmp_path, check=0)
        assert {*layouts.names(tmp_path / "mirror")} == {NOVA, GLANCE}
        server.faults[:] = [Fault("^/api/v1/repository/kolla/nova/tag/", NO_TAGS)]
        done = await run(*words, "--server", server.url, "--full-check", cwd=tmp_path, check=3)

    assert "says that there are more" in done.stderr
    assert NOVA in layouts.names(tmp_path / "mirror")


async def test_an_answer_of_the_registry_itself_counts(tmp_path: Path) -> None:
    registry = two_images()
    registry.organization("kolla").repository("empty")
    async with QuayServer(registry) as server:
        await run("sync", "kolla", "*", TAG, "--server", server.url, "--to", "mirror", cwd=tmp_path, check=0)
