"""Faults of the lookups of referrers: images are mirrored, failures are reported, and none is taken for an absence."""

from __future__ import annotations

from pathlib import Path

import pytest
from signed import BUNDLE, TAG, digest_tag, signature, small
from spec_reader import Layout
from trouble import QUICK, Impatient

import quaymirror
from quaymirror import Options, Selection
from quaymirror.errors import ExitCode
from quaymirror.run.report import Report
from quaymirror.testing import (
    Action,
    CutBody,
    DribbleBody,
    Fault,
    QuayServer,
    Registry,
    ReplaceBody,
    Reset,
    make_artifact,
    too_many_requests,
)
from quaymirror.testing import Status as Answer
from quaymirror.ui.summary import summary_lines

NAMES = ("nova", "glance", "cinder")
BUNDLES = {name: make_artifact(BUNDLE, name.encode(), subject=small(name)) for name in NAMES}
HTML = {"Content-Type": "text/html"}


def index(body: bytes) -> ReplaceBody:
    return ReplaceBody(body, "application/vnd.oci.image.index.v1+json")


# The faults of a list, and the code with which a run ends. A host that asks for less ends it if it never stops.
FAULTS: dict[str, tuple[Action, int]] = {
    "500": (Answer(500), 3),
    "429": (too_many_requests(), 5),
    "a day": (too_many_requests("86400"), 5),
    "closed": (Reset(), 3),
    "cut": (CutBody(20), 3),
    "half a document": (index(b'{"manifests": ['), 3),
    "a number": (index(b'{"manifests": 5}'), 3),
    "a huge list": (index(b'{"manifests": [' + b" " * 9_000_000 + b"]}"), 3),
    "slow": (DribbleBody(1, 0.3), 3),
}
# Answers of registries without the API, and of proxies whose registry is away.
PAGES: dict[str, Action] = {
    "404 in HTML": Answer(404, HTML, b"<html><title>404 Not Found</title></html>"),
    "404": Answer(404),
    "405": Answer(405),
    "a login": Answer(200, HTML, b"<html>Log in</html>"),
    "a redirect": Answer(303, {"Location": "http://127.0.0.1:9/404.html"}),
}


def organization() -> Registry:
    registry = Registry()
    for name in NAMES:
        repository, image = registry.organization("kolla").repository(name), small(name)
        repository.push(TAG, image)
        repository.push(digest_tag(image, ".sig"), signature(image))
        repository.attach(BUNDLES[name])

    return registry


async def night(server: QuayServer, mirror: Path) -> Report:
    """Look for the referrers of every image, and prune those that are gone."""
    options = Options.of(
        server=server.url,
        retries=2,
        timeouts=QUICK,
        retry=Impatient().policy(),
        referrers_every=0.0,
        prune=True,
        grace=0.0,
        max_delete=100.0,
        keep_last=1,
    )
    return await quaymirror.sync(Selection("kolla", "*", TAG), mirror, options)


def failures(report: Report) -> list[str]:
    """Return the errors of referrers."""
    return [error for outcome in report.to_json()["outcomes"] for error in outcome.get("referrer_errors", ())]


def check_images(mirror: Path) -> None:
    assert set(Layout(mirror).names) >= {f"kolla/{name}:{TAG}" for name in NAMES}


def check(mirror: Path) -> None:
    """Check that the mirror has everything that the source has."""
    check_images(mirror)
    layout = Layout(mirror)
    assert layout.listed() == {(small(name).digest, bundle.digest) for name, bundle in BUNDLES.items()}
    assert layout.tagged() == {
        (f"kolla/{name}", digest_tag(small(name), ".sig"), signature(small(name)).digest) for name in NAMES
    }


@pytest.mark.parametrize("name", FAULTS)
async def test_a_list_of_referrers_that_fails_is_no_empty_one(name: str, tmp_path: Path) -> None:
    action, code = FAULTS[name]
    async with QuayServer(organization()) as server:
        server.faults.append(Fault("/referrers/", action))
        report = await night(server, tmp_path)
        assert report.exit_code == code
        assert failures(report)
        if code == ExitCode.PARTIAL:  # a source that asks for a pause of a day ends the run, with images in flight
            assert len(failures(report)) >= len(NAMES)
            check_images(tmp_path)

        server.faults.clear()
        assert (await night(server, tmp_path)).exit_code == 0
        check(tmp_path)
        server.faults.append(Fault("/referrers/", action))
        assert (await night(server, tmp_path)).exit_code == code
        check(tmp_path)


@pytest.mark.parametrize("page", PAGES)
async def test_a_page_of_a_proxy_does_not_say_that_there_are_no_referrers(page: str, tmp_path: Path) -> None:
    async with QuayServer(organization()) as server:
        for path, times in (("/referrers/", 1), ("^/v2/kolla", 4)):
            for mirror in (tmp_path / "new", tmp_path / "old"):
                server.faults[:] = [Fault(path, PAGES[page], times=times)]
                await night(server, mirror)
                assert server.faults[0].fired == times
                check(mirror)


async def test_a_registry_that_always_answers_pages_is_told_from_an_outage_by_one_advice(tmp_path: Path) -> None:
    async with QuayServer(organization()) as server:
        server.faults.append(Fault("/referrers/", PAGES["404 in HTML"]))
        report = await night(server, tmp_path)
        assert report.exit_code == 3
        [advice] = [line for line in summary_lines(report.progress) if "--referrers none" in line]
        assert advice.startswith("  lookups of referrers got pages in HTML")
        assert len(failures(report)) == len(NAMES)
        server.faults.clear()
        assert "--referrers none" not in "\n".join(summary_lines((await night(server, tmp_path)).progress))


PLACES = {
    "the list of digest tags": "^/api/v1/repository/kolla/nova/tag/",
    "the manifest of a digest tag": f"/manifests/{signature(small('nova')).digest}",
    "a manifest": f"/manifests/{BUNDLES['nova'].digest}",
    "a blob": BUNDLES["nova"].blobs[-1].digest,
}


@pytest.mark.parametrize("place", PLACES)
async def test_a_referrer_that_cannot_be_read_is_reported_and_kept(place: str, tmp_path: Path) -> None:
    query = "like" if place == "the list of digest tags" else None
    async with QuayServer(organization()) as server:
        server.faults.append(Fault(PLACES[place], Answer(500), query=query))
        report = await night(server, tmp_path)
        check_images(tmp_path)
        assert (report.exit_code, len(failures(report))) == (3, 1)
        server.faults.clear()
        assert (await night(server, tmp_path)).exit_code == 0
        check(tmp_path)
        server.faults.append(Fault(PLACES[place], Answer(500), query=query))
        await night(server, tmp_path)
        check(tmp_path)
