"""Signatures by GPG keys, made by gpg and by skopeo, judged by skopeo as well."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import gpg_keys
import pytest
from gpg_keys import KIND, make_key, requirement
from peers import docker_registry, push, require
from signing import reference_to
from source_signatures import policy_file

import quaymirror
from quaymirror import Options, Selection
from quaymirror.events import Status
from quaymirror.oci import Digest
from quaymirror.selection.source import parse_source
from quaymirror.testing import make_image, make_layer
from quaymirror.trust.evidence import Evidence
from quaymirror.trust.judge import Judge
from quaymirror.trust.policy import read_policy

pytestmark = pytest.mark.interop
CONTENT = b"{}"
DIGEST = Digest.of(CONTENT)
NAME = "quay.io/kolla/nova-api:1"


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """Return a GPG home with the keys of two signers, and their public keys in files."""
    require("gpgv")
    with TemporaryDirectory(prefix="qm-gpg-") as directory:
        path = Path(directory)
        for name in ("alice", "mallory"):
            make_key(path, name)

        yield path
        subprocess.run(["gpgconf", "--homedir", directory, "--kill", "all"], check=False)


def message(home: Path, signer: str = "alice", name: str = NAME, digest: Digest = DIGEST, kind: str = KIND) -> bytes:
    return gpg_keys.message(home, signer, name, digest, kind)


@pytest.mark.parametrize("keys", [["alice.asc"], ["alice.gpg"], ["mallory.asc", "alice.asc"]])
def test_a_signature_by_a_key_of_the_policy_is_accepted(home: Path, keys: list[str], tmp_path: Path) -> None:
    judge = Judge(read_policy(policy_file(tmp_path / "policy.json", requirement(home, *keys))))
    found = judge.judge(reference_to(DIGEST), Evidence(DIGEST, CONTENT, messages=(message(home),)))
    assert found.accepted, found
    assert "GPG key" in str(found)


def test_other_signatures_are_refused(home: Path, tmp_path: Path) -> None:
    judge = Judge(read_policy(policy_file(tmp_path / "policy.json", requirement(home, "alice.asc"))))
    good = message(home)
    cases = {
        "signed by another key": message(home, "mallory"),
        "another image": message(home, digest=Digest.of(b"other")),
        "nova-api:2": message(home, name="quay.io/kolla/nova-api:2"),
        "not a signature of an image": message(home, kind="cosign container image signature"),
        "not valid": bytes([*good[:-20], good[-20] ^ 1, *good[-19:]]),
        "no signature": b"",
    }
    for words, each in cases.items():
        messages = (each,) if each else ()
        found = judge.judge(reference_to(DIGEST), Evidence(DIGEST, CONTENT, messages=messages))
        assert not found.accepted, words
        assert words in str(found), found


SIGNED = {"signed": True, "forged": False, "unsigned": False}
NONE = dict.fromkeys(SIGNED, False)
RULES: dict[str, tuple[dict[str, str], dict[str, bool]]] = {
    "matchExact": ({}, SIGNED),
    "matchRepository": ({}, SIGNED),
    "exactReference": ({"dockerReference": "HOST/kolla/signed:1"}, SIGNED),
    "exactReference, another": ({"dockerReference": "HOST/kolla/signed:2"}, NONE),
    "exactRepository": ({"dockerRepository": "HOST/kolla/signed"}, SIGNED),
    "exactRepository, another": ({"dockerRepository": "HOST/kolla/other"}, NONE),
    "remapIdentity": ({"prefix": "HOST/kolla", "signedPrefix": "HOST/kolla"}, SIGNED),
    "remapIdentity, another": ({"prefix": "HOST/kolla", "signedPrefix": "HOST/other"}, NONE),
}


@pytest.mark.parametrize("rule", ["", *(pytest.param(rule, marks=pytest.mark.soak) for rule in RULES)])
async def test_verdicts_about_signatures_of_skopeo_are_those_of_skopeo(rule: str, home: Path, tmp_path: Path) -> None:
    skopeo, lookaside = require("skopeo"), tmp_path / "lookaside"
    registries = tmp_path / "containers" / "registries.d"
    registries.mkdir(parents=True)
    lines = f"  lookaside: file://{lookaside}\n  lookaside-staging: file://{lookaside}\n"
    (registries / "default.yaml").write_text(f"default-docker:\n{lines}")
    image = make_image([make_layer("signed by gpg", 2000)])
    environment = {**os.environ, "GNUPGHOME": str(home)}

    def run(*words: str) -> int:
        command = [skopeo, "--registries.d", str(registries), *words]
        return subprocess.run(command, env=environment, capture_output=True, check=False, timeout=60).returncode

    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry") as url:
        host = url.partition("//")[2]
        signers = {"signed": "alice", "forged": "mallory", "unsigned": ""}
        for name, signer in signers.items():
            push(url, f"kolla/{name}", "1", image)
            if signer:
                at = f"docker://{host}/kolla/{name}:1"
                words = ("--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false")
                assert run(*words, "--sign-by", f"{signer}@example.com", at, at) == 0

        wanted, (fields, expected) = requirement(home, "alice.asc"), RULES.get(rule, ({}, SIGNED))
        if rule:
            values = {key: value.replace("HOST", host) for key, value in fields.items()}
            wanted["signedIdentity"] = {"type": rule.partition(",")[0], **values}

        policy = policy_file(tmp_path / "policy.json", wanted)
        theirs = {
            name: run(
                *("--policy", str(policy), "copy", "--src-tls-verify=false"),
                *(f"docker://{host}/kolla/{name}:1", f"dir:{tmp_path / name}"),
            )
            == 0
            for name in signers
        }
        assert theirs == expected
        source = parse_source(f"registry://{host}?insecure=true")
        selection = Selection("", "kolla/*", "1", source=source)
        mirror, environment_of_run = tmp_path / "mirror", {"XDG_CONFIG_HOME": str(tmp_path)}
        options = Options.of(signature_policy=policy, environment=environment_of_run)
        report = await quaymirror.sync(selection, mirror, options)
        ours = {one.reference.repository.name.partition("/")[2]: one.status for one in report.outcomes}
        assert {name: status is Status.MIRRORED for name, status in ours.items()} == theirs

    # The mirror has its own copy of the signatures.
    for each in lookaside.rglob("signature-*"):
        each.unlink()

    result = await quaymirror.verify(str(mirror), options)
    assert (result.exit_code, result.accepted) == (0, sum(expected.values()))
