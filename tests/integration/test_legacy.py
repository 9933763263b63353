"""Mirrors and states of earlier releases, kept in tests/data/legacy: this release goes on with them."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import commands
import layouts
import legacy
import pytest
from organizations import TAG

from quaymirror.errors import ConfigError
from quaymirror.store import history, schema, state
from quaymirror.store.database import Format, open_database

LEGACY = Path(__file__).parents[1] / "data" / "legacy"
RELEASES = ["0.1.0"]
FORMATS = {"state.db": schema.FORMAT, "pushed.db": schema.FORMAT, "history.db": history.FORMAT}
TO_MIRROR = ("--to", "mirror")
TO_REGISTRY = ("--to", legacy.TARGET, "--state", "state")


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the files of a release: `mirror`, `state` and `formats.json`."""
    return Path(shutil.copytree(LEGACY / request.param, tmp_path / request.param))


async def sync(release: Path, *target: str) -> dict[str, Any]:
    """Mirror the organization as the release saw it last, and return the report; nothing is fetched or pushed."""
    registry = legacy.organization()
    registry.organization("kolla").repository(legacy.REMOVED).delete_tag(TAG)
    async with legacy.quay(registry) as server, legacy.Destination() as destination:
        words = (*legacy.SELECTION, "--server", server.url, "--report", "report.json", "--full-check", *target)
        await commands.run(*words, cwd=release, check=0)
        assert server.blob_bytes() == 0
        assert not server.count("/manifests/", method="GET")
        assert not [request for request in destination.requests if request.method not in ("GET", "HEAD")]

    report: dict[str, Any] = json.loads((release / "report.json").read_text())
    return report


@pytest.mark.parametrize("target", [TO_MIRROR, TO_REGISTRY], ids=["mirror", "registry"])
async def test_a_sync_to_a_target_of_an_earlier_release_is_quiet_and_goes_on_with_its_history(
    release: Path, target: tuple[str, ...]
) -> None:
    index = (release / "mirror/index.json").read_bytes()
    report = await sync(release, *target)
    assert report["images"] == {"mirrored": 0, "unchanged": 2, "skipped": 1, "failed": 0, "refused": 0}
    assert report["changes"]["before"] == 2
    assert [report["changes"][key] for key in ("came", "gone", "moved")] == [[], [], []]
    assert (release / "mirror/index.json").read_bytes() == index


async def test_verify_prune_and_history_work_on_a_mirror_of_an_earlier_release(release: Path) -> None:
    await sync(release, *TO_MIRROR)
    layouts.check(release / "mirror")
    done = await commands.run("verify", "mirror", "--json", cwd=release, check=0)
    assert json.loads(done.stdout)["images"] == 3
    done = await commands.run("prune", "mirror", "--grace", "0", "--max-delete", "100", "--json", cwd=release, check=0)
    assert [image["name"] for image in json.loads(done.stdout)["untag"]] == [f"kolla/{legacy.REMOVED}:{TAG}"]
    done = await commands.run("history", "--to", "mirror", "--json", cwd=release, check=0)
    assert len(json.loads(done.stdout)) == 3


async def test_the_state_of_a_registry_target_of_an_earlier_release_is_readable(release: Path) -> None:
    (path,) = release.glob("state/*/pushed.db")
    opened, notice = state.State.open(path, read_only=True)
    with closing(opened):
        assert notice is None
        assert [record.name for record in opened.images()] == [
            f"kolla/{name}:{TAG}" for name in (legacy.REMOVED, "keystone", "nova")
        ]


async def test_an_earlier_release_refuses_a_database_of_a_newer_format_with_one_line(release: Path) -> None:
    """The stored format numbers stand for the earlier release; its code is not at hand here.

    A release refuses a `user_version` above its own. As steps are only ever added, today's code with the steps up to
    the stored version is the earlier release's: it opens the result where the format is the same, and refuses it with
    one line otherwise. A version above today's is refused in the same way.
    """
    versions = json.loads((release / "formats.json").read_text())
    await sync(release, *TO_MIRROR)
    await sync(release, *TO_REGISTRY)
    for path in sorted(release.rglob("*.db")):
        today = FORMATS[path.name]
        refuses(path, Format(today.application_id, today.steps[: versions[path.name]]), today.version)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(f"PRAGMA user_version = {today.version + 1}")

        refuses(path, today, today.version + 1)


def refuses(path: Path, form: Format, version: int) -> None:
    """Check that `form` opens a database of `version` if it knows that version, and refuses it otherwise."""
    content = path.read_bytes()
    if version <= form.version:
        opened, notice = open_database(path, form)
        opened.close()
        assert notice is None
        return

    with pytest.raises(ConfigError, match="newer") as caught:
        open_database(path, form)

    assert len(str(caught.value).splitlines()) == 1
    assert path.read_bytes() == content
