"""Targets that confirm what they don't do: found cheaply by default, and completely by a verification."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web
from commands import run
from organizations import TAG
from pushing import EVERYTHING, UPLOADS, check, organization
from receiver import Breakage, Receiver, Request
from trouble import Impatient

import quaymirror
from quaymirror import Options, Status
from quaymirror.errors import ExitCode, Side
from quaymirror.run.report import Report
from quaymirror.testing import QuayServer, make_image, make_layer

SHARED = [make_layer(f"shared {number}", 2048) for number in range(2)]
IMAGES = [make_image([*SHARED, make_layer(f"own {number}", 3000)]) for number in range(4)]


def settings(server: QuayServer, path: Path, **options: object) -> Options:
    return Options.of(server=server.url, state=path / "state", retry=Impatient().policy(), **options)


async def push(server: QuayServer, target: Receiver, path: Path, **options: object) -> Report:
    return await quaymirror.sync(EVERYTHING, target.address, settings(server, path, **options))


def confirm(status: int = 201, *, where: str = "x", digest: str = "") -> Callable[[Request], web.StreamResponse]:
    """Answer as if it was done."""
    headers = {"Location": where} if where else {}
    return lambda _: web.Response(
        status=status, headers=headers | ({"Docker-Content-Digest": digest} if digest else {})
    )


def confirmed_manifest(request: Request) -> web.StreamResponse:
    digest = request.path.rpartition("/")[2] if "sha256:" in request.path else IMAGES[0].digest
    return confirm(digest=digest)(request)


def confirmed_mount(request: Request) -> web.StreamResponse | None:
    return confirm()(request) if "mount" in request.query else None


async def test_a_blob_that_was_confirmed_but_not_stored_fails_the_image(tmp_path: Path) -> None:
    async with QuayServer(organization(*IMAGES)) as server, Receiver() as target:
        target.is_careless = True
        target.breakages.append(Breakage("PUT", UPLOADS, confirm(), nth=0))
        report = await push(server, target, tmp_path)
        assert report.counts[Status.FAILED] == len(IMAGES)
        error = report.outcomes[0].error
        assert error is not None
        assert error.side is Side.TARGET
        assert "confirmed" in error.message

        # It is not taken for mirrored later, either.
        target.breakages.clear()
        target.uploads.clear()
        again = await push(server, target, tmp_path)
        assert again.exit_code is ExitCode.OK
        check(target, *IMAGES)


async def test_a_manifest_that_was_confirmed_but_not_stored_fails_the_image(tmp_path: Path) -> None:
    async with QuayServer(organization(IMAGES[0])) as server, Receiver() as target:
        target.breakages.append(Breakage("PUT", "/manifests/", confirmed_manifest, nth=0))
        report = await push(server, target, tmp_path)
        assert report.exit_code is ExitCode.PARTIAL
        target.breakages.clear()
        assert (await push(server, target, tmp_path)).exit_code is ExitCode.OK
        check(target, IMAGES[0])


async def test_a_mount_that_was_confirmed_but_not_made_becomes_an_upload(tmp_path: Path) -> None:
    async with QuayServer(organization(*IMAGES)) as server, Receiver() as target:
        target.breakages.append(Breakage("POST", UPLOADS, confirmed_mount, nth=0))
        report = await push(server, target, tmp_path)
        assert report.exit_code is ExitCode.OK, [outcome.error for outcome in report.outcomes]
        check(target, *IMAGES)


async def test_a_registry_that_confirms_blobs_which_it_lacks_gets_them_once_it_refuses_the_manifest(
    tmp_path: Path,
) -> None:
    def confirmed(request: Request) -> web.StreamResponse | None:
        is_from_itself = request.path.startswith(f"/v2/{request.query.get('from')}/")
        return confirm()(request) if is_from_itself else None

    images = [make_image([make_layer("base", 2048), make_layer(f"own {number}", 1024)]) for number in range(10)]
    async with QuayServer(organization(*images)) as server, Receiver() as target:
        breakage = Breakage("POST", UPLOADS, confirmed, nth=0)
        target.breakages.append(breakage)
        report = await push(server, target, tmp_path, concurrency=1)
        assert report.exit_code is ExitCode.OK, [outcome.error for outcome in report.outcomes]
        assert [r for r in target.requests if "from" in r.query and f"/{r.query['from']}/" in r.path]
        check(target, *images)


@pytest.mark.parametrize("status", [200, 201])
async def test_an_unusual_answer_is_not_believed(status: int, tmp_path: Path) -> None:
    async with QuayServer(organization(*IMAGES)) as server, Receiver() as target:
        target.breakages += [Breakage("PUT", UPLOADS, confirm(status, where=""), nth=nth) for nth in (2, 4)]
        report = await push(server, target, tmp_path)
        assert report.exit_code is ExitCode.OK, [outcome.error for outcome in report.outcomes]
        check(target, *IMAGES)


async def lose(target: Receiver) -> str:
    """Lose a blob of one image, whose tag and manifest stay."""
    lost = next(digest for digest in target.blobs["kolla/image-1"] if digest not in target.blobs["kolla/image-0"])
    del target.blobs["kolla/image-1"][lost]
    return lost


@pytest.mark.parametrize("how", ["verify", "--verify-target"])
async def test_the_run_after_a_verification_uploads_what_the_target_has_lost(how: str, tmp_path: Path) -> None:
    async with QuayServer(organization(*IMAGES)) as server, Receiver() as target:
        await push(server, target, tmp_path)
        lost = await lose(target)
        if how == "verify":
            found = await quaymirror.verify(target.address, settings(server, tmp_path))
            assert [str(damage.digest) for damage in found.damages] == [lost]
        else:
            job = quaymirror.Job((EVERYTHING,), target.address, settings(server, tmp_path, verify_target=True))
            (result,) = await quaymirror.run_jobs([job])
            assert result.exit_code is ExitCode.OK
            check(target, *IMAGES)  # pushed again by the same command
            return

        target.requests.clear()
        report = await push(server, target, tmp_path)
        assert report.counts == {Status.UNCHANGED: 3, Status.MIRRORED: 1, Status.SKIPPED: 0}
        assert target.count("PUT", UPLOADS) == 1
        check(target, *IMAGES)
        assert (await push(server, target, tmp_path)).counts == {Status.UNCHANGED: 4, Status.SKIPPED: 0}


async def test_verify_repairs_a_registry(tmp_path: Path) -> None:
    async with QuayServer(organization(*IMAGES)) as server, Receiver() as target:
        await push(server, target, tmp_path)
        await lose(target)
        del target.manifests["kolla/image-2"][TAG]
        found = await quaymirror.verify(target.address, settings(server, tmp_path), repair=True)
        assert found.damages == ()
        check(target, *IMAGES)


async def test_the_first_image_costs_a_few_requests_to_read_it_back_and_the_others_none(tmp_path: Path) -> None:
    async with QuayServer(organization(*IMAGES)) as server, Receiver() as target:
        await push(server, target, tmp_path, concurrency=1)
        assert target.count("GET", "/manifests/") == 1
        # Only the first root is stored by its digest, too.
        assert sum(bool(re.search("manifests/sha256", r.path)) for r in target.requests if r.method == "PUT") == 1


def forbid(target: Receiver, path: str, status: int) -> None:
    for method in ("HEAD", "GET"):
        target.breakages.append(Breakage(method, path, lambda _: web.Response(status=status), nth=0))


@pytest.mark.parametrize("status", [401, pytest.param(403, marks=pytest.mark.soak)])
async def test_a_registry_that_may_not_be_looked_at_is_not_damaged(status: int, tmp_path: Path) -> None:
    async with QuayServer(organization(*IMAGES)) as server, Receiver() as target:
        await push(server, target, tmp_path)
        forbid(target, "/v2/kolla/image-1/", status)
        state = ("--state", str(tmp_path / "state"))
        some = await run("verify", target.address, *state, "--json", cwd=tmp_path, check=ExitCode.PARTIAL)
        document = json.loads(some.stdout)
        assert (document["damages"], document["refused"]) == ([], 1)
        assert "0 missing or damaged, 1 image not checked" in some.stderr

        forbid(target, "/v2/kolla/", status)
        all_of_them = await run("verify", target.address, *state, cwd=tmp_path, check=ExitCode.CREDENTIALS)
        assert "4 images not checked" in all_of_them.stderr
        assert all_of_them.stdout == ""

        # Damage is more severe.
        del target.manifests["kolla/image-0"][TAG]
        del target.breakages[2:]
        await run("verify", target.address, *state, cwd=tmp_path, check=ExitCode.DAMAGED)


async def test_images_that_neither_side_has_are_forgotten_on_request(tmp_path: Path) -> None:
    source = organization(*IMAGES)
    async with QuayServer(source) as server, Receiver() as target:
        await push(server, target, tmp_path)
        for number in (0, 1, 2):
            target.manifests[f"kolla/image-{number}"].clear()

        repository = source.organization("kolla").repository("image-1")
        repository.delete_tag(TAG)
        forbid(target, "/v2/kolla/image-2/", 403)
        words = ("prune", target.address, "--state", str(tmp_path / "state"), "--server", server.url)
        target.requests.clear()
        shown = await run(*words, cwd=tmp_path, check=ExitCode.OK)
        assert f"forget  kolla/image-1:{TAG}\n" in shown.stdout
        assert f"keep    kolla/image-0:{TAG}; the source has it" in shown.stdout
        assert f"keep    kolla/image-2:{TAG}; the target can't be checked" in shown.stdout
        assert "Would forget 1 image. Use --yes" in shown.stderr

        done = await run(*words, "--yes", "--json", cwd=tmp_path, check=ExitCode.OK)
        assert [(each["name"], each["reason"] is None) for each in json.loads(done.stdout)] == [
            (f"kolla/image-0:{TAG}", False),
            (f"kolla/image-1:{TAG}", True),
            (f"kolla/image-2:{TAG}", False),
        ]
        assert "Forgot 1 image." in done.stderr
        assert {request.method for request in target.requests} == {"GET", "HEAD"}
        target.breakages.clear()
        found = await quaymirror.verify(target.address, settings(server, tmp_path))
        assert {name for damage in found.damages for name in damage.images} == {
            f"kolla/image-0:{TAG}",
            f"kolla/image-2:{TAG}",
        }
