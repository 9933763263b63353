"""Signature policies: images are judged before their layers are fetched, and a mirror is judged offline."""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import signing
from commands import run
from receiver import Receiver
from signing import keyless, signed_by
from source_signatures import attach, policy_file, sig_image, sign_with_bundle, sign_with_tag

import quaymirror
from quaymirror import Options, ReferrerMode, Selection
from quaymirror.events import Status
from quaymirror.run.report import Report
from quaymirror.testing import Blob, QuayServer, Registry, SourceManifest, digest_of, make_image, make_index, make_layer

TAG = "2025.1"
EVERYTHING = Selection("kolla", "*", TAG)


@dataclass
class Source:
    """A server with an organization `kolla`."""

    server: QuayServer
    images: dict[str, SourceManifest]

    @property
    def host(self) -> str:
        return self.server.url.partition("//")[2]

    def add(self, name: str, *keys: str, with_bundle: bool = False) -> SourceManifest:
        """Push an image, signed by these keys."""
        image = make_image([make_layer(f"{name} {len(self.images)}", 2000)])
        self.sign(name, image, *keys, with_bundle=with_bundle)
        self.repository(name).push(TAG, image)
        self.images[name] = image
        return image

    def sign(self, name: str, image: SourceManifest, *keys: str, with_bundle: bool = False) -> None:
        for key in keys:
            if with_bundle:
                sign_with_bundle(self.repository(name), image, key)
            else:
                sign_with_tag(self.repository(name), image, key, f"{self.host}/kolla/{name}")

    def repository(self, name: str) -> Any:
        return self.server.registry.organization("kolla").repository(name)

    async def run(self, mirror: Path | str, policy: Path, **options: Any) -> Report:
        self.server.reset_records()
        values = {"server": self.server.url, "signature_policy": policy, "full_check_every": 0.0, **options}
        return await quaymirror.sync(EVERYTHING, mirror, Options.of(**values))

    def fetched(self, name: str, kind: str = "blobs") -> list[str]:
        """Return the digests or tags that were requested from a repository."""
        paths = [record.path for record in self.server.requests]
        return [path.rpartition("/")[2] for path in paths if path.startswith(f"/v2/kolla/{name}/{kind}/")]


@pytest_asyncio.fixture
async def source() -> AsyncIterator[Source]:
    registry = Registry()
    registry.organization("kolla")
    async with QuayServer(registry) as server:
        yield Source(server, {})


def mirrored(mirror: Path) -> dict[str, str]:
    """Return the digests of the images in the index by name, without what belongs to them."""
    entries = json.loads((mirror / "index.json").read_text())["manifests"]
    names = {entry["annotations"]["org.opencontainers.image.ref.name"]: entry["digest"] for entry in entries}
    return {name: digest for name, digest in names.items() if "sha256-" not in name}


def outcomes(report: Report) -> dict[str, tuple[Status, str]]:
    return {one.reference.repository.name.partition("/")[2]: (one.status, one.reason or "") for one in report.outcomes}


async def test_images_that_a_policy_refuses_are_not_fetched(source: Source, tmp_path: Path) -> None:
    good = [source.add("tagged", "p256"), source.add("bundled", "p256", with_bundle=True)]
    source.add("unsigned")
    bad = source.add("other", "other")
    mirror = tmp_path / "mirror"
    report = await source.run(mirror, policy_file(tmp_path / "policy.json", signed_by("p256")))
    assert report.exit_code == 3
    found = outcomes(report)
    assert {name: status for name, (status, _) in found.items()} == {
        "tagged": Status.MIRRORED,
        "bundled": Status.MIRRORED,
        "unsigned": Status.REFUSED,
        "other": Status.REFUSED,
    }
    assert "no signature" in found["unsigned"][1]
    assert "signed by another key" in found["other"][1]
    assert source.fetched("unsigned") == []
    assert not {blob.digest for blob in bad.blobs} & {*source.fetched("other")}
    assert sorted(mirrored(mirror).values()) == sorted(image.digest for image in good)
    document = report.to_json()
    assert document["images"]["refused"] == 2
    assert report.change_counts is None
    assert "refused by the signature policy" in report.first_problem


async def test_an_unchanged_verified_night_is_free(source: Source, tmp_path: Path) -> None:
    source.add("tagged", "p256")
    source.add("bundled", "p256", with_bundle=True)
    mirror, policy = tmp_path / "mirror", policy_file(tmp_path / "policy.json", signed_by("p256"))
    assert (await source.run(mirror, policy)).exit_code == 0
    assert (await source.run(mirror, policy)).exit_code == 0
    assert [record.path for record in source.server.requests if record.path.startswith("/v2/kolla/")] == []


@pytest.mark.parametrize("kind", ["registry", "derived"])
async def test_an_unchanged_verified_night_is_free_with_other_targets_too(
    kind: str, source: Source, tmp_path: Path
) -> None:
    for number in range(3):
        source.add(f"tagged-{number}", "p256")

    source.server.registry.now = lambda: time.time() + 3600  # tags that have just changed are looked at again
    async with Receiver() as registry:
        registry.lists_referrers = True
        target = registry.address if kind == "registry" else f"tar://{tmp_path}/{{repo}}.tar"
        policy = policy_file(tmp_path / "policy.json", signed_by("p256"))
        assert (await source.run(target, policy, state=tmp_path / "state")).exit_code == 0
        assert (await source.run(target, policy, state=tmp_path / "state")).exit_code == 0
        assert [record.path for record in source.server.requests if record.path.startswith("/v2/kolla/")] == []
        # Another policy judges them again.
        other = policy_file(tmp_path / "policy.json", signed_by("rsa"))
        report = await source.run(target, other, state=tmp_path / "state")
        assert {status for status, _ in outcomes(report).values()} == {Status.REFUSED}
        assert (await source.run(target, other, state=tmp_path / "state")).exit_code == 3


async def test_signatures_that_are_judged_are_looked_for_and_read_once(source: Source, tmp_path: Path) -> None:
    source.add("tagged", "p256")
    source.add("bundled", "p256", with_bundle=True)
    policy = policy_file(tmp_path / "policy.json", signed_by("p256"))
    assert (await source.run(tmp_path / "mirror", policy)).exit_code == 0
    found = Counter(
        (record.path, record.query)
        for record in source.server.requests
        if record.status == 200 and ("/referrers/" in record.path or "sha256" in record.path + record.query)
    )
    assert {path for (path, _), count in found.items() if count > 1 and "/blob" not in path} == set()


async def test_a_refused_image_keeps_its_last_good_version(source: Source, tmp_path: Path) -> None:
    good = source.add("nova", "p256")
    mirror, policy = tmp_path / "mirror", policy_file(tmp_path / "policy.json", signed_by("p256"))
    assert (await source.run(mirror, policy)).exit_code == 0
    bad = source.add("nova")
    report = await source.run(mirror, policy)
    assert report.exit_code == 3
    assert outcomes(report)["nova"][0] is Status.REFUSED
    assert [*mirrored(mirror).values()] == [good.digest]
    # As soon as it is signed, it is mirrored.
    source.sign("nova", bad, "p256")
    assert (await source.run(mirror, policy)).exit_code == 0
    assert [*mirrored(mirror).values()] == [bad.digest]


async def test_a_changed_policy_is_judged_from_the_files_of_the_mirror(source: Source, tmp_path: Path) -> None:
    source.add("tagged", "p256")
    source.add("bundled", "p256", with_bundle=True)
    mirror, policy = tmp_path / "mirror", tmp_path / "policy.json"
    assert (await source.run(mirror, policy_file(policy, signed_by("p256")))).exit_code == 0
    assert (await source.run(mirror, policy_file(policy, signed_by("p256", "rsa")))).exit_code == 0
    assert [record.path for record in source.server.requests if record.path.startswith("/v2/kolla/")] == []
    # A policy that refuses what is there: it stays.
    before = mirrored(mirror)
    report = await source.run(mirror, policy_file(policy, signed_by("rsa")))
    assert {status for status, _ in outcomes(report).values()} == {Status.REFUSED}
    assert report.exit_code == 3
    assert mirrored(mirror) == before


@pytest.mark.parametrize("options", [{"referrers": ReferrerMode.NONE}, {"artifact_types": ("application/spdx*",)}])
async def test_judged_signatures_are_kept_whatever_referrers_are_wanted(
    options: dict[str, Any], source: Source, tmp_path: Path
) -> None:
    source.add("tagged", "p256")
    source.add("bundled", "p256", with_bundle=True)
    mirror, policy = tmp_path / "mirror", policy_file(tmp_path / "policy.json", signed_by("p256"))
    assert (await source.run(mirror, policy, **options)).exit_code == 0
    result = await quaymirror.verify(str(mirror), Options.of(signature_policy=policy))
    assert (result.exit_code, result.accepted, result.unaccepted) == (0, 2, ())


async def test_a_mirror_is_judged_offline(source: Source, tmp_path: Path) -> None:
    source.add("tagged", "p256")
    source.add("unsigned")
    mirror, policy = tmp_path / "mirror", policy_file(tmp_path / "policy.json", signed_by("p256"))
    values = {"server": source.server.url, "full_check_every": 0.0}
    assert (await quaymirror.sync(EVERYTHING, mirror, Options.of(**values))).exit_code == 0
    source.server.reset_records()
    words = ("verify", str(mirror), "--signature-policy", str(policy))
    document = json.loads((await run(*words, "--json", cwd=tmp_path, check=3)).stdout)
    assert document["signatures"]["accepted"] == 1
    [refused] = document["signatures"]["refused"]
    assert refused["image"] == f"kolla/unsigned:{TAG}"
    assert refused["reasons"][0].endswith("no signature")
    assert source.server.requests == []
    # Damage is more severe.
    blob = next((mirror / "blobs" / "sha256").iterdir())
    blob.write_bytes(b"")
    await run(*words, cwd=tmp_path, check=8)


async def test_an_index_is_accepted_with_its_signature_or_those_of_all_platforms(
    source: Source, tmp_path: Path
) -> None:
    def index(name: str) -> tuple[SourceManifest, list[SourceManifest]]:
        children = [make_image([make_layer(f"{name} {number}", 2000)]) for number in range(2)]
        return make_index([(children[0], "linux/amd64"), (children[1], "linux/arm64")]), children

    for name, signs in {"root": "root", "all": "all", "half": "half"}.items():
        root, children = index(name)
        source.repository(name).push(TAG, root)
        for image in {"root": [root], "all": children, "half": children[:1]}[signs]:
            source.sign(name, image, "p256")

    report = await source.run(tmp_path / "mirror", policy_file(tmp_path / "policy.json", signed_by("p256")))
    found = outcomes(report)
    assert {name: status for name, (status, _) in found.items()} == {
        "root": Status.MIRRORED,
        "all": Status.MIRRORED,
        "half": Status.REFUSED,
    }
    assert "not all platforms are signed: linux/arm64" in found["half"][1]


async def test_a_keyless_signature_is_judged_offline(source: Source, tmp_path: Path) -> None:
    raw = (signing.DATA / "manifest.json").read_bytes()
    blobs = (Blob.of(b"{}"), Blob.of(b"quaymirror\n"))
    image = SourceManifest(raw, "application/vnd.oci.image.manifest.v1+json", digest_of(raw), blobs)
    for name, bundle in (("good", "signed"), ("bad", "other-identity")):
        source.repository(name).push(TAG, image)
        attach(source.repository(name), image, (signing.DATA / f"{bundle}.json").read_bytes())

    # The payload names the repository as the signer knew it.
    rule = {"type": "exactRepository", "dockerRepository": "quay.io/kolla/nova-api"}
    made = json.loads((signing.DATA / "tags.json").read_text())["signed"]
    source.repository("tagged").push(TAG, image)
    signed = sig_image((base64.b64decode(made["payload"]), made["annotations"]))
    source.repository("tagged").push(f"{image.digest.replace(':', '-')}.sig", signed)
    [exact, bundled] = keyless(), keyless()
    exact["signedIdentity"] = rule
    host = source.host
    scopes = {f"{host}/kolla/tagged": [exact], f"{host}/kolla": [bundled]}
    policy, root = tmp_path / "policy.json", signing.DATA / "trusted_root.json"
    policy.write_text(json.dumps({"default": [{"type": "reject"}], "transports": {"docker": scopes}}))
    report = await source.run(tmp_path / "mirror", policy, trusted_root=root)
    found = outcomes(report)
    assert (found["good"][0], found["tagged"][0]) == (Status.MIRRORED, Status.MIRRORED)
    assert found["bad"][0] is Status.REFUSED
    assert "other@example.com" in found["bad"][1]


async def test_signatures_that_can_not_be_read_are_a_failure_not_a_refusal(source: Source, tmp_path: Path) -> None:
    image = source.add("nova", "p256")
    source.repository("nova").push(f"{image.digest.replace(':', '-')}.sig", _lost())
    report = await source.run(tmp_path / "mirror", policy_file(tmp_path / "policy.json", signed_by("p256")), retries=0)
    [outcome] = report.outcomes
    assert outcome.status is Status.FAILED
    assert outcome.error is not None
    assert "the signatures can't be read" in outcome.error.message


def _lost() -> SourceManifest:
    """Return a signature whose payload the registry lacks."""
    document = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": Blob.of(b"{}").digest,
            "size": 2,
        },
        "layers": [
            {
                "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
                "digest": digest_of(b"lost"),
                "size": 4,
                "annotations": {"dev.cosignproject.cosign/signature": base64.b64encode(b"x").decode()},
            }
        ],
    }
    raw = json.dumps(document).encode()
    return SourceManifest(raw, document["mediaType"], digest_of(raw), (Blob.of(b"{}"),))  # type: ignore[arg-type]


async def test_a_dry_run_says_what_would_be_refused_and_keeps_nothing(source: Source, tmp_path: Path) -> None:
    source.add("tagged", "p256")
    source.add("unsigned")
    mirror = tmp_path / "mirror"
    report = await source.run(mirror, policy_file(tmp_path / "policy.json", signed_by("p256")), dry_run=True)
    assert outcomes(report)["unsigned"][0] is Status.REFUSED
    assert outcomes(report)["tagged"][0] is Status.MIRRORED
    assert not mirror.exists()


async def test_a_policy_with_an_unknown_key_stops_before_any_request(source: Source, tmp_path: Path) -> None:
    policy = policy_file(tmp_path / "policy.json", {**signed_by("p256"), "keypath": "x"})
    words = ("sync", "kolla", "*", TAG, "--to", "mirror", "--server", source.server.url)
    done = await run(*words, "--signature-policy", str(policy), cwd=tmp_path, check=2)
    assert f"{policy}: default[0].keypath: unknown key" in done.stderr
    assert source.server.requests == []


async def test_the_policy_of_podman_is_that_of_the_user_or_the_system(source: Source, tmp_path: Path) -> None:
    source.add("unsigned")
    (tmp_path / "containers").mkdir()
    policy_file(tmp_path / "containers" / "policy.json", {"type": "reject"})
    report = await source.run(tmp_path / "mirror", Path("system"), environment={"XDG_CONFIG_HOME": str(tmp_path)})
    [outcome] = report.outcomes
    assert (outcome.status, outcome.reason) == (Status.REFUSED, "the policy rejects it")
