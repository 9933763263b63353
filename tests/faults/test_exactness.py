"""Byte for byte: addresses that servers name, challenges as the grammar has them, and every manifest Quay accepts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import layouts
import pytest
from commands import run
from organizations import TAG, small_image
from pushing import organization
from receiver import Receiver
from trouble import NOVA, two_images

from quaymirror.http.guard import is_public
from quaymirror.testing import ExtraHeaders, Fault, QuayServer, Redirect

IMAGE = small_image("nova", 3_000)
LAYER = IMAGE.blobs[1]


async def sync(server: QuayServer, target: Path | str, *options: str, cwd: Path, code: int = 0) -> str:
    """Mirror all of kolla by the command, and return what it says."""
    done = await run(
        "sync", "kolla", "*", TAG, "--server", server.url, "--to", str(target), *options, cwd=cwd, check=code
    )
    return done.stderr


@asynccontextmanager
async def storage(content: bytes) -> AsyncIterator[tuple[str, list[str]]]:
    """Serve `content` at every path; hand out the server's address, and the request targets as they arrive."""
    asked: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head.split(b" ", 1)[1].rsplit(b" HTTP/1.1\r\n", 1)[0].decode("latin-1"))
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(content) + content)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield "http://{}:{}".format(*server.sockets[0].getsockname()[:2]), asked


# As it is in `Location`, and as it has to be asked for where that differs.
TARGETS = {
    "an escaped slash": "/a%2Fb/c",
    "lower-case escapes": "/a%2fb%3a",
    "escapes that nothing needs": "/%7Euser/%41%2D%2E%5F",
    "an escaped at sign": "/registry%40eu/x",
    "empty segments": "//a///b//",
    "dots": "/a/./b/../c",
    "escaped dots": "/a/%2E%2E/%2e/c",
    "semicolons and commas": "/a;v=1,2;w=(3)!*'/x",
    "brackets": '/a[1]{2}|3^`4\\5"<6>',
    "a signed query": "/x?X-Amz-Credential=AKIA%2F20261101%2Fus-east-1&X-Amz-Signature=0aF%2B%3d%3D&e=a+b%20c",
    "a signature in base64": "/x?sig=ab/c+d=/e%2Bf==&se=2026-11-01T00%3A00%3A00Z&sp=r",
    "an empty query": "/x?",
    "empty parameters": "/x?a&b=&&=c&",
    "question marks and slashes in the query": "/x?u=https://cdn.example/y?z&at=@:~",
    "a per cent sign alone": "/100%/x?p=5%&q=%zz",
}
QUOTED = {
    "letters that are no ASCII": ("/caf\u00e9?x=\u20ac", "/caf%C3%A9?x=%E2%82%AC"),
    "a space": ("/a b?c d", "/a%20b?c%20d"),
    "a fragment": ("/a%2Fb?c#d%2Fe", "/a%2Fb?c"),
    "no path": ("?token=a%2Fb", "/?token=a%2Fb"),
}


@pytest.mark.parametrize("name", [*TARGETS, *QUOTED])
async def test_a_redirect_is_followed_to_exactly_where_it_leads(name: str, tmp_path: Path) -> None:
    target, expected = QUOTED[name] if name in QUOTED else (TARGETS[name], TARGETS[name])
    async with QuayServer(two_images(IMAGE)) as server, storage(LAYER.data) as (url, asked):
        server.faults.append(Fault(f"^/v2/kolla/nova/blobs/{LAYER.digest}", Redirect(f"{url}{target}")))
        await sync(server, tmp_path / "mirror", cwd=tmp_path)

    assert asked == [expected]
    assert NOVA in layouts.names(tmp_path / "mirror")


@pytest.mark.parametrize("form", ["without scheme", "upper case", "twice"])
async def test_however_a_redirect_is_written_its_path_stays(form: str, tmp_path: Path) -> None:
    target = "/a%2fb/%7E//../c?sig=%40+%3d"
    async with QuayServer(two_images(IMAGE)) as server, storage(LAYER.data) as (url, asked):
        location = {
            "without scheme": url.removeprefix("http:"),
            "upper case": f"HTTP{url[4:]}",
            "twice": f"{server.url}/hop%2F",
        }[form]
        server.faults += [
            Fault(f"^/v2/kolla/nova/blobs/{LAYER.digest}", Redirect(f"{location}{target}")),
            Fault("^/hop", Redirect(f"{url}{target}")),
        ]
        await sync(server, tmp_path / "mirror", cwd=tmp_path)

    assert asked == [target]


UPLOADS = {
    "an escaped slash": "?_state=a%2Fb%2fc",
    "escapes that nothing needs": "?_state=%7E%40%2D~@",
    "base64": "?_state=eyJ/+a==&n=%2B%3D",
    "an empty parameter": "?_state=&x",
}


@pytest.mark.parametrize("where", ["path", "absolute", "without scheme"])
@pytest.mark.parametrize("name", UPLOADS)
async def test_an_upload_goes_on_exactly_where_the_registry_says(name: str, where: str, tmp_path: Path) -> None:
    image = small_image("pushed", 20_000)
    async with QuayServer(organization(image)) as server, Receiver() as target:
        prefix = {"path": "", "absolute": f"http://{target.host}", "without scheme": f"//{target.host}"}[where]
        target.location = lambda path: f"{prefix}{path.replace('session', '%73ession')}{UPLOADS[name]}"
        await sync(server, target.address, "--state", str(tmp_path / "state"), cwd=tmp_path)
        uploads = [request.source.raw_path for request in target.requests if request.method in ("PATCH", "PUT")]

    ends = {
        path.partition("%73ession-")[2].lstrip("0123456789").partition("&digest=")[0]
        for path in uploads
        if "/uploads/" in path
    }
    assert ends == {UPLOADS[name]}


BEARER = 'Bearer realm="{url}/v2/auth",service="{host}"'
CHALLENGES = {
    "another scheme before it, in one field": [f"Negotiate, {BEARER}"],
    "another scheme after it, in one field": [f"{BEARER}, Negotiate"],
    "another scheme with a token before it": [f"Negotiate YIIJvwYGKwYBBQUC/+==, NTLM TlRMTVNTUAACAAAA, {BEARER}"],
    "another scheme with parameters before it": [
        f'Digest realm="a, b=\\"c\\"", qop="auth,auth-int", stale=false, {BEARER}'
    ],
    "Basic before it": [f'Basic realm="x", {BEARER}'],
    "empty elements": [f" , ,{BEARER},,"],
    "spaces everywhere": ['  bEARER   realm = "{url}/v2/auth" , service = "{host}"  '],
    "two fields": ["Negotiate", BEARER],
    "something broken before it": [f"Basic realm=not a token, {BEARER}"],
}


@pytest.mark.parametrize("name", CHALLENGES)
async def test_a_challenge_is_found_among_others(name: str, tmp_path: Path) -> None:
    async with QuayServer(two_images(), require_token=True) as server:
        fields = [field.format(url=server.url, host=server.host) for field in CHALLENGES[name]]
        server.faults.append(Fault("^/v2/kolla/", ExtraHeaders([("WWW-Authenticate", field) for field in fields])))
        await sync(server, tmp_path / "mirror", cwd=tmp_path)
        assert server.count("^/v2/auth$")

    assert NOVA in layouts.names(tmp_path / "mirror")


NOT_PUBLIC = {
    "site-local": "[fec0::1]",
    "IPv4-compatible": "[::127.0.0.1]",
    "IPv4-compatible, of a public address": "[::8.8.8.8]",
    "NAT64 of a local prefix": "[64:ff9b:1::7f00:1]",
    "NAT64 of a private address": "[64:ff9b::a00:1]",
    "multicast": "224.0.0.1",
    "multicast of an organization": "239.1.2.3",
    "multicast in IPv6": "[ff02::1]",
    "multicast in IPv6, global": "[ff0e::1]",
    "segment routing": "[5f00::1]",
    "6to4 of a private address": "[2002:a00:1::1]",
    "6to4's relays": "192.88.99.1",
    "Teredo": "[2001:0:53aa:64c::1]",
    "IPv4-mapped": "[::ffff:10.0.0.1]",
    "IPv4-translated": "[::ffff:0:7f00:1]",
    "documentation": "[3fff::1]",
    "discard only": "[100::1]",
    "unique local": "[fd00::1]",
    "link-local": "[fe80::1]",
    "shared": "100.64.0.1",
    "benchmarks": "198.18.0.1",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
}


@pytest.mark.parametrize("name", NOT_PUBLIC)
def test_no_address_outside_the_public_internet_counts_as_public(name: str) -> None:
    assert not is_public(NOT_PUBLIC[name].strip("[]"))


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "2600:9000:2000::1",
        "2001:4860:4860::8888",
        "64:ff9b::808:808",
        "::ffff:8.8.8.8",
        "2002:808:808::1",
    ],
)
def test_the_public_internet_is_public(address: str) -> None:
    assert is_public(address)
