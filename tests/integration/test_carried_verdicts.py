"""Verdicts of signature policies that travel with an export: they count as much as its signature, and no more."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from commands import run
from serving import served
from signing import signed_by
from source_signatures import policy_file, sign_with_tag

import quaymirror
from quaymirror import Options, Selection
from quaymirror.carry.export import ExportOptions, ExportResult, export_mirror
from quaymirror.carry.manifest import Header, Manifest
from quaymirror.carry.parts import PartWriter
from quaymirror.carry.receive import ImportOptions, ImportResult, import_parts
from quaymirror.errors import ConfigError
from quaymirror.oci import Digest
from quaymirror.run.report import Report
from quaymirror.store.database import Format, open_database
from quaymirror.store.fsops import Fsync
from quaymirror.store.schema import FORMAT
from quaymirror.store.state import State
from quaymirror.testing import QuayServer, Registry, make_image, make_layer
from quaymirror.zstd import compress

TAG = "2025.1"
NAME = f"kolla/nova:{TAG}"
MIB = 1024 * 1024


@dataclass(frozen=True)
class Trip:
    """A server with signed images, a policy that accepts them, and a mirror at the near side that has judged them."""

    server: QuayServer
    path: Path
    policy: Path
    key: Path
    allowed: Path

    @property
    def near(self) -> Path:
        return self.path / "near"

    @property
    def far(self) -> Path:
        return self.path / "far"

    def push(self, name: str, *sizes: int) -> None:
        image = make_image([make_layer(f"{name} {size}", size) for size in sizes])
        repository = self.server.registry.organization("kolla").repository(name)
        sign_with_tag(repository, image, "p256", f"{self.server.url.partition('//')[2]}/kolla/{name}")
        repository.push(TAG, image)

    async def sync(self, mirror: Path, policy: Path | None = None) -> Report:
        self.server.reset_records()
        options = Options.of(
            server=self.server.url,
            signature_policy=policy or self.policy,
            full_check_every=0.0,
            fsync=Fsync.NEVER,
        )
        return await quaymirror.sync(Selection("kolla", "*", TAG), mirror, options)

    async def export(self, to: str = "media", mirror: Path | None = None, **options: Any) -> ExportResult:
        options = {"key": self.key, "fsync": Fsync.NEVER, **options}
        return await export_mirror(mirror or self.near, self.path / to, ExportOptions(**options))

    async def receive(self, media: str = "media", to: str = "far", *, signed: bool = True) -> ImportResult:
        return await self.receive_parts(self.path / media, to=to, signed=signed)

    async def receive_parts(self, *parts: Path, to: str = "far", signed: bool = True) -> ImportResult:
        options = ImportOptions(self.allowed if signed else None, allow_unsigned=not signed, fsync=Fsync.NEVER)
        return await import_parts(parts, self.path / to, options)

    def another_policy(self) -> Path:
        """Return a policy with the same meaning, and another fingerprint."""
        return policy_file(self.path / "other.json", signed_by("p256"), signed_by("p256"))


@pytest_asyncio.fixture
async def trip(tmp_path: Path) -> AsyncIterator[Trip]:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "near", "-f", key], check=True)
    allowed = tmp_path / "signers"
    allowed.write_text(f'near@example.org namespaces="quaymirror-export" {key.with_suffix(".pub").read_text()}')
    registry = Registry()
    registry.organization("kolla")
    async with QuayServer(registry) as server:
        found = Trip(server, tmp_path, policy_file(tmp_path / "policy.json", signed_by("p256")), key, allowed)
        found.push("nova", 2000)
        found.push("cinder", 2001)
        report = await found.sync(found.near)
        assert report.exit_code == 0
        yield found


def verdicts(mirror: Path) -> list[dict[str, Any]]:
    """Return the verdicts in the state of a mirror, in the order of their names and dates."""
    with closing(sqlite3.connect(mirror / ".quaymirror/state.db")) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("SELECT * FROM verdict ORDER BY name, judged")]


async def test_after_a_trip_an_image_is_not_judged_again_and_the_origin_of_its_verdict_is_shown(trip: Trip) -> None:
    sent = await trip.export()
    result = await trip.receive()
    assert (result.exit_code, result.verdicts, [*result.describe()]) == (0, 2, [])
    origin = f"export {sent.manifest.id[:8]} signed by near@example.org"
    told = verdicts(trip.far)
    for here, there in zip(told, verdicts(trip.near), strict=True):
        assert here == {**there, "origin": origin, "judged": float(int(there["judged"]))}

    report = await trip.sync(trip.far)
    assert {one.status.value for one in report.outcomes} == {"unchanged"}
    assert verdicts(trip.far) == told
    assert not [record for record in trip.server.requests if "/manifests/" in record.path and record.method == "GET"]

    done = await run("info", str(trip.far), NAME, "--json", cwd=trip.path, check=0)
    [shown] = json.loads(done.stdout)[0]["mirrored"]["verdicts"]
    assert (shown["origin"], shown["policy"]) == (origin, told[1]["policy"])
    done = await run("info", str(trip.far), NAME, cwd=trip.path, check=0)
    assert f"; according to {origin}" in done.stdout
    done = await run("info", str(trip.near), NAME, cwd=trip.path, check=0)
    assert "key p256.pub" in done.stdout
    assert "according to" not in done.stdout
    async with served(trip.far) as client:
        assert origin in (await client.get(f"/images/{NAME}")).body.decode()

    async with served(trip.near) as client:
        assert "this mirror" in (await client.get(f"/images/{NAME}")).body.decode()


async def test_another_policy_is_judged_by_the_files_of_the_mirror(trip: Trip) -> None:
    await trip.export()
    await trip.receive()
    report = await trip.sync(trip.far, trip.another_policy())
    assert {one.status.value for one in report.outcomes} == {"unchanged"}
    assert not [record for record in trip.server.requests if "/blobs/" in record.path]
    assert sorted(bool(each["origin"]) for each in verdicts(trip.far)) == [False, False, True, True]
    words = ("verify", str(trip.far), "--signature-policy", str(trip.policy), "--json")
    done = await run(*words, cwd=trip.path, check=0)
    assert json.loads(done.stdout)["signatures"]["accepted"] == 2


@pytest.mark.parametrize("key", [True, False])
async def test_verdicts_count_only_if_an_allowed_signer_has_signed_the_export(trip: Trip, key: bool) -> None:
    sent = await trip.export(key=trip.key if key else None)
    words = ("import", "media", "far", "--allow-unsigned", "--fsync", "never")
    done = await run(*words, cwd=trip.path, check=0)
    line = f"verdicts about 2 images are ignored: no allowed signer has signed export {sent.manifest.id[:8]}"
    assert done.stderr.splitlines().count(f"quaymirror: {line}") == 1
    assert verdicts(trip.far) == []
    done = await run(*words, "--json", cwd=trip.path, check=0)
    assert json.loads(done.stdout)["verdicts"] == {"recorded": 0, "ignored": 2}
    await trip.sync(trip.far)
    assert [each["origin"] for each in verdicts(trip.far)] == ["", ""]


async def test_an_export_without_verdicts_says_nothing_of_them(trip: Trip) -> None:
    with closing(sqlite3.connect(trip.near / ".quaymirror/state.db")) as connection, connection:
        connection.execute("DELETE FROM verdict")

    sent = await trip.export(key=None)
    assert b"verdicts" not in sent.manifest.to_bytes()
    result = await trip.receive(signed=False)
    assert (result.verdicts, result.untrusted, [*result.describe()]) == (0, {}, [])


async def test_the_signer_of_an_import_is_known_when_later_parts_complete_it(trip: Trip) -> None:
    trip.push("zun", 20 * MIB)
    await trip.sync(trip.near)
    sent = await trip.export(media_size=16 * MIB)
    first, *rest = [path for path, _ in sent.files]
    assert rest
    result = await trip.receive_parts(first)
    assert (result.exit_code, result.verdicts) == (3, 2)

    # Any other export has the rest of it.
    other = await trip.export("other", key=None)
    assert len(verdicts(trip.far)) == 2
    result = await trip.receive("other", signed=False)
    assert (result.exit_code, result.untrusted, result.verdicts) == (0, {other.manifest.id: 3}, 3)
    assert f"export {sent.manifest.id[:8]} signed" in verdicts(trip.far)[-1]["origin"]


async def test_an_unsigned_import_of_the_same_parts_plants_no_verdicts(trip: Trip) -> None:
    sent = await trip.export()
    [honest] = sent.manifest.verdicts[NAME]
    planted = replace(honest, policy="0" * 64)
    forged = replace(sent.manifest, verdicts={NAME: (planted,)})
    write_part(trip.path / "forged/quaymirror-x.tar", forged.to_bytes())
    await trip.receive()
    await trip.receive("forged", signed=False)
    assert "0" * 64 not in {each["policy"] for each in verdicts(trip.far)}
    await trip.receive()
    assert "0" * 64 not in {each["policy"] for each in verdicts(trip.far)}


def write_part(path: Path, text: bytes, **header: Any) -> None:
    """Write a part with this manifest, and no blobs."""
    path.parent.mkdir(exist_ok=True)
    document = json.loads(text)
    with PartWriter(path, syncs=False) as writer:
        writer.add("quaymirror-export.json", Header(document["id"], 1, document["parts"], Digest.of(text)).to_bytes())
        writer.add("manifest.json.zst", compress(text))


async def test_a_judgement_made_here_is_not_replaced_by_one_from_elsewhere(trip: Trip) -> None:
    await trip.export()
    await trip.receive(signed=False)
    await trip.sync(trip.far)
    with closing(sqlite3.connect(trip.far / ".quaymirror/state.db")) as connection, connection:
        connection.execute("UPDATE verdict SET accepted = 0, reason = 'no signature' WHERE name = ?", (NAME,))

    before = verdicts(trip.far)
    assert (await trip.receive()).verdicts == 0
    assert verdicts(trip.far) == before


async def test_a_held_image_keeps_the_verdicts_about_what_it_is(trip: Trip) -> None:
    await trip.export()
    await trip.receive()
    await run("hold", str(trip.far), NAME, cwd=trip.path, check=0)
    before = verdicts(trip.far)[1]
    trip.push("nova", 3000)
    await trip.sync(trip.near)
    await trip.export("second")
    result = await trip.receive("second")
    assert result.held == [NAME]
    assert verdicts(trip.far)[1] == before


async def test_a_verdict_that_travels_on_names_every_export_that_it_came_with(trip: Trip) -> None:
    first = await trip.export()
    await trip.receive()
    second = await trip.export("second", mirror=trip.far)
    await trip.receive("second", "farther")
    names = [f"export {each.manifest.id[:8]} signed by near@example.org" for each in (second, first)]
    assert {each["origin"] for each in verdicts(trip.path / "farther")} == {", ".join(names)}


GOOD = {"policy": "a" * 64, "acceptedBy": "key x", "judged": "2026-03-03T06:00:00+00:00", "origin": ""}
WRONG: Mapping[str, Any] = {
    "no list": "many",
    "an object": {"policy": GOOD},
    "a number in the list": [1],
    "null": None,
    "too many": [{**GOOD, "policy": f"{number:064x}"} for number in range(17)],
    "twice": [GOOD, GOOD],
    "no policy": [{key: GOOD[key] for key in ("acceptedBy", "judged", "origin")}],
    "a fingerprint of another kind": [{**GOOD, "policy": "A" * 64}],
    "a fingerprint that is a list": [{**GOOD, "policy": ["a"] * 64}],
    "a reason that is a number": [{**GOOD, "acceptedBy": 5}],
    "a huge reason": [{**GOOD, "acceptedBy": "x" * 1001}],
    "a huge origin": [{**GOOD, "origin": "x" * 1001}],
    "no date": [{**GOOD, "judged": "yesterday"}],
    "a date that is a number": [{**GOOD, "judged": 1e300}],
    "a date without zone": [{**GOOD, "judged": "0001-01-01T00:00:00"}],
    "a date before the first one": [{**GOOD, "judged": "0001-01-01T00:00:00+23:59"}],
    "a date that is too late": [{**GOOD, "judged": "9999-12-31T23:59:59-23:59"}],
}


async def test_verdicts_that_make_no_sense_are_refused_with_one_line(trip: Trip) -> None:
    sent = await trip.export(key=None)
    document = json.loads(sent.manifest.to_bytes())
    for what, wrong in {**WRONG, "right": [GOOD]}.items():
        document["images"][0]["verdicts"] = wrong
        text = json.dumps(document).encode()
        if what == "right":
            assert Manifest.parse(text).verdicts[document["images"][0]["name"]][0].reason == "key x"
            continue

        with pytest.raises(ConfigError, match="the manifest of the export makes no sense") as caught:
            Manifest.parse(text)

        assert len(caught.value.message) < 200, what
        assert "\n" not in caught.value.message

    document["images"][0]["verdicts"] = WRONG["a huge reason"]
    write_part(trip.path / "wrong.tar", json.dumps(document).encode())
    done = await run("import", "wrong.tar", "far", "--allow-unsigned", cwd=trip.path, check=2)
    [line] = done.stderr.splitlines()
    assert "the manifest of the export makes no sense" in line
    assert len(line) < 300
    assert not trip.far.exists()


async def test_hostile_texts_of_verdicts_are_shown_without_their_control_characters(trip: Trip) -> None:
    with closing(sqlite3.connect(trip.near / ".quaymirror/state.db")) as connection, connection:
        connection.execute("UPDATE verdict SET reason = ?", ("\x1b[2J<script>" + "x" * 5000,))

    await trip.export()
    await trip.receive()
    done = await run("info", str(trip.far), NAME, cwd=trip.path, check=0)
    assert "\\x1b[2J<script>" in done.stdout
    assert max(map(len, done.stdout.splitlines())) < 1200
    async with served(trip.far) as client:
        html = (await client.get(f"/images/{NAME}")).body.decode()

    assert "<script>x" not in html
    assert "\x1b" not in html


def test_a_state_of_an_earlier_format_keeps_its_verdicts(tmp_path: Path) -> None:
    path, root = tmp_path / "state.db", Digest.of(b"x")
    connection, _ = open_database(path, Format(FORMAT.application_id, FORMAT.steps[:-1]))
    with closing(connection), connection:
        connection.execute("INSERT INTO verdict VALUES (?, ?, 'p', 1, 'key x', 5.0)", (NAME, str(root)))

    state, notice = State.open(path)
    with closing(state):
        assert notice is None
        assert state.accepted_by(NAME, root, "p") == "key x"
        [found] = state.acceptances(NAME, root)
        assert (found.reason, found.judged, found.origin) == ("key x", 5.0, "")
