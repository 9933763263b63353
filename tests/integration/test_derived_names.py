"""Names of images in archives for `docker load`."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from forked_workers import fork_workers
from organizations import TAG, small_image

import quaymirror
from quaymirror import Options, Selection
from quaymirror.errors import ConfigError
from quaymirror.selection.rename import Rename
from quaymirror.testing import QuayServer, Registry


@pytest.fixture(autouse=True)
def _workers_are_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    fork_workers(monkeypatch)


async def test_an_archive_can_carry_registry_and_organization_in_its_name(tmp_path: Path) -> None:
    registry = Registry()
    registry.organization("openstack.kolla").repository("nova").push(TAG, small_image("nova"))
    to = f"tar://{tmp_path}/{{repo}}.tar?name=registry.example:5000/{{org}}/{{repo}}:{{tag}}"
    async with QuayServer(registry) as server:
        selection = Selection("openstack.kolla", "*", TAG)
        report = await quaymirror.sync(selection, to, Options.of(server=server.url))

    assert report.exit_code == 0
    with tarfile.open(tmp_path / "nova.tar") as archive:
        manifest = archive.extractfile("manifest.json")
        assert manifest is not None
        assert json.load(manifest)[0]["RepoTags"] == [f"registry.example:5000/openstack.kolla/nova:{TAG}"]


async def test_the_parts_of_an_address_are_those_of_the_names_in_the_target(tmp_path: Path) -> None:
    registry = Registry()
    registry.organization("openstack.kolla").repository("nova").push("1-debian", small_image("nova"))
    rule = Rename.parse("openstack.kolla/*:*-debian=kolla/*:v*")
    async with QuayServer(registry) as server:
        for to in ("tar://{}/tars/{org}/{repo}-{tag}.tar", "dir://{}/directories/{org}/{repo}-{tag}"):
            report = await quaymirror.sync(
                Selection("openstack.kolla", "*", "1-debian"),
                to.replace("{}", str(tmp_path)),
                Options.of(server=server.url, renames=(rule,)),
            )
            assert report.exit_code == 0

    assert (tmp_path / "tars" / "kolla" / "nova-v1.tar").is_file()
    assert (tmp_path / "directories" / "kolla" / "nova-v1" / "catalog.json").is_file()
    assert not [path for path in tmp_path.rglob("*") if "openstack" in path.name]


@pytest.mark.parametrize("name", ["{org}/{repo}", "/{repo}:{tag}", "UPPER/{repo}:{tag}", "all:{tag}", "{repo}:x"])
async def test_an_impossible_or_ambiguous_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"name for images|is the same for"):
        await quaymirror.sync(
            Selection("kolla", "*", ("a", "b")), f"tar://{tmp_path}/{{repo}}-{{tag}}.tar?name={name}", Options.of()
        )
