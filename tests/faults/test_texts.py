"""Texts of a server that mean to do something to a terminal, a log, a page or a path: they do nothing."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import commands
import layouts
import pytest
from organizations import TAG, small_image
from trouble import GLANCE, two_images

from quaymirror.oci.reference import is_tag
from quaymirror.testing import (
    Action,
    Blob,
    ExtraHeaders,
    Fault,
    QuayServer,
    Raw,
    Redirect,
    Registry,
    ReplaceBody,
    SourceManifest,
    make_image,
    make_layer,
)
from quaymirror.testing import Status as Answer

ESCAPES = (
    "\x1b[2J\x1b]0;owned\x07\x9b2J\r\n2026-11-24 INFO all is well\u202e\u2066\u200b\ufeff"
    "[/red][bold]<script>alert(1)</script>"
)
NAMES = [
    ESCAPES,
    "../../etc/cron.d/x",
    "nova\u202etxt",
    "no\u200bva",
    "\uff4e\uff4f\uff56\uff41",
    "nova\u0301",
    "\u041aolla",
    "nova\ud800",
    "-rf",
    "--to",
    "nova/../../x",
    "nova.",
    ".",
    "con",
    "aux\\x",
    "nova\x00",
    "$(reboot)",
    "`reboot`",
    "nova?insecure=true",
    "nova#x",
    "nova:latest",
    "nova@sha256:0",
    "x" * 100_000,
    "{repo}",
    "%2e%2e%2f",
    " nova",
    "nova\n",
    {"name": "nova"},
    ["nova"],
    5,
    None,
    True,
]


def printable(text: str) -> None:
    """Nothing in `text` does anything to a terminal: no control, no direction, nothing invisible."""
    bad = {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c != "\n"}
    assert not bad, bad


async def run(server: QuayServer, path: Path, *more: str, check: int | None = None) -> commands.Done:
    outputs = ("--log-file", str(path / "log"), "--report", str(path / "report.json"), "--verbose", "--retries", "1")
    words = ("sync", "kolla", "*", TAG, "--server", server.url, "--progress", "plain", *outputs)
    done = await commands.run(*words, "--report-html", str(path / "report.html"), *more, cwd=path, check=check)
    printable(done.stdout + done.stderr)
    printable((path / "log").read_text())
    if (path / "report.html").exists():
        assert "<script>alert" not in (path / "report.html").read_text()

    return done


async def test_no_name_becomes_anything_but_a_rejected_name(tmp_path: Path) -> None:
    entries = [{"namespace": "kolla", "name": name, "last_modified": 5} for name in [*NAMES, "glance"]]
    async with QuayServer(two_images()) as server:
        server.faults.append(Fault("^/api/v1/repository$", ReplaceBody(json.dumps({"repositories": entries}).encode())))
        await run(server, tmp_path)

    assert set(layouts.names(tmp_path / "mirror")) == {GLANCE}
    assert {path.name for path in tmp_path.iterdir()} <= {"mirror", "log", "report.json", "report.html"}


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:30])
async def test_no_tag_s_name_does_harm(name: object, tmp_path: Path) -> None:
    digest = small_image("nova", 400_000).digest
    tags = [{"name": tag, "manifest_digest": digest, "start_ts": 5, "size": 5} for tag in (name, "good")]
    async with QuayServer(two_images()) as server:
        server.faults.append(Fault("/tag/$", ReplaceBody(json.dumps({"tags": tags}).encode())))
        words = ("list", "kolla", "nova", "*", "--server", server.url, "--retries", "0")
        done = await commands.run(*words, cwd=tmp_path)

    printable(done.stdout + done.stderr)
    assert done.returncode == 0, done.stderr
    assert "good" in done.stdout
    assert ("impossible name" in done.stderr) == (not isinstance(name, str) or not is_tag(name))
    assert done.stdout.count("kolla/nova") == (1 if "impossible name" in done.stderr else 2)


@pytest.mark.parametrize("name", [None, 5, ["2025.1-debian"], "\x1b[2J"], ids=ascii)
async def test_an_answer_without_the_requested_tag_does_not_mean_that_it_is_missing(
    name: object, tmp_path: Path
) -> None:
    body = json.dumps({"tags": [{"name": name, "manifest_digest": small_image("nova", 400_000).digest}]})
    async with QuayServer(two_images()) as server:
        server.faults.append(Fault("/kolla/nova/tag/$", ReplaceBody(body.encode())))
        done = await run(server, tmp_path, check=3)

    assert "impossible name" in done.stderr
    assert set(layouts.names(tmp_path / "mirror")) == {GLANCE}


EVIL: dict[str, tuple[str, Action]] = {
    "an error code": ("/manifests/", Answer(418, body=json.dumps({"errors": [{"code": ESCAPES}]}).encode())),
    "a reason": ("/manifests/", Raw(b"HTTP/1.1 418 \x1b[2J\x1b]0;owned\x07\r\nContent-Length: 0\r\n\r\n")),
    "a media type": ("/manifests/", ExtraHeaders({"Content-Type": "text/\xa0\u202e\u200b"})),
    "a Location": ("/manifests/", Redirect("https://\u202eevil.example/\u200b")),
    "a realm": ("/manifests/", Answer(401, {"WWW-Authenticate": 'Bearer realm="https://evil\u202e.example/x"'})),
    "a digest": ("/manifests/", ExtraHeaders({"Docker-Content-Digest": "sha256:\u202e\x9b"})),
    "a listing": ("^/api/v1/repository$", ReplaceBody(json.dumps({"error": ESCAPES}).encode())),
    "an encoding": ("/blob/", ExtraHeaders({"Content-Encoding": "\u202egzip"})),
    "a length": ("/blob/", ExtraHeaders({"Content-Range": "bytes \u0661-\u0662/\u0663"})),
    "a document": ("/manifests/", ReplaceBody(json.dumps({"mediaType": ESCAPES, ESCAPES: 1}).encode())),
}


@pytest.mark.parametrize("name", EVIL)
async def test_no_text_of_a_server_reaches_the_terminal_as_it_is(name: str, tmp_path: Path) -> None:
    path, action = EVIL[name]
    async with QuayServer(two_images()) as server:
        server.faults.append(Fault(path, action))
        done = await run(server, tmp_path)

    assert done.returncode in (0, 3, 4, 5), done.stderr


CONFIGS: dict[str, Any] = {
    "escapes": {"created": ESCAPES, "architecture": ESCAPES, "os": ESCAPES, "config": {"Labels": {ESCAPES: ESCAPES}}},
    "other types": {"created": 5, "architecture": [], "os": {}, "config": [], "rootfs": 1, "history": "x"},
    "labels of other types": {"config": {"Labels": {"a": 5, "b": None, "c": []}, "Env": 5, "Entrypoint": {}}},
    "a list": [],
    "a megabyte": {"config": {"Labels": {"a": "x" * 1_000_000}}},
    "half a character": {"config": {"Labels": {"\ud800": "\ud800"}}},
    "numbers": {"created": 1e999, "config": {"Labels": {"a": 10**400}}},
}


@pytest.mark.parametrize("name", CONFIGS)
async def test_no_configuration_of_an_image_does_harm(name: str, tmp_path: Path) -> None:
    layer = make_layer("x", 2000)
    honest = make_image([layer])
    config = Blob.of(json.dumps(CONFIGS[name]).encode())
    document = honest.document
    document["config"] |= {"digest": config.digest, "size": config.size}
    raw = json.dumps(document).encode()
    image = SourceManifest(raw, honest.media_type, Blob.of(raw).digest, (config, layer.blob))
    registry = Registry()
    registry.organization("kolla").repository("nova").push(TAG, image)
    async with QuayServer(registry) as server:
        done = await run(server, tmp_path, check=0)
        assert done.returncode == 0
        for more in ((), ("--json",)):
            words = ("info", "kolla", "*", TAG, "--server", server.url, *more)
            shown = await commands.run(*words, cwd=tmp_path)
            printable(shown.stdout + shown.stderr)
            assert shown.returncode in (0, 3), shown.stderr

    assert config.digest in layouts.check(tmp_path / "mirror")
