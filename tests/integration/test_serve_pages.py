"""The pages of a server: readable without scripts, escaped, and about what is served."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest
from commands import run
from organizations import TAG, kolla
from serving import Client, blob_path, entry, served, write_layout

from quaymirror.testing import QuayServer, SourceManifest, make_artifact, make_image, make_index, make_layer
from quaymirror.testing.images import Blob

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = "<script>alert(1)</script>\"'&\x1b[2J\u202e"
BASE = make_layer("base", 2_000)
ONE, TWO = make_image([BASE, make_layer("one", 3_000)]), make_image([BASE], platform="linux/arm64")
MULTI = make_index([(ONE, "linux/amd64"), (TWO, "linux/arm64")])
SBOM = make_artifact("application/spdx+json", b"sbom", subject=ONE)
IMAGES = {"kolla/one:1": ONE, "kolla/two:1": TWO, "kolla/multi:2025.1": MULTI, "kolla/one:sbom": SBOM}


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


async def page(client: Client, path: str, status: int = 200) -> str:
    answer = await client.get(path)
    assert answer.status == status
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    html = answer.body.decode()
    assert html.count("<h1>") == 1
    assert not re.search(r"<script>|\son\w+=|style=|[\x00-\x08\x1b\u202e]", html)
    return html


async def test_the_first_page_lists_repositories_and_finds_images(tmp_path: Path) -> None:
    async with served(write_layout(tmp_path / "m", IMAGES)) as client:
        html = await page(client, "/")
        assert all(f'<a href="/images/kolla/{name}">' in html for name in ("one", "two", "multi"))
        assert "4 images" in text_of(html.replace("<dt>", "").replace("</dt>", "")) or "<dd>4</dd>" in html
        for query, found in (("one", 2), ("MULTI", 1), ("kolla+2025", 1), ("t*", 1), ("*", 4), ("none", 0), ("%1b", 0)):
            html = await page(client, f"/?q={query}")
            assert html.count('<th scope="row">') == found, query


async def test_pages_of_a_repository_and_of_its_images(tmp_path: Path) -> None:
    async with served(write_layout(tmp_path / "m", IMAGES)) as client:
        html = await page(client, "/images/kolla/multi")
        assert "linux/amd64, linux/arm64" in html
        rows = re.findall(r"(?s)<tr>(.*?)</tr>", await page(client, "/images/kolla/one"))
        # An artifact is for no platform.
        assert [re.findall(r"<td>(.*?)</td>", row)[0] for row in rows[-2:]] == ["linux/amd64", ""]
        html = await page(client, "/images/kolla/one:1")
        words = text_of(html)
        assert ONE.digest in html
        assert f"podman pull --tls-verify=false {client.url.removeprefix('http://')}/kolla/one:1" in words
        assert "docker_namespace: &#34;kolla&#34;" in html
        assert "application/spdx+json" in words
        # The base layer is in all three images, the other one in two of them.
        assert re.findall(r'<td class="n">(\d images?)</td>', html) == ["3 images", "2 images"]
        html = await page(client, "/images/kolla/multi:2025.1")
        assert re.findall(r'aria-current="true">([^<]+)<', html) == ["linux/amd64"]
        html = await page(client, f"/images/kolla/multi:2025.1?image={TWO.digest}")
        assert re.findall(r'aria-current="true">([^<]+)<', html) == ["linux/arm64"]
        await page(client, f"/images/kolla/multi@{TWO.digest}")


@pytest.mark.parametrize(
    "path",
    [
        "/images/",
        "/images/none",
        "/images/kolla/one:none",
        "/images/kolla/one@sha256:0",
        "/images/../../etc/passwd",
        "/static/../pages.py",
        "/images/kolla/one:1?image=x",
        "/%1b%0a",
        "/images/kolla/two@" + ONE.digest,
    ],
)
async def test_pages_that_do_not_exist(tmp_path: Path, path: str) -> None:
    async with served(write_layout(tmp_path / "m", IMAGES)) as client:
        assert "Not found" in await page(client, path, 404)
        assert (await client.send("POST", path)).status == 405


def image_with(config: dict[str, object]) -> SourceManifest:
    blob = Blob.of(json.dumps(config).encode())
    document = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": blob.digest, "size": blob.size},
        "layers": [],
        "annotations": {HOSTILE: HOSTILE},
    }
    raw = json.dumps(document).encode()
    return SourceManifest(raw, str(document["mediaType"]), Blob.of(raw).digest, (blob,))


async def test_everything_from_outside_is_escaped(tmp_path: Path) -> None:
    config: dict[str, object] = {
        "os": HOSTILE,
        "created": HOSTILE,
        "config": {
            "Labels": {HOSTILE: HOSTILE},
            "Env": [HOSTILE],
            "Entrypoint": [HOSTILE],
            "ExposedPorts": {HOSTILE: {}},
        },
        "history": [{"created_by": HOSTILE}],
    }
    odd: dict[str, object] = {
        "config": {"Labels": [1], "Env": {"a": 1}, "Cmd": 7},
        "history": [7, {"created_by": [1]}],
        "os": 5,
    }
    index = make_index([(make_artifact(HOSTILE, b"x"), None)])
    images = {"kolla/hostile:1": image_with(config), "kolla/odd:1": image_with(odd), "kolla/index:1": index}
    async with served(write_layout(tmp_path / "m", images)) as client:
        html = await page(client, "/images/kolla/hostile:1")
        assert html.count("&lt;script&gt;alert(1)") == 8
        assert "\\x1b[2J\\u202e" in html
        await page(client, "/images/kolla/odd:1")
        await page(client, "/images/kolla/index:1")
        html = await page(client, "/?q=%3Cscript%3Ealert(1)%3C/script%3E%22%1b")
        assert "&lt;script&gt;alert(1)" in html
        assert "evil" not in (await client.get("/images/kolla/odd:1", Host='"><evil')).body.decode()


async def test_damaged_images_have_a_page_that_says_so(tmp_path: Path) -> None:
    root = write_layout(tmp_path / "m", IMAGES)
    blob_path(root, ONE.digest).write_bytes(b"x")
    blob_path(root, TWO.blobs[0].digest).write_bytes(b"x")
    async with served(root) as client:
        assert "use verify --repair" in await page(client, "/images/kolla/one:1")
        assert "use verify --repair" in await page(client, "/images/kolla/two:1")
        await page(client, "/")


async def test_the_page_of_the_current_run_follows_it(tmp_path: Path) -> None:
    registry, _ = kolla(2)
    registry.organization("kolla").repository("without-tags")
    async with QuayServer(registry) as source:
        words = ["sync", "kolla", "*", TAG, "--server", source.url, "--to", "m", "--progress", "none"]
        await run(*words, cwd=tmp_path, check=0)
        async with served(tmp_path / "m") as client:
            html = await page(client, "/run")
            assert "ended" in html
            assert "<dt>mirrored</dt><dd>2</dd>" in html
            assert "1 skipped" in html
            assert "<dt>skipped</dt><dd>1</dd>" in html
            assert "refused" not in html
            assert '<noscript><meta http-equiv="refresh"' in html
            assert (await client.get("/static/live.js")).headers["content-type"] == "text/javascript; charset=utf-8"
            reader, seen = await anyio.connect_tcp("127.0.0.1", int(client.url.rpartition(":")[2])), b""
            async with reader:
                await reader.send(b"GET /run/events HTTP/1.1\r\nHost: x\r\n\r\n")
                with anyio.fail_after(10):
                    while b"\n\n" not in seen.partition(b"\r\n\r\n")[2]:
                        seen += await reader.receive()

    head, _, body = seen.partition(b"\r\n\r\n")
    assert b"text/event-stream" in head
    assert b"data: <dl class=" in body


async def test_a_run_that_left_nothing_or_nonsense(tmp_path: Path) -> None:
    root = write_layout(tmp_path / "m", IMAGES)
    (root / ".quaymirror").mkdir()
    for content, words in ((None, "No run has left"), ("{}", "can&#39;t be read"), ("[" * 9_000, "can&#39;t be read")):
        if content is not None:
            (root / ".quaymirror/live.json").write_text(content)

        async with served(root) as client:
            assert words in await page(client, "/run")


@pytest.mark.interop
@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
@pytest.mark.parametrize(
    "path",
    [
        "/images/kolla/multi:2025.1",
        *(pytest.param(path, marks=pytest.mark.soak) for path in ("/", "/?q=one", "/images/kolla/multi", "/run")),
    ],
)
async def test_a_browser_shows_a_page_at_every_width_without_complaints(tmp_path: Path, path: str) -> None:
    root = write_layout(tmp_path / "m", IMAGES | {"kolla/" + "long-name-" * 20 + "x:1": ONE}, entry(None, SBOM))
    async with served(root) as client:
        html = await page(client, path)
        dom = await anyio.to_thread.run_sync(browse, [f"{client.url}{path}"], tmp_path)
        assert text_of(dom[dom.index("<h1>") :])[:60] == text_of(html[html.index("<h1>") :])[:60]
        style = (await client.get("/static/style.css")).body.decode()
        # A window has at least 500 pixels; tables scroll inside of their own boxes, but not that of layers.
        measure = (
            "<script>document.title = Math.ceil(Math.max("
            "...[...document.querySelectorAll('body *:not(.wide *), #layers ~ * *')]"
            ".map(one => one.getBoundingClientRect().right)))</script></body>"
        )
        sheet = f"<style>{style} html {{ width: 390px }}</style>"
        html = html.replace('<link rel="stylesheet" href="/static/style.css">', sheet)
        html = re.sub(r'<script src="[^"]*" defer>', "<script>", html).replace("</body>", measure)
        (tmp_path / "page.html").write_text(html)
        narrow = ["--window-size=390,800", (tmp_path / "page.html").as_uri()]
        found = re.search(r"<title>(\d+)</title>", await anyio.to_thread.run_sync(browse, narrow, tmp_path))
        assert found is not None
        assert int(found[1]) <= 390


def browse(arguments: Sequence[str], tmp_path: Path) -> str:
    """Return the document as the browser has it; any message on its console is an error."""
    assert BROWSER is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    quiet = ["--disable-background-networking", f"--user-data-dir={tmp_path}/b", "--enable-logging=stderr", "--v=0"]
    command = [BROWSER, *options, *quiet, "--timeout=3000", "--dump-dom", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)
    assert "CONSOLE" not in done.stderr
    return done.stdout
