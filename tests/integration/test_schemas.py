"""Every JSON document that quaymirror writes fits its published schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from commands import run
from organizations import TAG, kolla, small_image

from quaymirror.testing import Fault, QuayServer, Status

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
SCHEMAS = sorted(path.name for path in REFERENCE.glob("*.schema.json"))


def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads((REFERENCE / f"{name}.schema.json").read_text()))


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_is_valid_and_names_its_version(name: str) -> None:
    schema = json.loads((REFERENCE / name).read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert "version" in schema["title"] or name == "config.schema.json"


async def test_the_documents_of_a_mirror_fit_their_schemas(tmp_path: Path) -> None:
    registry, images = kolla(5)
    names = sorted(images)

    async def quaymirror(*words: str, check: int = 0) -> Any:
        return json.loads((await run(*words, cwd=tmp_path, check=check)).stdout)

    async with QuayServer(registry) as server:
        source = ("kolla", "*", TAG, "--server", server.url)
        mirror = tmp_path / "mirror"
        first = await run("sync", *source, "--progress", "json", "--lock-file", "lock.json", cwd=tmp_path, check=0)
        validator("list").validate(await quaymirror("list", *source, "--json"))
        registry.organization("kolla").delete_repository(names[0])
        server.faults.append(Fault(rf"^/v2/kolla/{names[1]}/manifests/.*", Status(403)))
        validator("info").validate(await quaymirror("info", *source, "--json", check=3))
        registry.organization("kolla").repository("new").push(TAG, small_image("new"))
        await run("sync", *source, "--full-check", "--report", "report.json", cwd=tmp_path, check=0)

    events = validator("events")
    for line in first.stdout.splitlines():
        events.validate(json.loads(line))

    report = json.loads((tmp_path / "report.json").read_text())
    validator("report").validate(report)
    assert report["changes"]["came"]
    validator("lock").validate(json.loads((tmp_path / "lock.json").read_text()))
    validator("progress").validate(json.loads((mirror / ".quaymirror" / "live.json").read_text()))
    validator("history").validate(await quaymirror("history", "--to", "mirror", "--json"))
    validator("snapshots").validate(await quaymirror("snapshots", "mirror", "--json"))
    validator("remove").validate(await quaymirror("remove", "mirror", f"kolla/{names[1]}:*", "--json"))
    validator("hold").validate(await quaymirror("hold", "mirror", "kolla/*:*", "--json"))
    (tmp_path / "images.txt").write_text(f"kolla/{names[1]}:{TAG}\nkolla/absent:{TAG}\n")
    lacking = await quaymirror("check", "--images", "images.txt", "mirror", "--json", check=3)
    validator("check").validate(lacking)
    assert (lacking["images"], len(lacking["missing"])) == (2, 1)
    validator("prune").validate(await quaymirror("prune", "mirror", "--grace", "0", "--max-delete", "100", "--json"))
    validator("verify").validate(await quaymirror("verify", "mirror", "--json"))
    blob = next((mirror / "blobs" / "sha256").iterdir())
    blob.write_bytes(b"damaged")
    damaged = await quaymirror("verify", "mirror", "--json", check=8)
    validator("verify").validate(damaged)
    assert damaged["damages"]
