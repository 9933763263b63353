"""Referrers of images: found, mirrored with them, kept as long as they, and tried again."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from commands import run
from peers import docker_registry, push, skopeo
from receiver import Receiver
from serving import served
from signed import (
    BUNDLE,
    NOTARY,
    SIMPLE,
    SPDX,
    TAG,
    Signed,
    digest_tag,
    fallback_list,
    signature,
    signed_organization,
    small,
)
from spec_reader import Layout, Remote

import quaymirror
from quaymirror import Options, ReferrerMode, Selection, Status, oci
from quaymirror.events import ignore
from quaymirror.http.origin import parse_server
from quaymirror.referrers import find
from quaymirror.registry.pull import RegistryPuller
from quaymirror.registry.push import RegistryPusher
from quaymirror.run.report import Report
from quaymirror.run.wiring import connect_target
from quaymirror.targets.fallback_lists import FallbackLists
from quaymirror.tasks import run_all
from quaymirror.testing import (
    Action,
    ExtraHeaders,
    Fault,
    Hold,
    QuayServer,
    Registry,
    SourceManifest,
    make_artifact,
    make_index,
    messages,
)
from quaymirror.testing import Status as Answer
from quaymirror.ui.summary import summary_lines

EVERYTHING = Selection("kolla", "*", TAG)
ROOT = Path(__file__).parent.parent.parent
MIB = 1024 * 1024
HOUR, DAY = 3600.0, 86_400.0
IMPORT = quaymirror.ImportOptions(allow_unsigned=True)


@dataclass
class Clock:
    """The server's clock, advanced by the test."""

    now: float = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


async def night(server: QuayServer, mirror: Path, selection: Selection = EVERYTHING, **options: Any) -> Report:
    """Run once, after clearing the recorded requests."""
    server.reset_records()
    return await quaymirror.sync(selection, mirror, Options.of(server=server.url, **options))


def asked(server: QuayServer) -> list[str]:
    """Return the requested paths."""
    return [record.path for record in server.requests]


async def test_referrers_are_looked_for_while_blobs_are_fetched(tmp_path: Path) -> None:
    looked = asyncio.Event()

    class Note(Action):
        def on_request(self, request: messages.Request) -> messages.Request:
            looked.set()
            return request

    async with QuayServer(signed_organization(1).registry) as server:
        server.faults += [Fault("/blobs/", Hold(looked)), Fault("/referrers/", Note())]
        report = await night(server, tmp_path / "mirror")

    assert report.exit_code == 0
    assert looked.is_set()


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(900)])])
async def test_a_mirror_has_exactly_the_referrers_that_the_source_has(count: int, tmp_path: Path) -> None:
    signed = signed_organization(count)
    async with QuayServer(signed.registry) as server:
        report = await night(server, tmp_path / "all", referrers=ReferrerMode.ALL)
        assert report.exit_code == 0
        layout = Layout(tmp_path / "all")
        assert layout.listed() == signed.listed
        assert layout.tagged() == signed.tagged
        assert {name for name in layout.names if "sha256-" not in name} == set(signed.images)
        assert report.progress.referrers == len(signed.listed) + len(signed.tagged)

        await night(server, tmp_path / "signatures")
        layout = Layout(tmp_path / "signatures")
        assert (layout.listed(), layout.tagged()) == (signed.signatures, signed.tagged)

        report = await night(server, tmp_path / "none", Selection("kolla", "*", "*"), referrers=ReferrerMode.NONE)
        layout = Layout(tmp_path / "none")
        assert not layout.listed() | layout.tagged()
        seen = f"{len(signed.tagged)} digest tags were seen and left"
        assert seen in "\n".join(summary_lines(report.progress))


@pytest.mark.interop
async def test_skopeo_reads_digest_tags_and_lists_in_a_mirror(tmp_path: Path) -> None:
    signed = signed_organization(1)
    async with QuayServer(signed.registry) as server:
        await night(server, tmp_path, referrers=ReferrerMode.ALL)

    [(repository, tag, _)] = signed.tagged
    [root] = signed.images.values()
    tagged = await asyncio.to_thread(skopeo, "inspect", "--raw", f"oci:{tmp_path}:{repository}:{tag}")
    assert tagged.encode() == signature(root).raw
    listed = json.loads(await asyncio.to_thread(skopeo, "inspect", "--raw", f"oci:{tmp_path}:{digest_tag(root)}"))
    found = {entry["digest"] for entry in listed["manifests"]}
    assert found == {digest for subject, digest in signed.listed if subject == root.digest}


def cheap_organization(count: int, clock: Clock) -> Registry:
    """Return `count` repositories, each with the same small image, which is signed by tag and by a bundle."""
    registry = Registry(now=clock)
    kolla = registry.organization("kolla")
    image = small("same")
    bundle = make_artifact(BUNDLE, b"bundle", subject=image)
    for number in range(count):
        repository = kolla.repository(f"image-{number:04}")
        repository.push(TAG, image)
        repository.push(digest_tag(image, ".sig"), signature(image))
        repository.attach(bundle)

    clock.advance(HOUR)
    return registry


@pytest.mark.parametrize("count", [110, pytest.param(1000, marks=[pytest.mark.soak, pytest.mark.timeout(900)])])
async def test_an_unchanged_night_costs_the_listing_and_its_share_of_the_rotation(count: int, tmp_path: Path) -> None:
    clock = Clock()
    async with QuayServer(cheap_organization(count, clock)) as server:
        assert (await night(server, tmp_path)).progress.referrers == 2 * count
        counts = []
        for _ in range(7):
            clock.advance(DAY)
            assert (await night(server, tmp_path)).exit_code == 0
            counts.append(len(asked(server)))

    # The pages of the listing only; after a week every image is looked at again.
    assert counts[:6] == [ceil(count / 100)] * 6
    assert counts[6] > 2 * count


@pytest.mark.soak
def test_the_counts_of_requests_in_the_docs_are_those_of_their_command() -> None:
    counted = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "referrers.py"], capture_output=True, text=True, check=True, timeout=50
    )
    assert counted.stdout in (ROOT / "docs" / "how-to" / "signatures.md").read_text()


async def test_images_of_an_earlier_release_are_looked_at_over_a_week(tmp_path: Path) -> None:
    clock = Clock()
    async with QuayServer(cheap_organization(70, clock)) as server:
        await night(server, tmp_path, referrers=ReferrerMode.NONE, full_check_every=30 * DAY)
        found, requests = [], []
        for _ in range(8):
            report = await night(server, tmp_path, full_check_every=30 * DAY)
            assert report.exit_code == 0
            found.append(report.progress.referrers)
            requests.append(len(asked(server)))
            clock.advance(DAY)

    assert found[0] == 0
    assert requests[0] == 1
    assert sum(found) == 140
    assert max(found) < 60
    assert len(Layout(tmp_path).tagged()) == 70


async def test_a_signature_by_tag_is_seen_the_next_night_and_one_by_digest_within_the_rotation(tmp_path: Path) -> None:
    clock = Clock()
    registry = Registry(now=clock)
    repository = registry.organization("kolla").repository("nova")
    image = small("nova")
    repository.push(TAG, image)
    clock.advance(HOUR)
    async with QuayServer(registry) as server:
        await night(server, tmp_path)
        clock.advance(DAY)
        repository.push(digest_tag(image, ".sig"), signature(image, "first"))
        repository.attach(make_artifact(NOTARY, b"untagged", subject=image))
        clock.advance(HOUR)
        assert (await night(server, tmp_path)).progress.referrers == 1
        assert not [path for path in asked(server) if "/referrers/" in path]
        repository.push(digest_tag(image, ".sig"), signature(image, "second"))
        clock.advance(HOUR)
        assert (await night(server, tmp_path)).progress.referrers == 1
        assert Layout(tmp_path).names[f"kolla/nova:{digest_tag(image, '.sig')}"] == signature(image, "second").digest
        clock.advance(7 * DAY)
        assert (await night(server, tmp_path)).progress.referrers == 2
        assert len(Layout(tmp_path).listed()) == 1


async def test_a_referrer_that_fails_leaves_its_image_mirrored_and_is_tried_again(tmp_path: Path) -> None:
    signed = signed_organization(4)
    async with QuayServer(signed.registry) as server:
        bundle = next(digest for subject, digest in signed.signatures)
        server.faults.append(Fault(f"manifests/{bundle}", Answer(404)))
        report = await night(server, tmp_path, retries=0)
        assert report.exit_code == 3
        assert report.progress.referrer_failures == 1
        assert not report.progress.failed
        assert set(signed.images) <= set(Layout(tmp_path).names)
        errors = [
            outcome["referrer_errors"] for outcome in report.to_json()["outcomes"] if "referrer_errors" in outcome
        ]
        assert len(errors) == 1

        server.faults.clear()
        report = await night(server, tmp_path)
        assert report.exit_code == 0
        assert Layout(tmp_path).listed() == signed.signatures


@pytest.mark.parametrize(
    "shape",
    [
        Answer(404, {"Content-Type": "text/plain"}, b"404 page not found\n"),
        Answer(405),
        Answer(303, {"Location": "http://127.0.0.1:9/404.html"}),
        Answer(200, {"Content-Type": "text/html"}, b"<html>hello</html>"),
        Answer(404),
    ],
    ids=["404", "405", "303", "a page", "an empty 404"],
)
async def test_without_the_api_the_fallback_tag_lists_referrers(tmp_path: Path, shape: Answer) -> None:
    registry = Registry()
    repository = registry.organization("kolla").repository("nova")
    image = small("nova")
    bundle = make_artifact(BUNDLE, b"bundle", subject=image)
    other = make_artifact(BUNDLE, b"of another", subject=small("another"))
    repository.push(TAG, image)
    for each in (bundle, other):
        repository.attach(each)

    repository.push(digest_tag(image), fallback_list(bundle, other))
    async with QuayServer(registry) as server:
        server.faults.append(Fault("/referrers/", shape))
        report = await night(server, tmp_path, retries=0)
        assert (report.exit_code, report.progress.referrers) == (0, 1)
        assert Layout(tmp_path).listed() == {(image.digest, bundle.digest)}
        # Once more after an answer about a manifest: a proxy can answer like this, too.
        assert len([path for path in asked(server) if "/referrers/" in path]) == 2


async def test_the_tag_of_an_index_of_its_own_is_no_list_of_referrers(tmp_path: Path) -> None:
    registry = Registry()
    repository = registry.organization("kolla").repository("nova")
    index = make_index([(small("amd64"), "linux/amd64"), (small("arm64"), "linux/arm64")])
    repository.push(TAG, index)
    repository.push(digest_tag(index), index)
    async with QuayServer(registry) as server:
        server.faults.append(Fault("/referrers/", Answer(405)))
        report = await night(server, tmp_path, referrers=ReferrerMode.ALL)
        assert (report.exit_code, report.progress.referrers) == (0, 0)


async def test_pages_of_referrers_are_all_read(tmp_path: Path) -> None:
    signed = signed_organization(1)
    repository = signed.registry.organization("kolla").repository("image-000")
    image = signed.images[f"kolla/image-000:{TAG}"]
    for number in range(30):
        signed.attach(repository, make_artifact(BUNDLE, b"%d" % number, subject=image), is_signature=True)

    async with QuayServer(signed.registry, referrers_page=7) as server:
        assert (await night(server, tmp_path)).exit_code == 0
        assert Layout(tmp_path).listed() == signed.signatures


@pytest.mark.parametrize("target", ["/v2/kolla/nova/referrers/x?next=0", "http://elsewhere.example/v2/"])
async def test_a_list_that_leads_in_circles_or_elsewhere_fails_its_image_only(tmp_path: Path, target: str) -> None:
    signed = signed_organization(1)
    async with QuayServer(signed.registry) as server:
        server.faults.append(Fault("/referrers/", ExtraHeaders({"Link": f'<{target}>; rel="next"'})))
        report = await night(server, tmp_path, retries=0)
        assert report.exit_code == 3
        assert set(signed.images) <= set(Layout(tmp_path).names)


def crowded(count: int) -> tuple[Registry, SourceManifest, SourceManifest]:
    """Return a registry with an image of `count` SBOMs and a bundle, the image, and the bundle."""
    registry = Registry()
    repository = registry.organization("kolla").repository("nova")
    image = small("nova")
    bundle = make_artifact(BUNDLE, b"bundle", subject=image)
    repository.push(TAG, image)
    repository.attach(bundle)
    for number in range(count):
        repository.attach(make_artifact(SPDX, b"%d" % number, subject=image))

    return registry, image, bundle


@pytest.mark.parametrize("count", [1_500, pytest.param(9_999, marks=pytest.mark.soak)])
async def test_too_many_referrers_leave_the_image_mirrored_and_chosen_types_are_found_among_them(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find, "MAX_COUNT", 100)
    registry, image, bundle = crowded(count)
    async with QuayServer(registry) as server:
        report = await night(server, tmp_path / "signatures")
        assert report.exit_code == 0
        assert Layout(tmp_path / "signatures").listed() == {(image.digest, bundle.digest)}
        report = await night(server, tmp_path / "all", referrers=ReferrerMode.ALL)
        assert report.exit_code == 3
        assert f"{count + 1:,} referrers" in report.progress.incomplete[0]
        assert "use --artifact-type" in report.progress.incomplete[0]
        assert f"kolla/nova:{TAG}" in Layout(tmp_path / "all").names
        assert len(Layout(tmp_path / "all").listed()) == 100


async def test_a_large_referrer_is_mirrored_unless_its_manifest_is_over_4_mib(tmp_path: Path) -> None:
    registry = Registry()
    repository = registry.organization("kolla").repository("nova")
    image = small("nova")
    large = make_artifact(BUNDLE, b"x" * 4 * MIB, subject=image)
    larger = make_artifact(BUNDLE, b"x", subject=image, annotations={"x": "x" * 4 * MIB})
    repository.push(TAG, image)
    for each in (large, larger):
        repository.attach(each)

    async with QuayServer(registry) as server:
        report = await night(server, tmp_path, retries=0)
        assert (report.exit_code, report.progress.referrer_failures) == (3, 1)
        assert Layout(tmp_path).listed() == {(image.digest, large.digest)}
        assert (await quaymirror.verify(str(tmp_path), Options())).damages == ()


async def test_a_referrer_that_is_found_by_tag_and_by_the_api_is_one(tmp_path: Path) -> None:
    registry = Registry()
    repository = registry.organization("kolla").repository("nova")
    image = small("nova")
    bundle = make_artifact(BUNDLE, b"bundle", subject=image)
    repository.push(TAG, image)
    repository.attach(bundle)
    repository.push(digest_tag(image), fallback_list(bundle))
    async with QuayServer(registry) as server:
        report = await night(server, tmp_path)
        assert (report.exit_code, report.progress.referrers) == (0, 1)
        assert Layout(tmp_path).listed() == {(image.digest, bundle.digest)}
        assert len([path for path in asked(server) if path.endswith(bundle.digest)]) == 1


async def test_types_can_be_chosen(tmp_path: Path) -> None:
    signed = signed_organization(5)
    async with QuayServer(signed.registry) as server:
        await night(server, tmp_path, artifact_types=("application/SPDX*",))
        listed = Layout(tmp_path).listed()
        kinds = {Layout(tmp_path).document(digest)["artifactType"] for _, digest in listed}
        assert kinds == {SPDX}
        assert Layout(tmp_path).tagged() == signed.tagged


def held(remote: Remote, signed: Signed) -> tuple[set[tuple[str, str]], set[tuple[str, str, str]]]:
    """Return the referrers, of referrers too, and the digest tags that a registry has of the images of `signed`."""
    listed, tagged = set(), set()
    for name, root in signed.images.items():
        repository = name.partition(":")[0]
        subjects = [each.digest for each in root.walk()]
        while subjects:
            subject = subjects.pop()
            found = remote.referrers(repository, subject)
            listed |= {(subject, digest) for digest in found}
            subjects += found

        tags = {tag for tag in remote.tags(repository) if "." in tag and tag.startswith("sha256-")}
        tagged |= {(repository, tag, remote.digest(repository, tag)) for tag in tags}
        assert remote.digest(repository, TAG) == root.digest

    return listed, tagged


@pytest.mark.interop
@pytest.mark.parametrize("count", [10, pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(900)])])
async def test_a_registry_without_the_api_gets_referrers_digest_tags_and_lists(count: int, tmp_path: Path) -> None:
    clock = Clock()
    signed = signed_organization(count, Registry(now=clock))
    clock.advance(HOUR)
    with docker_registry(tmp_path) as url:
        target = f"registry://{url.removeprefix('http://')}?insecure=true"
        async with QuayServer(signed.registry) as server:
            options = Options.of(server=server.url, referrers=ReferrerMode.ALL, state=tmp_path / "state")
            assert (await quaymirror.sync(EVERYTHING, target, options)).exit_code == 0
            assert held(Remote(url), signed) == (signed.listed, signed.tagged)
            server.reset_records()
            assert (await quaymirror.sync(EVERYTHING, target, options)).progress.referrers == 0

        # A mirror is pushed with them, too, into a registry that has lost its images.
        async with QuayServer(signed.registry) as server:
            await night(server, tmp_path / "mirror", referrers=ReferrerMode.ALL)

    (tmp_path / "other").mkdir()
    with docker_registry(tmp_path / "other") as url:
        options = Options.of(referrers=ReferrerMode.ALL, state=tmp_path / "state")
        source = Selection.parse_uri(f"ocidir://{tmp_path / 'mirror'}")
        target = f"registry://{url.removeprefix('http://')}?insecure=true"
        report = await quaymirror.sync(source, target, options)
        assert report.exit_code == 0
        assert set(signed.images) == {outcome.reference.name for outcome in report.outcomes}
        assert held(Remote(url), signed) == (signed.listed, signed.tagged)


@pytest.mark.parametrize("count", [6, pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(900)])])
async def test_a_registry_with_the_api_gets_referrers_and_digest_tags_but_no_lists(count: int, tmp_path: Path) -> None:
    signed = signed_organization(count)
    async with QuayServer(signed.registry) as server, Receiver() as target:
        target.lists_referrers = True
        options = Options.of(server=server.url, referrers=ReferrerMode.ALL, state=tmp_path)
        assert (await quaymirror.sync(EVERYTHING, target.address, options)).exit_code == 0
        found = await asyncio.to_thread(held, Remote(f"http://{target.host}"), signed)
        assert found == (signed.listed, signed.tagged)
        assert not target.count("PUT", "manifests/sha256-[0-9a-f]{64}$")


@pytest.mark.parametrize("names_subjects", [True, False])
async def test_the_api_is_asked_for_a_pushed_referrer_unless_its_subject_was_named(
    names_subjects: bool, tmp_path: Path
) -> None:
    signed = signed_organization(4)
    async with QuayServer(signed.registry) as server, Receiver() as target:
        target.lists_referrers, target.names_subjects = True, names_subjects
        options = Options.of(server=server.url, state=tmp_path)
        assert (await quaymirror.sync(EVERYTHING, target.address, options)).exit_code == 0
        assert target.count("GET", "/referrers/") == (0 if names_subjects else len(signed.signatures))
        assert not target.count("PUT", "manifests/sha256-[0-9a-f]{64}$")


async def test_verify_misses_a_referrer_at_a_registry_and_the_next_run_pushes_it_again(tmp_path: Path) -> None:
    signed = signed_organization(4)
    async with QuayServer(signed.registry) as server, Receiver() as target:
        target.lists_referrers = True
        options = Options.of(server=server.url, state=tmp_path, referrers=ReferrerMode.ALL)
        assert (await quaymirror.sync(EVERYTHING, target.address, options)).exit_code == 0
        assert (await quaymirror.verify(target.address, options)).damages == ()
        _, tag, of_tag = next(iter(signed.tagged))
        [lost] = [digest for subject, digest in signed.listed if subject not in layout_roots(signed)]
        for manifests in target.manifests.values():
            for name in (lost, *([tag] if manifests.get(of_tag) else [])):
                manifests.pop(name, None)

        damages = (await quaymirror.verify(target.address, options)).damages
        assert {str(damage.digest) for damage in damages} == {lost, of_tag}
        assert (await quaymirror.sync(EVERYTHING, target.address, options)).exit_code == 0
        found = await asyncio.to_thread(held, Remote(f"http://{target.host}"), signed)
        assert found == (signed.listed, signed.tagged)


async def test_check_target_pushes_an_image_again_whose_referrers_are_missing_there(tmp_path: Path) -> None:
    signed = signed_organization(2)
    async with QuayServer(signed.registry) as server, Receiver() as target:
        target.lists_referrers = True
        options = Options.of(server=server.url, state=tmp_path, referrers=ReferrerMode.ALL)
        await quaymirror.sync(EVERYTHING, target.address, options)
        root = signed.images[f"kolla/image-000:{TAG}"].digest
        lost = {digest for subject, digest in signed.listed if subject == root}
        lost |= {tag for repository, tag, _ in signed.tagged if repository == "kolla/image-000"}
        for name in lost:
            del target.manifests["kolla/image-000"][name]

        notices: list[str] = []
        checking = options.replace(check_target=True)
        dry = await quaymirror.sync(EVERYTHING, target.address, checking.replace(dry_run=True))
        report = await quaymirror.sync(EVERYTHING, target.address, checking, observer=lambda e: notices.append(str(e)))
        for each in (dry, report):
            assert (each.counts[Status.UNCHANGED], each.counts[Status.MIRRORED]) == (1, 1)

        assert f"kolla/image-000:{TAG}: {len(lost)} referrers missing at the target" in "\n".join(notices)
        found = await asyncio.to_thread(held, Remote(f"http://{target.host}"), signed)
        assert found == (signed.listed, signed.tagged)
        assert (await quaymirror.sync(EVERYTHING, target.address, checking)).counts[Status.UNCHANGED] == 2
        # Those that are not wanted any more are not looked for.
        for name in lost:
            target.manifests["kolla/image-000"].pop(name, None)

        none = checking.replace(referrers=ReferrerMode.NONE)
        assert (await quaymirror.sync(EVERYTHING, target.address, none)).counts[Status.UNCHANGED] == 2


@pytest.mark.interop
async def test_a_registry_without_the_api_lacks_lists_or_referrers_and_gets_them_again(tmp_path: Path) -> None:
    signed = signed_organization(1)
    [root] = signed.images.values()
    with docker_registry(tmp_path) as url:
        target = f"registry://{url.removeprefix('http://')}?insecure=true"
        async with QuayServer(signed.registry) as server:
            options = Options.of(server=server.url, referrers=ReferrerMode.ALL, state=tmp_path / "state")
            await quaymirror.sync(EVERYTHING, target, options)
            assert (await quaymirror.verify(target, options)).damages == ()
            bundle = next(digest for subject, digest in signed.signatures)
            push(url, "kolla/image-000", digest_tag(root), fallback_list())
            damages = (await quaymirror.verify(target, options)).damages
            assert [damage.kind for damage in damages] == ["unlisted"] * len(damages)
            assert bundle in {str(damage.digest) for damage in damages}
            await quaymirror.sync(EVERYTHING, target, options)
            assert (await quaymirror.verify(target, options)).damages == ()

            urlopen(Request(f"{url}/v2/kolla/image-000/manifests/{bundle}", method="DELETE")).close()
            report = await quaymirror.sync(EVERYTHING, target, options.replace(check_target=True))
            assert report.counts[Status.MIRRORED] == 1
            assert (await quaymirror.verify(target, options)).damages == ()
            assert held(Remote(url), signed) == (signed.listed, signed.tagged)


async def test_prune_names_the_referrers_that_the_source_has_lost_and_a_registry_keeps(tmp_path: Path) -> None:
    registry = Registry()
    repository = registry.organization("kolla").repository("nova")
    image = small("nova")
    bundles = [make_artifact(BUNDLE, b"%d" % number, subject=image) for number in range(2)]
    repository.push(TAG, image)
    repository.push(digest_tag(image, ".sig"), signature(image))
    for each in bundles:
        repository.attach(each)

    async with QuayServer(registry) as server, Receiver() as target:
        target.lists_referrers = True
        options = Options.of(server=server.url, state=tmp_path, referrers_every=0.0)
        await quaymirror.sync(EVERYTHING, target.address, options)
        assert await quaymirror.forget_lost(target.address, options, dry_run=False) == ()
        del repository.untagged[bundles[0].digest]
        repository.delete_tag(digest_tag(image, ".sig"))
        reports = [await quaymirror.sync(EVERYTHING, target.address, options) for _ in range(2)]
        said = [[note for note in report.progress.notes if "stay at the registry" in note] for report in reports]
        text = "2 referrers that the source has lost: they stay at the registry; prune with its address names them"
        assert said == [[text], []]
        words = ("prune", target.address, "--server", server.url, "--state", str(tmp_path), "--yes")
        shown = await run(*words, cwd=tmp_path, check=0)

    assert [line.partition(", missing at the source since ")[0] for line in shown.stdout.splitlines()] == [
        f"keep    kolla/nova:{digest_tag(image, '.sig')}; {SIMPLE}",
        f"keep    kolla/nova@{bundles[0].digest}; {BUNDLE}",
    ]
    assert shown.stdout.count(": stays at the registry") == 2
    assert "Nothing to forget." in shown.stderr


def layout_roots(signed: Signed) -> set[str]:
    """Return the digests of the manifests of all images."""
    return {each.digest for root in signed.images.values() for each in root.walk()}


@asynccontextmanager
async def lists_of(url: str) -> AsyncIterator[FallbackLists]:
    """Return the lists of a registry as one writer keeps them."""
    async with connect_target(parse_server(url), Options(), ignore) as client:
        yield FallbackLists(RegistryPusher(client), RegistryPuller(client))


async def add(lists: FallbackLists, url: str, each: SourceManifest) -> None:
    """Add a referrer to the list of its subject."""
    repository = oci.Repository(parse_server(url).netloc, "kolla/nova")
    subject = oci.Digest.parse(each.document["subject"]["digest"])
    node = oci.Descriptor(each.media_type, oci.Digest.parse(each.digest), len(each.raw))
    await lists.ensure(repository, subject, node, each.raw)


async def test_an_entry_that_another_writer_of_a_list_has_replaced_is_added_again() -> None:
    image = small("subject")
    first, second = (make_artifact(BUNDLE, b"%d" % number, subject=image) for number in range(2))
    async with Receiver() as registry:
        registry.is_careless = True
        url, name = f"http://{registry.host}", digest_tag(image)
        registry.manifests["kolla/nova"] |= {each.digest: (each.media_type, each.raw) for each in (first, second)}
        async with lists_of(url) as lists:
            await add(lists, url, first)
            # A writer that had read the list before `first` was in it.
            other = fallback_list(second)
            stored = (other.media_type, other.raw)
            registry.manifests["kolla/nova"] |= {name: stored, other.digest: stored}
            await lists.settle()

        _, content = registry.manifests["kolla/nova"][name]
        assert {entry["digest"] for entry in json.loads(content)["manifests"]} == {first.digest, second.digest}


@pytest.mark.interop
@pytest.mark.parametrize("writers", [1, pytest.param(8, marks=[pytest.mark.soak, pytest.mark.timeout(300)])])
async def test_of_eight_referrers_that_are_listed_at_a_time_none_is_lost(writers: int, tmp_path: Path) -> None:
    image = small("subject")
    referrers = [make_artifact(BUNDLE, b"%d" % number, subject=image) for number in range(8)]
    with docker_registry(tmp_path) as url:
        for number, each in enumerate(referrers):
            push(url, "kolla/nova", f"referrer-{number}", each)

        async def write(mine: Sequence[SourceManifest]) -> None:
            async with lists_of(url) as lists:
                await run_all(partial(add, lists, url, each) for each in mine)
                await lists.settle()

        await run_all(partial(write, referrers[number::writers]) for number in range(writers))
        assert Remote(url).referrers("kolla/nova", image.digest) == {each.digest for each in referrers}


@pytest.mark.interop
@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_of_eight_runs_that_push_a_referrer_of_one_image_none_loses_it(tmp_path: Path) -> None:
    image = small("subject")
    bundles = [make_artifact(BUNDLE, b"%d" % number, subject=image) for number in range(8)]
    with docker_registry(tmp_path) as url:

        async def push_one(number: int) -> None:
            registry = Registry()
            repository = registry.organization("kolla").repository("nova")
            repository.push(TAG, image)
            repository.attach(bundles[number])
            async with QuayServer(registry) as server:
                words = ("sync", "kolla", "nova", TAG, "--server", server.url, "--referrers-every", "0", "--to")
                target = f"registry://{url.removeprefix('http://')}?insecure=true"
                await run(*words, target, "--state", f"state-{number}", cwd=tmp_path, check=0)

        await run_all(partial(push_one, number) for number in range(8))
        assert Remote(url).referrers("kolla/nova", image.digest) == {each.digest for each in bundles}


async def test_digest_tags_that_were_mirrored_as_images_become_referrers_at_the_first_run(tmp_path: Path) -> None:
    clock = Clock()
    registry = Registry(now=clock)
    repository = registry.organization("kolla").repository("nova")
    image, bundle = small("nova"), make_artifact(BUNDLE, b"bundle", subject=small("nova"))
    for tag, manifest in (
        (TAG, image),
        (digest_tag(image, ".sig"), signature(image)),
        (digest_tag(image), fallback_list(bundle)),
        (digest_tag(small("gone"), ".sig"), signature(small("gone"))),
    ):
        repository.push(tag, manifest)

    clock.advance(HOUR)
    async with QuayServer(registry) as server:
        everything = Selection("kolla", "*", f"{TAG},sha256-*")
        report = await night(server, tmp_path, everything, referrers=ReferrerMode.NONE)
        assert len(report.outcomes) == 4

        clock.advance(DAY)
        report = await night(server, tmp_path, Selection("kolla", "*", "*"), prune=True, grace=0.0)
        assert report.exit_code == 0
        assert [outcome.status for outcome in report.outcomes] == [Status.UNCHANGED]
        assert report.progress.digest_tags == 3
        layout = Layout(tmp_path)
        assert layout.tagged() >= {("kolla/nova", digest_tag(image, ".sig"), signature(image).digest)}
        assert layout.listed() == {(image.digest, bundle.digest)}
        # One whose image is not here stays as it was: a selection does not cover it, so it is not missing.
        assert f"kolla/nova:{digest_tag(small('gone'), '.sig')}" in layout.names
        assert not await missing(tmp_path)


async def missing(mirror: Path) -> tuple[object, ...]:
    """Return the images that are missing at the source."""
    plan = await quaymirror.prune_layout(mirror, Options.of(grace=0.0).prune, dry_run=True)
    return (*plan.untag, *plan.waiting)


async def test_referrers_go_with_their_image_or_when_the_source_has_lost_them(tmp_path: Path) -> None:
    clock = Clock()
    registry = Registry(now=clock)
    kolla = registry.organization("kolla")
    images = {name: small(name) for name in ("nova", "glance")}
    bundles = {name: make_artifact(BUNDLE, name.encode(), subject=image) for name, image in images.items()}
    for name, image in images.items():
        kolla.repository(name).push(TAG, image)
        kolla.repository(name).push(digest_tag(image, ".sig"), signature(image))
        kolla.repository(name).attach(bundles[name])

    clock.advance(HOUR)
    options: dict[str, Any] = {"prune": True, "grace": 0.0, "max_delete": 100.0, "keep_last": 1, "referrers_every": 0.0}
    async with QuayServer(registry) as server:
        await night(server, tmp_path, **options)
        assert len(Layout(tmp_path).names) == 6
        kolla.repository("nova").untagged.clear()
        kolla.repository("glance").delete_tag(TAG)
        kolla.repository("glance").delete_tag(digest_tag(images["glance"], ".sig"))
        for _ in range(3):
            clock.advance(DAY)
            assert (await night(server, tmp_path, **options)).exit_code == 0

        layout = Layout(tmp_path)
        assert set(layout.names) == {f"kolla/nova:{TAG}", f"kolla/nova:{digest_tag(images['nova'], '.sig')}"}
        blobs = {path.name for path in (tmp_path / "blobs" / "sha256").iterdir()}
        assert not blobs & {bundle.digest.partition(":")[2] for bundle in bundles.values()}
        assert (await quaymirror.verify(str(tmp_path), Options())).damages == ()


async def test_an_earlier_snapshot_has_the_referrers_of_its_images(tmp_path: Path) -> None:
    signed = signed_organization(9)
    mirror = tmp_path / "mirror"
    async with QuayServer(signed.registry) as server:
        await night(server, mirror, referrers=ReferrerMode.ALL)
        for name in signed.images:
            repository = signed.registry.organization("kolla").repository(name.partition("/")[2].partition(":")[0])
            repository.push(TAG, small(f"newer {name}"))

        await night(server, mirror, referrers=ReferrerMode.ALL)

    await quaymirror.prune_layout(mirror, Options.of(grace=0.0).prune, dry_run=False)
    assert not Layout(mirror).listed()
    report = await quaymirror.push(mirror, tmp_path / "copy", Options.of(referrers=ReferrerMode.ALL), at="previous")
    assert report.exit_code == 0
    checkout = await quaymirror.check_out(mirror, "previous")
    for place in (tmp_path / "copy", checkout):
        layout = Layout(place)
        assert (layout.listed(), layout.tagged()) == (signed.listed, signed.tagged)


async def test_list_and_info_show_what_belongs_to_an_image(tmp_path: Path) -> None:
    signed = signed_organization(5)
    async with QuayServer(signed.registry) as server:
        await night(server, tmp_path / "mirror", referrers=ReferrerMode.ALL)

    rows = json.loads((await run("list", "./mirror", "--json", cwd=tmp_path, check=0)).stdout)
    shown = [(row, each) for row in rows for each in row["referrers"]]
    assert {(each["subject"], each["digest"]) for _, each in shown if not each["tag"]} == signed.listed
    tagged = {(row["repository"], each["tag"], each["digest"]) for row, each in shown if each["tag"]}
    assert tagged == signed.tagged
    assert "referrers" in (await run("list", "./mirror", cwd=tmp_path, check=0)).stdout
    info = (await run("info", "./mirror", f"kolla/image-000:{TAG}", cwd=tmp_path, check=0)).stdout
    for _, each in shown[: len(rows[0]["referrers"])]:
        assert f"{each['digest']}  {each['artifact_type']}" in info


async def test_a_server_lists_the_referrers_of_a_mirror(tmp_path: Path) -> None:
    signed = signed_organization(9)
    async with QuayServer(signed.registry) as server:
        await night(server, tmp_path, referrers=ReferrerMode.ALL)

    async with served(tmp_path) as client:
        found = await asyncio.to_thread(held, Remote(client.url), signed)
        assert found == (signed.listed, signed.tagged)


async def test_referrers_are_carried_with_their_images(tmp_path: Path) -> None:
    signed = signed_organization(9)
    mirror, media, far = tmp_path / "mirror", tmp_path / "media", tmp_path / "far"
    media.mkdir()
    async with QuayServer(signed.registry) as server:
        await night(server, mirror, referrers=ReferrerMode.ALL)

    result = await quaymirror.export_mirror(mirror, media, quaymirror.ExportOptions())
    imported = await quaymirror.import_parts([path for path, _ in result.files], far, IMPORT)
    assert sorted(imported.imported) == sorted(signed.images)
    layout = Layout(far)
    assert (layout.listed(), layout.tagged()) == (signed.listed, signed.tagged)

    chosen = f"kolla/image-003:{TAG}"
    options = quaymirror.ExportOptions(select=(chosen,))
    result = await quaymirror.export_mirror(mirror, media, options)
    await quaymirror.import_parts([path for path, _ in result.files], tmp_path / "part", IMPORT)
    layout = Layout(tmp_path / "part")
    root = signed.images[chosen].digest
    assert {name for name in layout.names if "sha256-" not in name} == {chosen}
    assert layout.listed() == {pair for pair in signed.listed if pair[0] == root}
    assert layout.tagged() == {each for each in signed.tagged if each[0] == "kolla/image-003"}
