"""A mirror as a registry: what each request is answered."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from serving import blob_path, entry, served, write_blobs, write_layout

from quaymirror.errors import ConfigError
from quaymirror.serve.options import ServeOptions
from quaymirror.testing import SourceManifest, make_artifact, make_image, make_index, make_layer

TAG = "2025.1"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
ABSENT = "sha256:" + "0" * 64
BASE = make_layer("base", 300_000)
SINGLE = make_image([BASE, make_layer("single", 2_000)], media="docker")
AMD64, ARM64 = (make_image([make_layer(name, 3_000)], platform=f"linux/{name}") for name in ("amd64", "arm64"))
MULTI = make_index([(AMD64, "linux/amd64"), (ARM64, "linux/arm64")])
OTHER = make_image([make_layer("other", 2_000)])
IMAGES = {
    f"kolla/single:{TAG}": SINGLE,
    f"kolla/multi:{TAG}": MULTI,
    f"kolla/multi:{TAG}-old": AMD64,
    "team/other:1": OTHER,
}


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    return write_layout(tmp_path / "mirror", IMAGES)


@pytest.fixture(autouse=True)
def _refreshes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quaymirror.serve.serving._REFRESH_SECONDS", 0.02)


async def test_the_version_check_and_unknown_endpoints(mirror: Path) -> None:
    async with served(mirror) as client:
        for path in ("/v2/", "/v2"):
            answer = await client.get(path)
            assert (answer.status, answer.body) == (200, b"{}")
            assert answer.headers["docker-distribution-api-version"] == "registry/2.0"

        assert (await client.get("/v2/kolla")).code == "UNSUPPORTED"
        for method in ("PUT", "POST", "PATCH", "DELETE", "OPTIONS"):
            answer = await client.send(method, f"/v2/kolla/single/manifests/{TAG}")
            assert (answer.status, answer.code, answer.headers["allow"]) == (405, "UNSUPPORTED", "GET, HEAD")


@pytest.mark.parametrize("image", [SINGLE, MULTI, AMD64])
async def test_manifests_are_answered_as_they_are_stored(mirror: Path, image: SourceManifest) -> None:
    names = [name.rpartition(":")[::2] for name, one in IMAGES.items() if one is image]
    async with served(mirror) as client:
        for repository, tag in names:
            for reference in (tag, image.digest):
                for accept in ("", "application/json", "text/html;q=0.1", image.media_type, "*/*", "\xff;;,q=x"):
                    answer = await client.get(f"/v2/{repository}/manifests/{reference}", Accept=accept)
                    assert (answer.status, answer.body) == (200, image.raw)
                    assert answer.headers["content-type"] == image.media_type
                    assert answer.headers["docker-content-digest"] == image.digest
                    assert answer.headers["etag"] == f'"{image.digest}"'

                head = await client.head(f"/v2/{repository}/manifests/{reference}")
                assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(image.raw)))
                assert head.headers["docker-content-digest"] == image.digest
                known = await client.get(f"/v2/{repository}/manifests/{reference}", If_None_Match=f'"{image.digest}"')
                assert (known.status, known.body) == (304, b"")


async def test_children_of_an_index_are_pulled_by_digest_from_its_repository_only(mirror: Path) -> None:
    async with served(mirror) as client:
        assert (await client.get(f"/v2/kolla/multi/manifests/{ARM64.digest}")).body == ARM64.raw
        assert (await client.get(f"/v2/kolla/single/manifests/{ARM64.digest}")).code == "MANIFEST_UNKNOWN"
        assert (await client.get(f"/v2/kolla/multi/manifests/{ARM64.blobs[0].digest}")).code == "MANIFEST_UNKNOWN"


async def test_blobs_are_answered_for_repositories_that_contain_them(mirror: Path) -> None:
    async with served(mirror) as client:
        for blob in SINGLE.blobs:
            answer = await client.get(f"/v2/kolla/single/blobs/{blob.digest}")
            assert (answer.status, answer.body) == (200, blob.data)
            assert answer.headers["docker-content-digest"] == blob.digest
            assert answer.headers["accept-ranges"] == "bytes"
            head = await client.head(f"/v2/kolla/single/blobs/{blob.digest}")
            assert (head.status, head.headers["content-length"]) == (200, str(blob.size))
            for repository in ("kolla/multi", "team/other"):
                assert (await client.get(f"/v2/{repository}/blobs/{blob.digest}")).code == "BLOB_UNKNOWN"


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("bytes=0-0", slice(0, 1)),
        ("bytes=100-199", slice(100, 200)),
        ("bytes=100-", slice(100, None)),
        ("bytes=-5", slice(-5, None)),
        ("bytes=-999999999", slice(0, None)),
        ("bytes=5-999999999", slice(5, None)),
    ],
)
@pytest.mark.parametrize("number", [0, 1])
async def test_a_range_of_a_blob(mirror: Path, header: str, part: slice, number: int) -> None:
    blob = SINGLE.blobs[number]
    async with served(mirror) as client:
        answer = await client.get(f"/v2/kolla/single/blobs/{blob.digest}", Range=header)
        start, stop, _ = part.indices(blob.size)
        assert (answer.status, answer.body) == (206, blob.data[part])
        assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{blob.size}"
        assert answer.headers["content-length"] == str(stop - start)


@pytest.mark.parametrize(
    "header", ["bytes=1-2,4-5", "bytes=5-1", "bytes=", "bytes=x-y", "lines=1-2", "bytes=-", "=" * 50]
)
async def test_ranges_that_are_not_one_range_are_ignored(mirror: Path, header: str) -> None:
    blob = SINGLE.blobs[1]
    async with served(mirror) as client:
        answer = await client.get(f"/v2/kolla/single/blobs/{blob.digest}", Range=header)
        assert (answer.status, answer.body) == (200, blob.data)


async def test_ranges_behind_the_end_and_conditions(mirror: Path) -> None:
    blob = SINGLE.blobs[1]
    path = f"/v2/kolla/single/blobs/{blob.digest}"
    async with served(mirror) as client:
        for header in (f"bytes={blob.size}-", "bytes=-0", "bytes=99999999999-"):
            answer = await client.get(path, Range=header)
            assert (answer.status, answer.headers["content-range"]) == (416, f"bytes */{blob.size}")

        same = await client.get(path, Range="bytes=0-9", If_Range=f'"{blob.digest}"')
        assert (same.status, same.body) == (206, blob.data[:10])
        assert (await client.get(path, Range="bytes=0-9", If_Range='"other"')).status == 200
        assert (await client.get(path, If_None_Match=f'W/"x", "{blob.digest}"')).status == 304


async def test_tags_are_listed_in_order_and_in_pages(mirror: Path) -> None:
    async with served(mirror) as client:
        path = "/v2/kolla/multi/tags/list"
        answer = await client.get(path)
        assert answer.json == {"name": "kolla/multi", "tags": [TAG, f"{TAG}-old"]}
        assert answer.headers["content-type"] == "application/json"
        assert "link" not in answer.headers
        first = await client.get(f"{path}?n=1")
        assert first.json["tags"] == [TAG]
        assert first.headers["link"] == f'<{path}?n=1&last={TAG}>; rel="next"'
        assert (await client.get(f"{path}?n=1&last={TAG}")).json["tags"] == [f"{TAG}-old"]
        assert (await client.get(f"{path}?last=zzz")).json["tags"] == []
        none = await client.get(f"{path}?n=0")
        assert (none.json["tags"], "link" in none.headers) == ([], False)
        for number in ("-1", "x", "1e3", ""):
            assert (await client.get(f"{path}?n={number}")).status == 400

        assert (await client.get("/v2/kolla/none/tags/list")).code == "NAME_UNKNOWN"


async def test_the_catalog_lists_repositories_in_pages(mirror: Path) -> None:
    async with served(mirror) as client:
        assert (await client.get("/v2/_catalog")).json == {
            "repositories": ["kolla/multi", "kolla/single", "team/other"]
        }
        page = await client.get("/v2/_catalog?n=2&last=kolla/multi")
        assert page.json == {"repositories": ["kolla/single", "team/other"]}
        page = await client.get("/v2/_catalog?n=1")
        assert page.headers["link"] == '</v2/_catalog?n=1&last=kolla%2Fmulti>; rel="next"'


SIGNATURE = make_artifact(BUNDLE, b"bundle", subject=SINGLE, annotations={"dev.sigstore.bundle.content": "dsse"})
SBOM = make_artifact("application/spdx+json", b"sbom", subject=SINGLE)
NESTED = make_artifact(BUNDLE, b"of the sbom", subject=SBOM)
REFERRERS = (SIGNATURE, SBOM, NESTED)


def fallback(*referrers: SourceManifest) -> SourceManifest:
    return make_index([(referrer, None) for referrer in referrers])


@pytest.mark.parametrize("form", ["tags", "unnamed", "fallback"])
async def test_referrers_in_every_form_that_layouts_have(tmp_path: Path, form: str) -> None:
    names = {f"kolla/single:{name}": image for name, image in zip(("a", "b", "c"), REFERRERS, strict=True)}
    lists = {
        subject.digest: fallback(subject, *its) for subject, its in ((SINGLE, (SIGNATURE, SBOM)), (SBOM, (NESTED,)))
    }
    root = write_layout(tmp_path / "mirror", names | {str(number): one for number, one in enumerate(lists.values())})
    more = {
        "tags": [entry(name, image) for name, image in names.items()],
        "unnamed": [entry(None, image) for image in REFERRERS],
        "fallback": [entry(digest.replace(":", "-"), one) for digest, one in lists.items()],
    }
    write_layout(root, IMAGES, *more[form])
    async with served(root) as client:
        answer = await client.get(f"/v2/kolla/single/referrers/{SINGLE.digest}")
        assert answer.headers["content-type"] == OCI_INDEX
        assert (answer.json["schemaVersion"], answer.json["mediaType"]) == (2, OCI_INDEX)
        found = {one["digest"]: one for one in answer.json["manifests"]}
        assert found.keys() == {SIGNATURE.digest, SBOM.digest}
        assert found[SIGNATURE.digest]["artifactType"] == BUNDLE
        assert found[SIGNATURE.digest]["annotations"] == {"dev.sigstore.bundle.content": "dsse"}
        assert found[SIGNATURE.digest]["size"] == len(SIGNATURE.raw)
        assert "oci-filters-applied" not in answer.headers
        nested = await client.get(f"/v2/kolla/single/referrers/{SBOM.digest}")
        assert [one["digest"] for one in nested.json["manifests"]] == [NESTED.digest]
        for image in REFERRERS:
            assert (await client.get(f"/v2/kolla/single/manifests/{image.digest}")).body == image.raw
            assert (await client.get(f"/v2/kolla/single/blobs/{image.blobs[1].digest}")).body == image.blobs[1].data
            assert (await client.get(f"/v2/team/other/manifests/{image.digest}")).status == 404


async def test_referrers_are_filtered_and_empty_for_absent_subjects(tmp_path: Path) -> None:
    names = {f"kolla/single:{name}": image for name, image in zip(("a", "b", "c"), REFERRERS, strict=True)}
    root = write_layout(tmp_path / "mirror", IMAGES | names)
    async with served(root) as client:
        path = f"/v2/kolla/single/referrers/{SINGLE.digest}"
        answer = await client.get(f"{path}?artifactType={BUNDLE.replace('+', '%2B')}")
        assert [one["digest"] for one in answer.json["manifests"]] == [SIGNATURE.digest]
        assert answer.headers["oci-filters-applied"] == "artifactType"
        assert (await client.get(f"{path}?artifactType=none")).json["manifests"] == []
        absent = await client.get(f"/v2/kolla/single/referrers/{ABSENT}")
        assert (absent.status, absent.headers["content-type"], absent.json["manifests"]) == (200, OCI_INDEX, [])
        assert (await client.get("/v2/kolla/single/referrers/sha256:bad")).code == "DIGEST_INVALID"
        assert (await client.get(f"/v2/kolla/none/referrers/{ABSENT}")).code == "NAME_UNKNOWN"


async def test_a_plain_tag_named_like_a_list_of_referrers_is_none(tmp_path: Path) -> None:
    root = write_layout(tmp_path / "mirror", IMAGES, entry(MULTI.digest.replace(":", "-"), MULTI))
    async with served(root) as client:
        assert (await client.get(f"/v2/kolla/multi/referrers/{MULTI.digest}")).json["manifests"] == []


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v2/kolla/single/manifests/sha256:baddigeststring", 400, "DIGEST_INVALID"),
        ("/v2/kolla/single/blobs/sha256:baddigeststring", 400, "DIGEST_INVALID"),
        (f"/v2/kolla/single/blobs/{SINGLE.digest.upper()}", 400, "DIGEST_INVALID"),
        ("/v2/kolla/single/blobs/md5:" + "0" * 32, 400, "DIGEST_INVALID"),
        ("/v2/kolla/single/blobs/" + "x" * 7000, 400, "DIGEST_INVALID"),
        ("/v2/kolla/single/manifests/-tag", 400, "MANIFEST_INVALID"),
        ("/v2/kolla/single/manifests/" + "t" * 129, 400, "MANIFEST_INVALID"),
        ("/v2/kolla/single/manifests/", 400, "MANIFEST_INVALID"),
        ("/v2/kolla/single/manifests/none", 404, "MANIFEST_UNKNOWN"),
        (f"/v2/kolla/single/manifests/{ABSENT}", 404, "MANIFEST_UNKNOWN"),
        (f"/v2/kolla/single/blobs/{ABSENT}", 404, "BLOB_UNKNOWN"),
        (f"/v2/Kolla/single/manifests/{TAG}", 400, "NAME_INVALID"),
        (f"/v2/../single/manifests/{TAG}", 400, "NAME_INVALID"),
        (f"/v2/kolla/../single/manifests/{TAG}", 400, "NAME_INVALID"),
        (f"/v2/kolla/%2e%2e/single/manifests/{TAG}", 400, "NAME_INVALID"),
        (f"/v2/kolla//single/manifests/{TAG}", 400, "NAME_INVALID"),
        (f"/v2/kolla%00/manifests/{TAG}", 400, "NAME_INVALID"),
        (f"/v2/{'a/' * 200}b/manifests/{TAG}", 400, "NAME_INVALID"),
        ("/v2/kolla/single/manifests/..%2f..%2findex.json", 404, "UNSUPPORTED"),
        ("/v2/kolla/single/tags/other", 404, "UNSUPPORTED"),
        ("/v2/%0d%0aX-Injected:%201/tags/list", 400, "NAME_INVALID"),
    ],
)
async def test_malformed_and_unknown_names_have_their_error(mirror: Path, path: str, status: int, code: str) -> None:
    async with served(mirror) as client:
        answer = await client.get(path)
        assert (answer.status, answer.code) == (status, code)
        assert "x-injected" not in answer.headers
        head = await client.head(path)
        assert (head.status, head.body) == (status, b"")


async def test_two_mirrors_share_repositories_or_stand_under_prefixes(mirror: Path, tmp_path: Path) -> None:
    second = write_layout(tmp_path / "second", {"kolla/multi:2026.1": OTHER, f"kolla/single:{TAG}": SINGLE})
    async with served(mirror, second) as client:
        assert (await client.get("/v2/kolla/multi/tags/list")).json["tags"] == [TAG, f"{TAG}-old", "2026.1"]
        assert (await client.get("/v2/kolla/multi/manifests/2026.1")).body == OTHER.raw
        assert (await client.get(f"/v2/kolla/multi/blobs/{OTHER.blobs[1].digest}")).body == OTHER.blobs[1].data

    third = write_layout(tmp_path / "third", {f"kolla/single:{TAG}": OTHER})
    with pytest.raises(ConfigError, match=f"kolla/single:{TAG} is another image in .*third.* than in .*PREFIX="):
        async with served(mirror, third):
            pass

    async with served(mirror, f"lab/new={third}") as client:
        assert (await client.get(f"/v2/lab/new/kolla/single/manifests/{TAG}")).body == OTHER.raw
        assert (await client.get(f"/v2/kolla/single/manifests/{TAG}")).body == SINGLE.raw
        assert "lab/new/kolla/single" in (await client.get("/v2/_catalog")).json["repositories"]


async def test_ns_prefers_images_from_that_host(mirror: Path, tmp_path: Path) -> None:
    hub = write_layout(tmp_path / "hub", {}, entry(f"kolla/single:{TAG}", OTHER, "docker.io"))
    write_blobs(hub, OTHER)
    async with served(mirror, f"hub={hub}") as client:
        path = f"/v2/kolla/single/manifests/{TAG}"
        answer = await client.get(f"{path}?ns=docker.io")
        assert (answer.body, answer.headers["oci-namespace"]) == (OTHER.raw, "docker.io")
        blob = await client.get(f"/v2/kolla/single/blobs/{OTHER.blobs[1].digest}?ns=docker.io")
        assert blob.body == OTHER.blobs[1].data
        answer = await client.get(f"{path}?ns=quay.io")
        assert (answer.body, answer.headers["oci-namespace"]) == (SINGLE.raw, "quay.io")
        for other in ("ghcr.io", "%0d%0a", ""):
            answer = await client.get(f"{path}?ns={other}")
            assert (answer.body, "oci-namespace" in answer.headers) == (SINGLE.raw, False)


async def test_a_layout_of_tags_without_repository_needs_a_prefix(tmp_path: Path) -> None:
    root = write_layout(tmp_path / "mirror", {"latest": OTHER})
    with pytest.raises(ConfigError, match="serve it as NAME="):
        async with served(root):
            pass

    async with served(f"team/app={root}") as client:
        assert (await client.get("/v2/team/app/manifests/latest")).body == OTHER.raw
        assert (await client.get("/v2/_catalog")).json == {"repositories": ["team/app"]}


async def test_new_images_appear_and_pulls_of_earlier_ones_go_on(mirror: Path) -> None:
    async with served(mirror) as client:
        write_layout(mirror, {f"kolla/single:{TAG}": OTHER, "kolla/new:1": OTHER})
        await client.until("/v2/kolla/new/manifests/1", 200)
        assert (await client.get(f"/v2/kolla/single/manifests/{TAG}")).body == OTHER.raw
        assert (await client.get(f"/v2/kolla/single/manifests/{SINGLE.digest}")).body == SINGLE.raw
        assert (await client.get(f"/v2/kolla/single/blobs/{BASE.blob.digest}")).body == BASE.blob.data
        assert (await client.get(f"/v2/kolla/new/blobs/{BASE.blob.digest}")).code == "BLOB_UNKNOWN"
        # A repository that is gone: its tags are, its content is not yet.
        assert (await client.get(f"/v2/kolla/multi/manifests/{TAG}")).status == 404
        assert (await client.get(f"/v2/kolla/multi/manifests/{ARM64.digest}")).body == ARM64.raw


async def test_an_image_that_becomes_complete_is_served_whole(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = blob_path(mirror, ARM64.digest)
    path.rename(mirror / "aside")
    async with served(mirror) as client:
        assert (await client.get(f"/v2/kolla/multi/manifests/{ARM64.digest}")).code == "MANIFEST_UNKNOWN"
        monkeypatch.setattr("quaymirror.serve.mirror._REREAD_SECONDS", 0.0)
        (mirror / "aside").rename(path)
        assert (await client.get(f"/v2/kolla/multi/manifests/{ARM64.digest}")).status == 200
        await client.until(f"/v2/kolla/multi/blobs/{ARM64.blobs[1].digest}", 200)


async def test_damaged_content_is_never_sent_as_if_it_were_right(mirror: Path) -> None:
    large, small = BASE.blob, SINGLE.blobs[2]
    blob_path(mirror, large.digest).write_bytes(large.data[:-1])
    blob_path(mirror, small.digest).write_bytes(bytes(small.size))
    async with served(mirror) as client:
        for blob in (large, small):
            answer = await client.get(f"/v2/kolla/single/blobs/{blob.digest}")
            assert (answer.status, answer.code) == (500, "UNKNOWN")

        assert (await client.head(f"/v2/kolla/single/blobs/{large.digest}")).status == 500
        assert all("verify --repair" in line and "\n" not in line for line in client.said)
        assert len(client.said) == 3
        blob_path(mirror, large.digest).unlink()
        assert (await client.get(f"/v2/kolla/single/blobs/{large.digest}")).code == "BLOB_UNKNOWN"


async def test_a_mirror_that_can_not_be_read_is_unavailable_and_not_empty(mirror: Path) -> None:
    async with served(mirror) as client:
        assert (await client.get("/healthz")).body == b"ok\n"
        mirror.rename(mirror.with_name("moved"))
        await client.until("/healthz", 503)
        for path in (f"/v2/kolla/single/blobs/{BASE.blob.digest}", f"/v2/kolla/none/manifests/{TAG}"):
            answer = await client.get(path)
            assert (answer.status, answer.code) == (503, "UNAVAILABLE")
            assert "retry-after" in answer.headers

        mirror.with_name("moved").rename(mirror)
        await client.until("/healthz", 200)
        assert (await client.get(f"/v2/kolla/single/blobs/{BASE.blob.digest}")).status == 200
        (mirror / "index.json").write_text("{")
        await client.until("/healthz", 503)
        assert (await client.get(f"/v2/kolla/single/manifests/{TAG}")).body == SINGLE.raw

    assert [line for line in client.said if "index.json" in line]
    assert not any("Traceback" in line for line in client.said)


async def test_metrics_count_requests_and_bytes(mirror: Path) -> None:
    async with served(mirror) as client:
        await client.get(f"/v2/kolla/single/manifests/{TAG}")
        await client.get(f"/v2/kolla/single/blobs/{BASE.blob.digest}")
        await client.get("/v2/kolla/none/manifests/none")
        text = (await client.get("/metrics")).body.decode()
        assert 'quaymirror_serve_requests_total{kind="manifests",status="200"} 1.0' in text
        assert 'quaymirror_serve_requests_total{kind="blobs",status="200"} 1.0' in text
        assert f"quaymirror_serve_sent_bytes_total {float(BASE.blob.size):.0f}"[:30] in text
        assert f'quaymirror_serve_images{{mirror="{mirror}"}} 4.0' in text


async def test_the_access_log_has_a_line_per_request_without_credentials(mirror: Path, tmp_path: Path) -> None:
    log = tmp_path / "access.jsonl"
    async with served(mirror, access_log=str(log)) as client:
        secret = "Basic bWlycm9yOmh1bnRlcjI="
        await client.get(
            f"/v2/kolla/single/manifests/{TAG}?ns=quay.io&token=hunter2", Authorization=secret, User_Agent="curl"
        )
        await client.get("/v2/kolla/%1b[2J%0a/manifests/x")

    first, second = map(json.loads, log.read_text().splitlines())
    assert (first["method"], first["path"], first["status"]) == ("GET", f"/v2/kolla/single/manifests/{TAG}", 200)
    assert (first["bytes"], first["agent"], first["namespace"]) == (len(SINGLE.raw), "curl", "quay.io")
    assert second["status"] == 400
    assert "hunter2" not in log.read_text()
    assert "\x1b" not in log.read_text()


@pytest.mark.parametrize("listen", ["127.0.0.1", "x:y", ":70000", "[::1]", "a b:5000", "127.0.0.1:5000 "])
def test_illegal_addresses_are_refused(listen: str) -> None:
    with pytest.raises(ConfigError, match="not an address to listen at"):
        ServeOptions(listen=listen)


@pytest.mark.parametrize(
    ("listen", "tls", "users", "warning"),
    [
        ("127.0.0.1:5000", False, False, ""),
        ("[::1]:5000", False, False, ""),
        ("localhost:5000", False, False, ""),
        (":5000", False, False, "without TLS"),
        ("0.0.0.0:5000", False, True, "passwords are sent in clear text"),
        ("registry.lab:5000", True, False, "--htpasswd"),
        ("[::]:5000", True, True, ""),
    ],
)
def test_a_public_address_is_warned_of(listen: str, tls: bool, users: bool, warning: str) -> None:
    file = Path("x")
    options = ServeOptions(
        listen=listen, tls_cert=file if tls else None, tls_key=file if tls else None, htpasswd=file if users else None
    )
    assert warning in options.warning
    assert bool(options.warning) is bool(warning)


def test_content_is_what_its_digest_says() -> None:
    assert hashlib.sha256(BASE.blob.data).hexdigest() == BASE.blob.digest.removeprefix("sha256:")


async def test_signatures_by_gpg_keys_are_served_for_manifests_of_their_repository(mirror: Path) -> None:
    folder = f"kolla/single@{SINGLE.digest.replace(':', '=')}"
    stored = mirror / ".quaymirror/lookaside" / folder
    stored.mkdir(parents=True)
    (stored / "signature-1").write_bytes(b"one")
    (mirror / ".quaymirror/lookaside/secret").write_bytes(b"secret")
    async with served(mirror) as client, served(f"lab={mirror}") as prefixed:
        answer = await client.get(f"/lookaside/{folder}/signature-1")
        assert (answer.status, answer.body) == (200, b"one")
        assert (await client.head(f"/lookaside/{folder}/signature-1")).status == 200
        assert (await prefixed.get(f"/lookaside/lab/{folder}/signature-1")).body == b"one"
        for path in (
            f"{folder}/signature-2",
            f"{folder}/signature-0",
            folder,
            folder.replace("kolla/single", "team/other") + "/signature-1",
            f"kolla/single@sha256={'0' * 64}/signature-1",
            "kolla/single@sha256=00/signature-1",
            "../secret",
            "kolla/../../secret@sha256=00/signature-1",
            "%2e%2e/secret",
        ):
            assert (await client.get(f"/lookaside/{path}")).status == 404, path
