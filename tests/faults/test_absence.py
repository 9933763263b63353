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

from quaymirror.testing import Fault, QuayServer, ReplaceBody, Status, bad_gateway

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


JSON, TEXT, PAGE_TYPE = "application/json", "text/plain; charset=utf-8", "text/html"
LOGIN = b"<html><form>Please log in</form></html>"
# Answers that are no registry's own, whatever their status says.
FOREIGN = {
    "404 in plain text": Status(404, {"Content-Type": TEXT}, b"404 page not found\n"),
    "404 without a body": Status(404),
    "404 in JSON of a gateway": Status(404, {"Content-Type": JSON}, b'{"message": "no Route matched"}'),
    "404 in JSON without a code": Status(404, {"Content-Type": JSON}, b"{}"),
    "410 in HTML": Status(410, {"Content-Type": PAGE_TYPE}, LOGIN),
    "403 in HTML": Status(403, {"Content-Type": PAGE_TYPE}, LOGIN),
    "401 in HTML without a challenge": Status(401, {"Content-Type": PAGE_TYPE}, LOGIN),
    "a page for a login with 200": Status(200, {"Content-Type": PAGE_TYPE}, LOGIN),
    "200 without a body": Status(200),
}


def _prunes(server: QuayServer) -> list[str]:
    words = ["sync", "kolla", "*", TAG, "--server", server.url, "--to", "mirror", "--retries", "0", "--full-check"]
    return [*words, "--prune", "--grace", "0", "--ignore-max-delete", "--report", "report.json"]


# HEAD shows no body: there JSON counts, which is how Quay answers.
CASES = [(where, answer) for where in ("the API's tags", "the registry's tags") for answer in FOREIGN]


@pytest.mark.parametrize(("where", "answer"), [case for case in CASES if "API" in case[0] or "JSON" not in case[1]])
async def test_an_answer_that_is_no_registrys_own_is_no_evidence(where: str, answer: str, tmp_path: Path) -> None:
    path, discovery = PATHS[where]
    async with QuayServer(two_images()) as server:
        words = [*_prunes(server), "--discovery", discovery]
        await run(*words, cwd=tmp_path, check=0)
        # The registry's tags are looked up by the API as well if its answer is of no use.
        server.faults.append(Fault(path, FOREIGN[answer]))
        if discovery == "registry":
            server.faults.append(Fault(PATHS["the API's tags"][0], FOREIGN[answer]))

        done = await run(*words, cwd=tmp_path)

    assert done.returncode in (3, 5), done.stderr
    assert {*layouts.names(tmp_path / "mirror")} == {NOVA, GLANCE}
    assert "no such tag" not in done.stderr
    assert "since it was listed" not in done.stderr


async def test_a_bare_404_to_head_is_confirmed_by_get(tmp_path: Path) -> None:
    bare = Status(404)
    async with QuayServer(two_images()) as server:
        words = ["sync", "kolla", "*", "gone,2025.1-debian", "--server", server.url, "--to", "mirror"]
        server.faults.append(Fault("^/v2/kolla/[a-z]+/manifests/gone", bare, method="HEAD"))
        once = ["--discovery", "registry", "--retries", "0", "--allow-unmatched"]
        done = await run(*words, *once, cwd=tmp_path, check=0)
        asked = [(request.method, request.path) for request in server.requests if request.path.endswith("/gone")]

    assert sorted(asked) == sorted(
        (method, f"/v2/kolla/{name}/manifests/gone") for name in ("glance", "nova") for method in ("GET", "HEAD")
    )
    assert "failed" not in done.stderr.replace("failed           0", "")


async def test_a_target_whose_404_is_not_its_own_lost_nothing(tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    async with QuayServer(organization(small_image("pushed"))) as server, Receiver() as target:
        words = ["sync", "kolla", "*", TAG, "--server", server.url, "--to", target.address, "--state", state]
        await run(*words, cwd=tmp_path, check=0)
        for method in ("HEAD", "GET"):
            target.breakages.append(Breakage(method, "/blobs/", lambda _: web.Response(status=404)))

        verify = ["verify", target.address, "--state", state, "--retries", "0"]
        done = await run(*verify, cwd=tmp_path)
        target.breakages[:] = [Breakage("HEAD", "/blobs/", lambda _: web.Response(status=404))]
        target.blobs.clear()
        lost = await run(*verify, cwd=tmp_path)

    assert "missing  sha256" not in done.stdout
    assert done.returncode != 8
    assert "missing  sha256" in lost.stdout
    assert lost.returncode == 8


ILLEGAL = [("kolla", "Nova"), ("kolla", "-nova"), ("kolla", "nova//api"), ("kolla", "nova,Glance"), ("k" * 256, "*")]


@pytest.mark.parametrize(("name", "glob"), ILLEGAL)
async def test_a_name_that_no_repository_can_have_is_refused_before_a_request(
    name: str, glob: str, tmp_path: Path
) -> None:
    async with QuayServer(two_images()) as server:
        await run("sync", name, glob, TAG, "--server", server.url, "--to", "mirror", cwd=tmp_path, check=2)
        assert not server.requests
