"""Lists of images, references, narrowing and renaming, from the command line to the mirror."""

from __future__ import annotations

import json
import re
import time
from functools import partial
from pathlib import Path

import layouts
import pytest
from commands import run
from organizations import TAG, kolla, small_image
from receiver import Receiver

import quaymirror
from quaymirror.errors import ConfigError, ExitCode
from quaymirror.run.sync import run_sync
from quaymirror.selection.image_list import parse_list
from quaymirror.selection.rename import Rename
from quaymirror.selection.selection import Selection
from quaymirror.testing import (
    Fault,
    QuayServer,
    Registry,
    SourceManifest,
    Status,
    kolla_like,
    make_image,
    make_index,
    make_layer,
)

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "select.md"
BOOKWORM = "2025.1-debian-bookworm"


def page() -> list[str]:
    """Return the one-liners of the how-to about Kolla's organization, by their order."""
    line = r"^    (quaymirror sync openstack\.kolla .*?)(?:  +#.*)?$"
    found: list[str] = re.findall(line, HOW_TO.read_text(), re.MULTILINE)
    return found[:4]


def names_in(path: Path) -> set[str]:
    """Return the names of images: digest tags belong to them."""
    return {name for name in layouts.names(path) if ":sha256-" not in name}


RELEASES = ("2024.1", "2024.2", "2025.1", "2025.2")


def openstack(count: int = 6) -> Registry:
    """Return a copy of the organization: five to seven tags per repository, some for arm64, and digest tags.

    Every sixth repository has images for debugging.
    """
    registry = Registry()
    organization = registry.organization("openstack.kolla")
    for number, (name, image) in enumerate(kolla_like(count, layer_size=64).items()):
        repository = organization.repository(f"{name}-debug" if number % 6 == 5 else name)
        for date, release in enumerate(RELEASES[number % 2 :]):
            repository.now = partial(float, 1_700_000_000 + 100 * date)
            repository.push(f"{release}-debian-bookworm", image)

        repository.push(f"{BOOKWORM}-aarch64", small_image(f"{name}-arm"))
        if number % 3 == 0:
            repository.push("2024.2-debian-bookworm-aarch64", small_image(f"{name}-arm-old"))

        repository.push(f"sha256-{image.digest.removeprefix('sha256:')}.sig", small_image(name))
        repository.now = time.time

    return registry


async def test_a_kolla_list_with_missing_images_is_mirrored_and_names_them(tmp_path: Path) -> None:
    registry, images = kolla(132, layer_size=64)
    names = sorted(images)
    lines = [f"quay.example/kolla/{name}:{TAG}" for name in names]
    # Slips of the pen: each is near an image that exists.
    lines += [f"quay.example/kolla/{name}x:{TAG}" for name in names[:6]]
    lines += [f"quay.example/kolla/{name}:{TAG}x" for name in names[6:12]]
    assert len(lines) == 144
    (tmp_path / "images.txt").write_text("# for the lab\n" + "\n".join(lines))
    async with QuayServer(registry) as server:
        text = (tmp_path / "images.txt").read_text().replace("quay.example", server.host)
        (tmp_path / "images.txt").write_text(text)
        options = ["--images", "images.txt", "--server", server.url, "--report", "report.json"]
        options += ["--report-html", "report.html"]
        done = await run("sync", *options, cwd=tmp_path, check=3)
        await run("sync", *options, "--allow-unmatched", cwd=tmp_path, check=0)
        (tmp_path / "quaymirror.toml").write_text(
            f'[jobs.lab]\nimages = "images.txt"\nserver = "{server.url}"\nto = "mirror"\nallow-unmatched = true\n'
        )
        await run("run", cwd=tmp_path, env={"QUAYMIRROR_SERVER": ""}, check=0)

    assert len(names_in(tmp_path / "mirror")) == 132
    assert "unmatched (12):" in done.stderr
    for name in names[:6]:
        assert re.search(rf"^  kolla/{name}x:{TAG}; nearest: .*\bkolla/{name}\b", done.stderr, re.MULTILINE)

    for name in names[6:12]:
        assert f"  kolla/{name}:{TAG}x; nearest: kolla/{name}:{TAG}\n" in done.stderr

    assert "Unmatched (12)" in (tmp_path / "report.html").read_text()
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["unmatched"]) == 12
    assert report["images"] == {"mirrored": 0, "unchanged": 132, "skipped": 0, "failed": 0, "refused": 0}


@pytest.mark.parametrize("count", [12, pytest.param(187, marks=pytest.mark.soak)])
async def test_the_lines_of_the_how_to_select_what_they_say(count: int, tmp_path: Path) -> None:
    x86, arm, newest, without = page()
    registry = openstack(count)
    repositories = registry.organization("openstack.kolla").repositories
    async with QuayServer(registry) as server:
        found: dict[str, set[str]] = {}
        for line in (x86, arm, newest, without):
            words = [word.strip("'") for word in line.removeprefix("quaymirror ").split()]
            target = tmp_path / str(len(found))
            await run(*words, "--to", str(target), "--server", server.url, cwd=tmp_path, check=0)
            found[line] = names_in(target)

    assert found[x86] == {f"openstack.kolla/{name}:{BOOKWORM}" for name in repositories}
    assert found[arm] == {f"openstack.kolla/{name}:{BOOKWORM}-aarch64" for name in repositories}
    releases = ("2024.2", "2025.1", "2025.2")
    assert found[newest] == {f"openstack.kolla/{n}:{r}-debian-bookworm" for n in repositories for r in releases}
    assert found[without] == {f"openstack.kolla/{n}:{BOOKWORM}" for n in repositories if not n.endswith("-debug")}


async def test_images_by_digest_keep_it_in_a_layout_and_in_a_registry(tmp_path: Path) -> None:
    registry, images = kolla(3)
    (first, one), (second, two), *_ = images.items()
    async with QuayServer(registry) as server, Receiver() as target:
        # The tag means another image now.
        registry.organization("kolla").repository(second).push("old", two)
        registry.organization("kolla").repository(second).push(TAG, small_image("new"))
        lines = f"kolla/{first}@{one.digest}\nkolla/{second}:{TAG}@{two.digest}\n"
        (tmp_path / "list").write_text(lines)
        for to in ("mirror", target.address):
            options = ["--images", "list", "--server", server.url, "--state", str(tmp_path / "state"), "--to", to]
            await run("sync", *options, cwd=tmp_path, check=0)
            again = await run("sync", *options, cwd=tmp_path, check=0)
            assert "unchanged        2" in again.stderr

        assert names_in(tmp_path / "mirror") == {f"kolla/{first}@{one.digest}", f"kolla/{second}:{TAG}"}
        assert set(target.manifests[f"kolla/{first}"]) == {str(one.digest)} | set(target.manifests[f"kolla/{first}"])
        assert TAG not in target.manifests[f"kolla/{first}"]
        assert target.manifests[f"kolla/{second}"][TAG][1] == two.raw


async def test_images_of_several_registries_are_one_run(tmp_path: Path) -> None:
    one, two = kolla(2)[0], Registry()
    two.organization("library").repository("web").push("1", small_image("web"))
    two.organization("library").repository("other").push("1", small_image("other"))
    async with QuayServer(one) as server, QuayServer(two) as other:
        name = next(iter(one.organization("kolla").repositories))
        (tmp_path / "list").write_text(
            f"kolla/{name}:{TAG}\n{other.host}/library/web:1\n{other.host}/library/other:9\n"
        )
        options = ["--images", "list", "--server", server.url, "--to", "mirror"]
        done = await run("sync", *options, cwd=tmp_path, check=3)
        requests = [request.path for request in other.requests]

    assert names_in(tmp_path / "mirror") == {f"kolla/{name}:{TAG}", "library/web:1"}
    assert f"{other.host}/library/other:9" in done.stderr
    assert not any("_catalog" in path for path in requests), "exact tags need no listing"


async def test_two_images_with_one_name_are_refused_before_any_request(tmp_path: Path) -> None:
    registry = Registry()
    registry.organization("kolla").repository("web").push("1", small_image("web"))
    async with QuayServer(registry) as server, QuayServer(registry) as other:
        (tmp_path / "list").write_text(f"kolla/web:1\n{other.host}/kolla/web:1\n")
        options = ["--images", "list", "--server", server.url, "--to", "mirror"]
        done = await run("sync", *options, cwd=tmp_path, check=2)
        assert not server.requests
        assert not other.requests
        rule = re.search(r"--rename '(\S+)' would separate them", done.stderr)
        assert rule is not None, done.stderr
        await run("sync", *options, "--rename", rule[1], cwd=tmp_path, check=0)

    assert names_in(tmp_path / "mirror") == {"kolla/web:1", "127.0.0.1/kolla/web:1"}


async def test_renaming_works_for_layouts_and_registries_and_stays_unchanged(tmp_path: Path) -> None:
    registry, images = kolla(3)
    rule = Rename.parse(f"kolla/*:{TAG}=mine/*:v1")
    async with QuayServer(registry) as server, Receiver() as target:
        for to in (str(tmp_path / "mirror"), target.address):
            options = quaymirror.Options.of(server=server.url, renames=(rule,), state=tmp_path / "state")
            report = await run_sync(Selection("kolla", "*", TAG), to, options)
            assert report.exit_code is ExitCode.OK
            again = await run_sync(Selection("kolla", "*", TAG), to, options)
            assert again.counts[quaymirror.Status.UNCHANGED] == 3

        assert names_in(tmp_path / "mirror") == {f"mine/{name}:v1" for name in images}
        layouts.check(tmp_path / "mirror")
        assert {name for name in target.manifests if "v1" in target.manifests[name]} == {f"mine/{n}" for n in images}


async def test_pruning_knows_renamed_images_and_tags_beyond_the_newest(tmp_path: Path) -> None:
    registry = openstack()
    rule = Rename.parse("openstack.kolla/*=kolla/*")
    async with QuayServer(registry) as server:
        for newest, left in ((4, 21), (2, 12)):
            selection = Selection("openstack.kolla", "*", "*-bookworm", newest=newest)
            given = quaymirror.Options.of(server=server.url, renames=(rule,), prune=True, grace=0.0, max_delete=100.0)
            await run_sync(selection, tmp_path / "mirror", given)
            names = names_in(tmp_path / "mirror")
            assert len(names) == left
            assert all(name.startswith("kolla/") for name in names)


def labelled(seed: str, **labels: str) -> SourceManifest:
    return make_image([make_layer(seed, 256)], labels=labels)


@pytest.mark.parametrize(("count", "every"), [(60, 6), pytest.param(1000, 100, marks=pytest.mark.soak)])
async def test_the_second_night_of_images_of_which_ten_match_a_label_asks_for_no_manifest(
    count: int, every: int, tmp_path: Path
) -> None:
    registry = Registry()
    organization = registry.organization("kolla")
    for number in range(count):
        image = labelled(str(number), team="net" if number % every == 0 else "compute")
        organization.repository(f"image-{number}").push("1", image)

    async with QuayServer(registry) as server:
        words = ["sync", "kolla", "*", "1", "--image-label", "team=n*", "--server", server.url]
        await run(*words, cwd=tmp_path, check=0)
        server.requests.clear()
        await run(*words, cwd=tmp_path, check=0)
        later = [request.path for request in server.requests]

    assert names_in(tmp_path / "mirror") == {f"kolla/image-{number}:1" for number in range(0, count, every)}
    assert len(names_in(tmp_path / "mirror")) == 10
    assert not [path for path in later if path.startswith("/v2/")]


async def test_an_index_without_the_platform_is_read_once_for_its_labels(tmp_path: Path) -> None:
    registry = Registry()
    index = make_index([(labelled("arm", team="net"), "linux/arm64")])
    for name, image in (("arm", index), ("web", labelled("web", team="net"))):
        registry.organization("kolla").repository(name).push("1", image)

    async with QuayServer(registry) as server:
        words = ["sync", "kolla", "*", "1", "--image-label", "team=net", "--server", server.url]
        await run(*words, cwd=tmp_path, check=0)
        server.requests.clear()
        await run(*words, cwd=tmp_path, check=0)
        assert not [request.path for request in server.requests if request.path.startswith("/v2/")]

    assert names_in(tmp_path / "mirror") == {"kolla/web:1"}


async def test_an_image_whose_labels_cannot_be_read_is_a_failed_check_and_stays(tmp_path: Path) -> None:
    registry = Registry()
    for name in ("web", "api"):
        registry.organization("kolla").repository(name).push("1", labelled(name, team="net"))

    words = ["sync", "kolla", "*", "1", "--image-label", "team=net", "--retries", "0", "--report", "report.json"]
    async with QuayServer(registry) as server:
        words += ["--server", server.url]
        await run(*words, cwd=tmp_path, check=0)
        for status in (404, 500):
            image = labelled(f"new {status}", team="net")
            registry.organization("kolla").repository("web").push("1", image)
            config = json.loads(image.raw)["config"]["digest"]
            server.faults[:] = [Fault(f"/blobs/{config}$", Status(status))]
            done = await run(*words, cwd=tmp_path, check=3)
            assert "kolla/web" in done.stderr
            failed = [each for each in json.loads((tmp_path / "report.json").read_text())["outcomes"] if each["error"]]
            assert len(failed) == 1

        assert names_in(tmp_path / "mirror") == {"kolla/web:1", "kolla/api:1"}
        server.faults.clear()
        await run(*words, cwd=tmp_path, check=0)


TABLES = {
    "docker ps": (
        "CONTAINER ID   IMAGE                          COMMAND       CREATED       NAMES\n"
        'a1b2c3d4e5f6   quay.io/kolla/nova-api:1       "dumb-init"   2 weeks ago   nova_api\n'
        'b1b2c3d4e5f6   4bb46517cac3                   "dumb-init"   2 weeks ago   other\n'
    ),
    "docker images": (
        "REPOSITORY               TAG       IMAGE ID       CREATED        SIZE\n"
        "quay.io/kolla/nova-api   1         a1b2c3d4e5f6   2 weeks ago    1.2GB\n"
        "<none>                   <none>    a1b2c3d4e5f6   2 weeks ago    1.2GB\n"
    ),
    "kolla-ansible": 'nova_api_image_full: "quay.io/kolla/nova-api:1"\n',
    "hauler": "# images\nquay.io/kolla/nova-api:1\n\nkolla/nova-api:1  # again\n",
    "manifest": "- name: quay.io/kolla/nova-api:1\n",
    "kubespray": "quay.io/kolla/nova-api:1\r\nquay.io/kolla/nova-api:1",
    "mapping": "quay.io/kolla/nova-api:1=localhost:5000/mine/nova-api:2\n",
}


@pytest.mark.parametrize("tool", TABLES)
def test_lists_of_other_tools_are_read(tool: str) -> None:
    found = parse_list(TABLES[tool].encode(), "x", "quay.io")
    assert [str(image) for image in found.images] == ["kolla/nova-api:1"]
    assert bool(found.unnamed) is tool.startswith("docker")
    assert [str(rule) for rule in found.renames] == ["kolla/nova-api:1=mine/nova-api:2"] * (tool == "mapping")


@pytest.mark.parametrize("content", ["", "# nothing\n", "nova api\n", "kolla/nova-*:1\n", "kolla/Nova:1\n", "\xff"])
def test_a_list_with_a_bad_line_says_which(content: str) -> None:
    with pytest.raises(ConfigError, match=r"^list(:1:)? "):
        parse_list(content.encode("latin-1"), "list", "quay.io")


SECRETS = ["me:hunter2@quay.io/kolla/web:1", "me:hunter2@kolla/w*b:1", "me:hunt/er2@quay.io:443/kolla/web:1"]


@pytest.mark.parametrize(
    "line", [*SECRETS, "https://me:hunter2@quay.io/kolla/web", "kolla/web:1=me:hunter2@r.io/x/y:1"]
)
def test_a_password_in_a_line_is_not_repeated(line: str) -> None:
    with pytest.raises(ConfigError, match=r"^list:2: ") as caught:
        parse_list(f"kolla/web:1\n{line}\n".encode(), "list", "quay.io")

    assert "hunt" not in caught.value.message


def test_an_image_with_two_names_in_a_list_of_mappings_is_refused() -> None:
    line = "kolla/web:1=mine/web:1\n"
    assert len(parse_list(f"{line}{line}".encode(), "list", "quay.io").renames) == 1
    with pytest.raises(ConfigError, match=r"^list:3: kolla/web:1 is mine/web:1 in an earlier line: "):
        parse_list(f"{line}\nkolla/web:1=mine/other:1\n".encode(), "list", "quay.io")


def test_the_web_page_of_a_tag_is_no_mapping() -> None:
    listed = parse_list(b"https://quay.io/repository/kolla/web?tab=tags&tag=1\n", "list", "quay.io")
    assert [str(image) for image in listed.images] == ["kolla/web:1"]
    assert not listed.renames


async def test_check_says_which_images_of_a_list_are_missing(tmp_path: Path) -> None:
    registry, images = kolla(3)
    (first, one), *_ = images.items()
    (tmp_path / "have").write_text(f"kolla/{first}:{TAG}\nkolla/{first}@{one.digest}\n")
    (tmp_path / "want").write_text(f"kolla/{first}:{TAG}\nkolla/none:1\nkolla/{first}@sha256:{'0' * 64}\n")
    async with QuayServer(registry) as server, Receiver() as target:
        for to in ("mirror", target.address):
            options = ["--server", server.url, "--rename", "kolla/*=mine/*"]
            sync = ["sync", "--images", "have", "--to", to, "--state", str(tmp_path / "state")]
            await run(*sync, *options, cwd=tmp_path, check=0)
            server.requests.clear()
            found = await run("check", "--images", "have", to, *options, cwd=tmp_path, check=0)
            lacking = await run("check", "--images", "want", to, *options, cwd=tmp_path, check=3)
            assert not server.requests
            assert found.stdout == ""
            assert lacking.stdout.splitlines() == [
                f"missing  {server.host}/kolla/none:1",
                f"missing  {server.host}/kolla/{first}@sha256:{'0' * 64}",
            ]
            assert "3 images: 2 missing" in lacking.stderr


async def test_a_single_arch_image_without_the_wanted_platform_is_reported(tmp_path: Path) -> None:
    registry = Registry()
    registry.organization("kolla").repository("web").push("1", small_image("web"))
    async with QuayServer(registry) as server:
        words = ["sync", "kolla/web:1", "--platform", "linux/arm64", "--server", server.url, "--report", "report.json"]
        done = await run(*words, cwd=tmp_path, check=0)

    assert "kolla/web:1 is for linux/amd64 only, not for linux/arm64: mirrored as it is" in done.stderr
    (outcome,) = json.loads((tmp_path / "report.json").read_text())["outcomes"]
    assert outcome["reason"] == "for linux/amd64 only, not for linux/arm64"
