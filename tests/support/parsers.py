"""Every parser of outside input, with the use its callers make of the result.

One table for the property tests and for the fuzzer: a function that takes bytes and raises only errors of quaymirror,
and seeds for inputs that get further than noise.
"""

from __future__ import annotations

import io
import ipaddress
import json
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yarl
from multidict import CIMultiDict
from rich.console import Console

from quaymirror.auth import files, helper
from quaymirror.auth.authfile import AuthFile
from quaymirror.auth.challenge import parse_challenges, parse_token, sort_by_grant
from quaymirror.auth.tokens import TokenAuth
from quaymirror.catalog import ghcr, gitlab, harbor, hub
from quaymirror.catalog.base import Tag
from quaymirror.catalog.offsets import Batch
from quaymirror.catalog.quay.api import listing_path
from quaymirror.catalog.quay.schema import parse_page, parse_tags
from quaymirror.catalog.registry.google import described_tags
from quaymirror.cli.options import make_selections
from quaymirror.config.convert import convert
from quaymirror.config.document import Mistakes, read_config
from quaymirror.errors import QuaymirrorError
from quaymirror.events import RunStarted
from quaymirror.http.dates import parse_http_date, parse_retry_after
from quaymirror.http.exchange import Response
from quaymirror.http.origin import Origin, follow, parse_server, shown
from quaymirror.http.proxy import Proxies
from quaymirror.oci import Descriptor, Digest, Index, Manifest, Platform, Reference, Repository, manifest
from quaymirror.progress.rates import Speeds
from quaymirror.progress.run import RunProgress
from quaymirror.registry import pull
from quaymirror.registry.foreign import ForeignLayers
from quaymirror.registry.push import RegistryPusher, Upload
from quaymirror.secret import Secret
from quaymirror.selection.lockfile import read_lock
from quaymirror.selection.parse import parse_duration, parse_since
from quaymirror.selection.selection import Selection
from quaymirror.settings import Options
from quaymirror.settings.register import SELECTION
from quaymirror.settings.texts import parse_rate
from quaymirror.store import lock, receipts
from quaymirror.store.documents import check_oci_layout, name_of, parse_index, project
from quaymirror.store.records import ImageRecord
from quaymirror.ui.dashboard.terminal import Screen
from quaymirror.ui.snapshot import SnapshotError, read_snapshot, take_snapshot
from quaymirror.ui.summary import summary_lines
from quaymirror.untrusted import InvalidDocument, parse_object

ORIGIN = Origin("https", "quay.example", 443)
REPOSITORY = Repository("quay.example", "kolla/nova")
BLOB = Descriptor("application/octet-stream", Digest.of(b"layer"), 5)
NOW = datetime(2026, 11, 24, tzinfo=UTC)


@dataclass(frozen=True)
class Parser:
    """One parser: `read` takes any bytes. `seeds` are valid inputs, `words` the texts it looks for."""

    read: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()


def survive(parser: Parser, data: bytes) -> None:
    """Let `parser` read `data`, and check that it returns or raises an error with a printable message of one line."""
    try:
        parser.read(data)
    except Mistakes:
        pass  # its lines quote the file
    except QuaymirrorError as error:
        _check_message(error)
    except (InvalidDocument, SnapshotError):
        pass


@contextmanager
def _ours() -> Iterator[None]:
    try:
        yield
    except QuaymirrorError as error:
        _check_message(error)


def _check_message(error: QuaymirrorError) -> None:
    assert error.message.isprintable(), error.message
    assert len(error.message) < 10_000


# ---- HTTP


@dataclass
class _Answer:
    status: int
    headers: Mapping[str, str]
    url: str = "https://quay.example/v2/kolla/nova/blobs/uploads/1"
    name: str = "quay.example"

    def all_headers(self, name: str) -> list[str]:
        return CIMultiDict(self.headers).getall(name, [])


def _response(status: int, headers: Mapping[str, str]) -> Response:
    return _Answer(status, headers)  # type: ignore[return-value]


@dataclass
class _Client:
    origin: Origin = field(default=ORIGIN)


def _text(data: bytes) -> str:
    # As aiohttp decodes headers.
    return data.decode("utf-8", "surrogateescape")


def _same_place(url: str) -> None:
    """Different parsers read the URL for the check and for the request, so they have to agree on its host."""
    try:
        sent = yarl.URL(url)
    except ValueError:
        return  # is refused when it is to be sent

    origin = Origin.of(url)
    assert (sent.scheme, sent.port) == (origin.scheme, origin.port), url
    assert shown(url).isprintable()
    if origin.host.isascii():
        assert _normal(sent.raw_host or "") == _normal(origin.host), url


def _normal(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return host.rstrip(".")


def _redirect(data: bytes) -> None:
    _same_place(follow("https://quay.example/v2/kolla/nova/blobs/sha256:0?a=b", _text(data)))


def _content_range(data: bytes) -> None:
    first, _, second = _text(data).partition("\n")
    headers = CIMultiDict([("Content-Range", first), *([("Content-Range", second)] if second else [])])
    for status, offset, end in ((206, 3, BLOB.size), (206, 0, BLOB.size), (206, 0, 4), (200, 3, BLOB.size)):
        with _ours():
            assert pull._bounds(_response(status, headers), BLOB, offset, end)[0] in (0, offset)


def _content_length(data: bytes) -> None:
    assert pull._bounds(_response(200, {"Content-Length": _text(data)}), BLOB, 0, BLOB.size)[0] == 0


def _upload(data: bytes) -> None:
    location, _, rest = _text(data).partition("\n")
    covered, _, least = rest.partition("\n")
    target = RegistryPusher(_Client())  # type: ignore[arg-type]
    fields = {"Location": location, "Range": covered, "OCI-Chunk-Min-Length": least, "Content-Length": least}
    response = _response(202, CIMultiDict(fields))
    begun = target._begun(REPOSITORY, response)
    assert begun is not None
    upload = Upload(REPOSITORY, "/v2/kolla/nova/blobs/uploads/1")
    assert target._moved(upload, response, 5) >= 0
    for path in (begun.location, upload.location):
        _same_place(f"{ORIGIN}{path}")
        assert Origin.of(f"{ORIGIN}{path}") == ORIGIN


def _challenge(data: bytes) -> None:
    for challenge in parse_challenges([_text(data)]):
        auth = TokenAuth(ORIGIN, ask=None, find_credentials=None)  # type: ignore[arg-type]
        realm = auth._checked_realm(challenge.parameters.get("realm", ""))
        query = urlencode([(key, challenge.parameters.get(key, "")) for key in ("service", "scope")])
        _same_place(f"{realm}?{query}")
        assert Origin.of(realm).netloc == ORIGIN.netloc


def _token(data: bytes) -> None:
    token, lifetime, _ = parse_token(data)
    Secret(f"Bearer {token}").header_value()
    sort_by_grant(token, ["repository:kolla/nova:pull"])
    assert 30 <= lifetime <= 3600


def _retry_after(data: bytes) -> None:
    first, _, second = _text(data).partition("\n")
    seconds = parse_retry_after(first, date=second)
    assert seconds is None or seconds >= 0
    date = parse_http_date(first)
    assert date is None or isinstance(int(date.timestamp()), int)


# ---- the API and manifests


def _page(data: bytes) -> None:
    page = parse_page(data, "kolla")
    assert all(text.isprintable() for text in page.rejected)
    for entry in page.repositories:
        Repository("quay.io", f"kolla/{entry.name}")

    if page.cursor is not None:
        yarl.URL(f"https://quay.example{listing_path('kolla', page.cursor)}")


def _tags(data: bytes) -> None:
    for tag in parse_tags(data).tags:
        with _ours():
            assert str(Reference(REPOSITORY, tag.name, tag.digest)).isprintable()


def _batch(parse: Callable[[Response, bytes], Batch[Any]]) -> Callable[[bytes], None]:
    """Return a reader of pages that services send, with what a catalog makes of them."""

    def read(data: bytes) -> None:
        with _ours():
            _use_page(parse(_response(200, {}), data))

    return read


def _use_page(batch: Batch[Any]) -> None:
    for entry in batch.entries:
        if isinstance(entry, Tag):
            assert Reference(REPOSITORY, entry.name, entry.digest).name
            assert entry.size is None or 0 <= entry.size < 2**63
        else:
            Repository("quay.io", f"kolla/{entry.name}")


def _harbor(data: bytes) -> None:
    _batch(harbor._parse_artifacts)(data)
    _batch(partial(harbor._parse_repositories, organization="kolla", has_stamps=True))(data)
    with _ours():
        harbor._parse_answer(_response(200, {}), data, "1")


def _hub(data: bytes) -> None:
    _batch(lambda response, body: hub._parse_tags(response, body)[0])(data)
    _batch(partial(hub._parse_repositories, organization="kolla"))(data)
    with _ours():
        hub._parse_answer(_response(200, {}), data, name="1")


def _ghcr(data: bytes) -> None:
    _batch(ghcr._parse_versions)(data)
    _batch(partial(ghcr._parse_packages, owner="kolla"))(data)


def _gitlab(data: bytes) -> None:
    _batch(partial(gitlab._parse_page, group="kolla", registry=ORIGIN))(data)


def _google(data: bytes) -> None:
    for name, tag in described_tags(parse_object(data, limit=1_000_000)).items():
        assert name == tag.name


def _manifest(data: bytes) -> None:
    first, _, rest = data.partition(b"\n")
    for media_type in (_text(first), "", "application/vnd.oci.image.manifest.v1+json"):
        with _ours():
            _use(manifest.parse(rest, media_type))

    _use(manifest.parse_stored(data, Digest.of(data)))


def _use(node: Manifest | Index) -> None:
    foreign = ForeignLayers(ORIGIN)
    for child in node.manifests if isinstance(node, Index) else node.blobs:
        assert str(child.digest).isascii()
        assert 0 <= child.size < 2**63
        assert all(Origin.of(url).is_secure for url in foreign._usable(child))


# ---- files


@cache
def _directory() -> Path:
    return Path(tempfile.mkdtemp(prefix="quaymirror-parsers-"))


def _written(data: bytes, name: str) -> Path:
    file = _directory() / name
    file.write_bytes(data)
    return file


def _index(data: bytes) -> None:
    document = parse_index(data)
    record = ImageRecord("kolla/nova:1", "quay.io", BLOB.digest, BLOB, (BLOB,))
    again = parse_index(project(document, [record], without=["kolla/gone:1"]))
    assert [name_of(entry) for entry in again["manifests"]].count(record.name) == 1


def _auth_file(data: bytes) -> None:
    file = AuthFile._parse(data, Path("auth.json"))
    for registry, repository in (("quay.io", "kolla/nova"), ("quay.example:8443", None)):
        file.helpers_for(registry)
        with _ours():
            credentials = file.inline_credentials(registry, repository)
            if credentials is not None:
                credentials.basic().header_value()


def _helper(data: bytes) -> None:
    helper._parse_answer(data, "docker-credential-x", "quay.io").basic().header_value()


def _secret(data: bytes) -> None:
    files._parse_secret(data, "the file").header_value()


def _lock_file(data: bytes) -> None:
    server, selections = read_lock(_written(data, "images.lock"))
    assert selections
    if server is not None:
        parse_server(server)


def _toml(data: bytes) -> None:
    config = read_config(_written(data, "quaymirror.toml"))
    for job in config.jobs.values():
        with _ours():
            words = {spec.name: job[spec.key_name].value for spec in SELECTION if spec.key_name in job}
            make_selections(words, Options())


def _import(data: bytes) -> None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return

    converted = convert(text, "regsync.yml")
    tomllib.loads(converted.toml)
    assert all(line.isprintable() for line in converted.left_out)


@cache
def _screen() -> Screen:
    return Screen(Console(file=io.StringIO(), width=100, height=30))


def _snapshot(data: bytes) -> None:
    snapshot = read_snapshot(data)
    assert all(line.isprintable() for line in summary_lines(snapshot.progress))
    _screen().frame(snapshot.progress, snapshot.speeds, snapshot.clock)
    assert isinstance(snapshot.exit_code, int)


def _lock_holder(data: bytes) -> None:
    assert lock._holder(_written(data, "lock")).isprintable()


def _words(data: bytes) -> None:
    text = _text(data)
    readers: tuple[Callable[[str], object], ...] = (
        Digest.parse,
        Platform.parse,
        parse_server,
        parse_rate,
        parse_duration,
        lambda text: parse_since(text, now=NOW),
        lambda text: Selection.parse_uri(f"quay://{text}", now=NOW),
        lambda text: Proxies.of({"http_proxy": text, "no_proxy": text}).find("http://quay.example/"),
    )
    for read in readers:
        with _ours():
            read(text)


# ---- the table


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _example_snapshot() -> bytes:
    progress = RunProgress(lambda: 10.0)
    run = {"run_id": "1", "server": "quay.io", "organization": "kolla", "glob": "*", "tag": "1", "target": "m"}
    progress.apply(RunStarted(started=1.0, **run))  # type: ignore[arg-type]
    return take_snapshot(progress, Speeds(), now=20.0).encode()


HEX = "sha256:" + "0" * 64
_OCI = "application/vnd.oci.image"
_LAYER = {"mediaType": f"{_OCI}.layer.v1.tar+gzip", "digest": HEX, "size": 5}
_MANIFEST = {"schemaVersion": 2, "mediaType": f"{_OCI}.manifest.v1+json", "config": _LAYER, "layers": [_LAYER]}
_INDEX = {"schemaVersion": 2, "mediaType": f"{_OCI}.index.v1+json", "manifests": [_LAYER]}
_REPOSITORIES = [{"namespace": "kolla", "name": "nova", "last_modified": 1_700_000_000, "is_public": True}]
_TAG = {"name": "1", "manifest_digest": HEX, "start_ts": 1_700_000_000, "size": 5, "end_ts": 1_800_000_000}
_LOCKED = [{"repository": f"kolla/{name}", "tag": "1", "digest": HEX} for name in ("a", "b")]
_RECEIPT = {
    "name": "a",
    "registry": "b",
    "source": "c",
    "target": "d",
    "recipe": "e",
    "files": [["f", 1]],
    "layers": [],
}
_TOML = (
    b'[run]\nreport = "r.json"\n[defaults]\nto = "./m"\nconcurrency = 4\n'
    b'[jobs.a]\norganization = "kolla"\nrepositories = ["n-*"]\ntags = ["1"]\nsince = "7d"\nexclude = ["x"]\n'
)
_SKOPEO = (
    b"quay.io:\n  images:\n    kolla/nova: [1, 2]\n  images-by-tag-regex:\n    kolla/x: ^1.*$\n"
    b"  images-by-semver:\n    kolla/y: '>= 1'\n  tls-verify: false\n"
)
_REGSYNC = (
    b"version: 1\ndefaults: {parallel: 2}\ncreds: [{registry: quay.io}]\nsync:\n"
    b"- {source: quay.io/kolla/nova:1, target: r.example/kolla/nova:1, type: image, platforms: [linux/amd64]}\n"
    b"- {source: quay.io, type: registry, target: r.example, repos: {allow: [kolla/.*]}, tags: {deny: [x]}}\n"
)

_TIME = "2026-05-19T22:19:11.000Z"
_NAMED: dict[str, Any] = {
    "name": "kolla/nova",
    "path": "kolla/nova",
    "location": "quay.example/kolla/nova",
    "update_time": _TIME,
}
_NAMED |= {"artifact_count": 3, "updated_at": _TIME, "version_count": 3, "last_updated": _TIME}
_ARTIFACT = {"digest": HEX, "size": 5, "manifest_media_type": "x", "tags": [{"name": "1", "push_time": _TIME}]}
_TAGGED = {"name": "1", "digest": HEX, "media_type": "x", "full_size": 5, "tag_last_pushed": _TIME}
_PAGE = {"count": 1, "next": None, "previous": None}
_VERSION = {"name": HEX, "updated_at": _TIME, "metadata": {"container": {"tags": ["1"]}}}

PARSERS: dict[str, Parser] = {
    "a page of repositories": Parser(
        _page,
        (_json({"repositories": _REPOSITORIES, "next_page": "gAAAA"}),),
        (b"\\ud800", b"null", b"1e999", b"NaN"),
    ),
    "a page of tags": Parser(_tags, (_json({"tags": [_TAG], "has_additional": True}),), (b"\\u001b", b"true")),
    "a page of Harbor": Parser(_harbor, (_json([_ARTIFACT]), _json([_NAMED]), _json(_ARTIFACT)), (b"null", b"1e9")),
    "a page of Docker Hub": Parser(
        _hub, (_json(_PAGE | {"results": [_TAGGED]}), _json(_PAGE | {"results": [_NAMED]}), _json(_TAGGED)), (b"null",)
    ),
    "a page of GitHub": Parser(_ghcr, (_json([_VERSION]), _json([_NAMED])), (b"null", b"7")),
    "a page of GitLab": Parser(_gitlab, (_json([_NAMED | {"status": None}]),), (b"null", b"7")),
    "a list of tags of Google": Parser(
        _google, (_json({"manifest": {HEX: {"tag": ["1"], "imageSizeBytes": "7"}}}),), (b"null", b"7")
    ),
    "a manifest": Parser(
        _manifest,
        (
            _json(_MANIFEST),
            _json({**_MANIFEST, "layers": [{**_LAYER, "urls": ["https://h/x"]}]}),
            _json(_INDEX),
        ),
        (b'"platform": {"os": "linux", "architecture": "amd64"}', b'"annotations": {}', b"http://[::1", b"9" * 30),
    ),
    "a challenge": Parser(
        _challenge,
        (b'Bearer realm="https://quay.example/v2/auth",service="quay.example",scope="repository:a:pull"',),
        (b'\\"', b"@", b"https://evil.example", b":99999", b"[", b"\\", b"Basic", b"\xff"),
    ),
    "a token": Parser(
        _token,
        (_json({"token": "a.eyJleHAiOiA1LCAiaWF0IjogMX0.c", "expires_in": 60}), _json({"access_token": "x"})),
        (b"Infinity", b"1e400", b"null"),
    ),
    "Retry-After": Parser(
        _retry_after,
        (b"120", b"Tue, 24 Nov 2026 12:00:00 GMT\nTue, 24 Nov 2026 11:00:00 GMT", b"Sun Nov  6 08:49:37 1994"),
        (b"9999", b"-0000", b"+2359", b"\xd9\xa1"),
    ),
    "Location of a redirect": Parser(
        _redirect,
        (b"https://cdn.example:8443/blob?X-Amz-Signature=1", b"//cdn.example/x", b"/elsewhere", b"../x"),
        (b"@", b"\\", b"[::1]", b"#", b"%00", b"%2f", b"\xe2\x84\xaa", b"\xe3\x80\x82", b":0", b"0x7f.1", b"http:"),
    ),
    "Location and Range of an upload": Parser(
        _upload,
        (b"/v2/kolla/nova/blobs/uploads/1?_state=x\n0-5\n1024", b"https://quay.example/x\nbytes=0-9\n0"),
        (b"@evil.example", b"//evil.example", b"\\", b"quay.example", b"\xd9\xa1", b"\xc2\xb2", b"#"),
    ),
    "Content-Range": Parser(_content_range, (b"bytes 3-4/5", b"bytes 3-4/*"), (b"9" * 25, b"\xd9\xa1", b"\n")),
    "Content-Length": Parser(_content_length, (b"5",), (b"9" * 5000, b"\xd9\xa1", b"\xc2\xb2")),
    "an auth file": Parser(
        _auth_file,
        (
            _json({"auths": {"quay.io": {"auth": "bWU6cHc="}, "quay.io/kolla": {"username": "a", "password": "b"}}}),
            _json({"credHelpers": {"quay.io": "x"}, "credsStore": "y", "auths": {"https://quay.io/v1/": {}}}),
            _json({"auths": {"quay.example": {"identitytoken": "abc", "auth": "bWU6"}}}),
        ),
        (b"null", b"\\u0000", b"\\ud800", b"[]"),
    ),
    "the answer of a credential helper": Parser(
        _helper, (_json({"ServerURL": "https://quay.io", "Username": "me", "Secret": "pw"}),), (b"\\n", b"<token>")
    ),
    "a file with a secret": Parser(_secret, (b"hunter2\n",), (b"\r", b"\xff", b"\0")),
    "index.json": Parser(
        _index,
        (
            _json({"schemaVersion": 2, "manifests": [{**_LAYER, "annotations": {"a": "b"}}], "x": {"y": [1.5]}}),
            _json({"manifests": [{"annotations": {"org.opencontainers.image.ref.name": "kolla/nova:1"}}]}),
        ),
        (b"\\ud800", b"NaN", b"-Infinity", b"[" * 50, b"9" * 5000),
    ),
    "oci-layout": Parser(check_oci_layout, (b'{"imageLayoutVersion": "1.0.0"}',), (b"[" * 5000,)),
    "a lock file": Parser(
        _lock_file,
        (_json({"lock_version": 1, "server": "https://quay.io", "images": _LOCKED}),),
        (b"\\u001b", b"null", b"{}", b"@", b"\\ud800"),
    ),
    "quaymirror.toml": Parser(
        _toml,
        (_TOML, b'[jobs]\nb = {organization = "kolla", platform = ["linux/amd64"], retries = 3, prune = true}\n'),
        (b"'''", b'"""', b"[[", b"inf", b"1979-05-27", b"0x1", b"\\u0041", b"a.b", b"~/x", b"ocidir://", b"\r\n"),
    ),
    "another tool's configuration": Parser(
        _import,
        (_SKOPEO, _REGSYNC),
        (b"!!int ''", b"!!float ''", b"!!timestamp x", b"2020-13-45", b"&a", b"*a", b"<<:", b"!!bool x", b"0b", b"? "),
    ),
    "a snapshot of a run": Parser(
        _snapshot,
        (_example_snapshot(),),
        (b"null", b"Infinity", b"1e999", b"-1", b'"\\u001b[2J"', b"[]", b"{}", b"true"),
    ),
    "who holds a lock": Parser(
        _lock_holder, (_json({"pid": 1, "host": "h", "started": 1.5}),), (b"[" * 4096, b"Infinity")
    ),
    "a receipt": Parser(receipts._parsed, (_json(_RECEIPT),), (b"Infinity", b"[" * 5000, b"null")),
    "words of a person": Parser(
        _words,
        (HEX.encode(), b"linux/arm64/v8", b"https://quay.io:8443", b"1.5MiB/s", b"90m", b"kolla/n-*:2025.1?since=7d"),
        (b"99999999999999", b"0001-01-01", b"9999-12-31", b"+23:59", b"[", b"\xe2\x84\xaa", b"{"),
    ),
}
