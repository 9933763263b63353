"""Into another registry, byte for byte: Debian's docker-registry as the target, skopeo as the reader."""

from __future__ import annotations

import base64
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import peers
import pytest
import trustme
from commands import run
from organizations import TAG, kolla, small_image, unique_bytes
from receiver import Receiver
from serving import write_layout

import quaymirror
from quaymirror import Options, Selection, Status
from quaymirror.errors import ConnectFailed, CredentialsRefused, ExitCode, Side
from quaymirror.events import Event, Notice, RetryScheduled
from quaymirror.http.retry import RetryPolicy
from quaymirror.run.report import Report
from quaymirror.run.verify import verify_target
from quaymirror.secret import Credentials, Secret
from quaymirror.targets.kinds import find_target
from quaymirror.testing import QuayServer, Registry, SourceManifest, digest_of, make_image, make_layer

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]

EVERYTHING = Selection("kolla", "*", TAG)


def settings(server: QuayServer, tmp_path: Path, **options: object) -> Options:
    return Options.of(server=server.url, state=tmp_path / "state", **options)


def errors(report: Report) -> list[str]:
    return [outcome.error.message for outcome in report.outcomes if outcome.error is not None]


def mounts(asked: list[peers.Asked]) -> Counter[int]:
    """Return how many mounts were asked for, by status."""
    return Counter(request.status for request in asked if request.method == "POST" and "mount=" in request.path)


def uploads(asked: list[peers.Asked]) -> list[str]:
    """Return the digests of finished uploads."""
    return [
        request.path.partition("digest=")[2].replace("%3A", ":")
        for request in asked
        if request.method == "PUT" and "/blobs/uploads/" in request.path and request.status == 201
    ]


def check_pulled(url: str, name: str, image: SourceManifest, tmp_path: Path, *options: str) -> None:
    """Let skopeo pull an image by tag, whole, and compare every byte that matters."""
    reference = f"docker://{url.partition('://')[2]}/{name}"
    raw = peers.skopeo("inspect", "--raw", *options, reference)
    assert raw.encode() == image.raw
    copied = tmp_path / "copied" / name.replace("/", "_").replace(":", "_")
    copied.parent.mkdir(exist_ok=True)
    peers.skopeo(
        "copy", "--all", *(option.replace("--", "--src-", 1) for option in options), reference, f"dir:{copied}"
    )
    found = {path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    assert {node.raw for node in image.walk()} <= found
    assert {blob.data for blob in image.all_blobs().values()} <= found


async def test_every_image_can_be_pulled_by_tag_with_the_digest_of_the_source(tmp_path: Path) -> None:
    registry, images = kolla(12)
    with peers.DockerRegistry(tmp_path) as target:
        async with QuayServer(registry, require_token=True) as server:
            address = f"registry://{target.host}?insecure=true"
            report = await quaymirror.sync(EVERYTHING, address, settings(server, tmp_path))

        assert errors(report) == []
        assert report.exit_code is ExitCode.OK
        assert report.counts == {Status.MIRRORED: 12, Status.SKIPPED: 0}
        assert any(image.is_index for image in images.values())
        for name, image in images.items():
            check_pulled(target.url, f"kolla/{name}:{TAG}", image, tmp_path, "--tls-verify=false")


@pytest.mark.parametrize("count", [50, pytest.param(200, marks=pytest.mark.soak)])
async def test_each_blob_is_fetched_once_uploaded_once_and_mounted_everywhere_else(tmp_path: Path, count: int) -> None:
    registry, images = kolla(count, layer_size=2048)
    blobs = {digest for image in images.values() for digest in image.all_blobs()}
    needed = sum(len(image.all_blobs()) for image in images.values())
    with peers.DockerRegistry(tmp_path) as target:
        async with QuayServer(registry) as server:
            address = f"registry://{target.host}?insecure=true"
            report = await quaymirror.sync(EVERYTHING, address, settings(server, tmp_path))
            assert errors(report) == []
            assert server.blob_bytes() == unique_bytes(images)
            assert sorted(uploads(target.requests())) == sorted(blobs)
            assert mounts(target.requests())[201] == needed - len(blobs)  # others say that a blob is not there
            target.forget()
            server.reset_records()
            again = await quaymirror.sync(EVERYTHING, address, settings(server, tmp_path))
            assert server.count("^/v2/") == 0

        assert again.counts == {Status.UNCHANGED: count, Status.SKIPPED: 0}
        # The root of the API, to see that the registry is there.
        assert [request.path for request in target.requests()] == ["/v2/"]


async def test_targets_with_a_common_state_directory_have_separate_states(
    tmp_path: Path,
) -> None:
    registry, images = kolla(3)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()

    with peers.DockerRegistry(tmp_path / "one") as one, peers.DockerRegistry(tmp_path / "two") as two:
        async with QuayServer(registry) as server:
            for target in (one, two):
                address = f"registry://{target.host}?insecure=true"
                report = await quaymirror.sync(EVERYTHING, address, settings(server, tmp_path))
                assert report.counts == {Status.MIRRORED: 3, Status.SKIPPED: 0}
                assert all(peers.has_tag(target.url, f"kolla/{name}", TAG) for name in images)


async def test_an_image_whose_tag_another_run_has_replaced_is_not_unchanged(tmp_path: Path) -> None:
    registry, told = Registry(), list[Event]()
    images = {name: small_image(name) for name in ("kolla", "openstack")}
    for name, image in images.items():
        registry.organization(name).repository("nova").push(TAG, image)

    with peers.DockerRegistry(tmp_path) as target:
        async with QuayServer(registry) as server:
            address = f"registry://{target.host}/mirror/{{repo}}?insecure=true"
            for name in ("kolla", "openstack", "openstack", "kolla", "kolla"):
                selection = Selection(name, "*", TAG)
                report = await quaymirror.sync(selection, address, settings(server, tmp_path), observer=told.append)
                assert errors(report) == []
                reference = f"docker://{target.host}/mirror/nova:{TAG}"
                assert peers.skopeo("inspect", "--raw", "--tls-verify=false", reference).encode() == images[name].raw

    notices = [event.message for event in told if isinstance(event, Notice)]
    assert len(notices) == 1
    assert "kolla/nova:2025.1-debian was replaced by openstack/nova:2025.1-debian" in notices[0]


async def test_content_that_the_target_has_lost_is_reported_and_pushed_again(tmp_path: Path) -> None:
    registry, images = kolla(6)
    with peers.DockerRegistry(tmp_path) as target:
        async with QuayServer(registry) as server:
            address = f"registry://{target.host}?insecure=true"
            options = settings(server, tmp_path)
            await quaymirror.sync(EVERYTHING, address, options)
            spec = find_target(address, options)
            assert (await verify_target(spec, options)).damages == ()

            # A faulty garbage collection: every link of one repository is missing.
            name, image = next((name, image) for name, image in images.items() if not image.is_index)
            repository = tmp_path / "registry/docker/registry/v2/repositories/kolla" / name
            shutil.rmtree(repository)

            # The record says that all images are there; only requests show otherwise.
            unaware = await quaymirror.sync(EVERYTHING, address, options)
            assert unaware.counts == {Status.UNCHANGED: 6, Status.SKIPPED: 0}
            server.reset_records()
            report = await quaymirror.sync(EVERYTHING, address, options.replace(check_target=True))
            assert errors(report) == []
            assert report.counts == {Status.UNCHANGED: 5, Status.MIRRORED: 1, Status.SKIPPED: 0}
            assert (await verify_target(spec, options)).damages == ()

            # What a verification finds, the next run knows.
            shutil.rmtree(repository)
            found = await verify_target(spec, options)
            assert {str(damage.digest) for damage in found.damages} == {image.digest, *image.all_blobs()}
            assert {names for damage in found.damages for names in damage.images} == {f"kolla/{name}:{TAG}"}
            report = await quaymirror.sync(EVERYTHING, address, options)
            assert report.counts == {Status.UNCHANGED: 5, Status.MIRRORED: 1, Status.SKIPPED: 0}
            assert (await verify_target(spec, options)).damages == ()


async def test_blobs_that_a_registry_has_lost_are_pushed_again(tmp_path: Path) -> None:
    registry, _ = kolla(3)
    repository = registry.organization("kolla").repository("lost")
    layers = [make_layer("one", 2048), make_layer("two", 2048)]
    repository.push(TAG, make_image(layers))
    with peers.DockerRegistry(tmp_path) as target:
        async with QuayServer(registry) as server:
            address = f"registry://{target.host}?insecure=true"
            options = settings(server, tmp_path)
            await quaymirror.sync(EVERYTHING, address, options)
            shutil.rmtree(tmp_path / "registry/docker/registry/v2/repositories/kolla/lost")
            # The tag moves to another image of the same layers: all of them are remembered, none is there.
            moved = make_image(layers, labels={"moved": "yes"})
            repository.push(TAG, moved)
            report = await quaymirror.sync(EVERYTHING, address, options)
            assert errors(report) == []

        check_pulled(target.url, f"kolla/lost:{TAG}", moved, tmp_path, "--tls-verify=false")


async def test_without_a_state_an_image_that_is_there_costs_one_request_and_nothing_from_the_source(
    tmp_path: Path,
) -> None:
    registry, images = kolla(6)
    with peers.DockerRegistry(tmp_path) as target:
        async with QuayServer(registry) as server:
            address = f"registry://{target.host}?insecure=true"
            await quaymirror.sync(EVERYTHING, address, settings(server, tmp_path))
            target.forget()
            server.reset_records()
            elsewhere = settings(server, tmp_path / "elsewhere")
            report = await quaymirror.sync(EVERYTHING, address, elsewhere)
            assert server.count("^/v2/") == 0
            assert report.counts == {Status.UNCHANGED: 6, Status.SKIPPED: 0}
            asked = [(request.method, request.path) for request in target.requests() if request.path != "/v2/"]
            assert sorted(asked) == [("HEAD", f"/v2/kolla/{name}/manifests/{TAG}") for name in sorted(images)]
            target.forget()
            await quaymirror.sync(EVERYTHING, address, elsewhere)
            assert [request.path for request in target.requests()] == ["/v2/"]
            # Content that was only checked by its root is verified completely.
            found = await verify_target(find_target(address, elsewhere), elsewhere)
            assert found.damages == ()
            assert found.blobs == len(
                {d for i in images.values() for d in (*i.all_blobs(), *(n.digest for n in i.walk()))}
            )


async def test_the_first_push_asks_for_no_blob_of_a_repository_that_is_new(tmp_path: Path) -> None:
    registry, images = kolla(12)
    with peers.DockerRegistry(tmp_path) as target:
        async with QuayServer(registry) as server:
            address = f"registry://{target.host}?insecure=true"
            report = await quaymirror.sync(EVERYTHING, address, settings(server, tmp_path))

        assert errors(report) == []
        asked = target.requests()
        missed = [request for request in asked if request.method == "HEAD" and request.status == 404]
        # Until the first mount of a layer is proven, blobs that it lacks are not asked for either.
        assert [request.path for request in missed if "/blobs/" in request.path] == []
        assert mounts(asked)[202] == 0
        digests = {digest for image in images.values() for digest in image.all_blobs()}
        assert sorted(uploads(asked)) == sorted(digests)
        # The registry is empty, so nothing is asked about any repository but the first.
        assert len([request for request in asked if request.method == "GET" and "/tags/" in request.path]) == 1
        assert len([request for request in missed if "/manifests/" in request.path]) == 1


async def test_the_first_push_to_a_registry_with_other_images_asks_once_for_each_repository(tmp_path: Path) -> None:
    registry, images = kolla(6)
    with peers.DockerRegistry(tmp_path) as target:
        async with QuayServer(registry) as server:
            address = f"registry://{target.host}?insecure=true"
            other = f"registry://{target.host}/other?insecure=true"
            await quaymirror.sync(Selection("kolla", min(images), TAG), other, settings(server, tmp_path))
            target.forget()
            report = await quaymirror.sync(EVERYTHING, address, settings(server, tmp_path / "elsewhere"))

        assert errors(report) == []
        asked = [request.path for request in target.requests() if request.method == "GET" and "/tags/" in request.path]
        assert sorted(path.split("/tags/")[0] for path in asked) == [f"/v2/kolla/{name}" for name in sorted(images)]


async def test_without_a_state_nothing_that_a_repository_has_is_uploaded_for_another_tag(tmp_path: Path) -> None:
    shared = make_layer("shared", 50_000)
    first, second = (make_image([shared, make_layer(name, 20_000)]) for name in ("first", "second"))
    registry = Registry()
    repository = registry.organization("kolla").repository("nova")
    new = registry.organization("kolla").repository("apt")
    with peers.DockerRegistry(tmp_path) as target:
        async with QuayServer(registry) as server:
            address = f"registry://{target.host}?insecure=true"
            repository.push(TAG, first)
            assert errors(await quaymirror.sync(EVERYTHING, address, settings(server, tmp_path))) == []
            repository.push("next", second)
            new.push("next", small_image("new"))
            target.forget()
            other = settings(server, tmp_path / "other", concurrency=1)
            assert errors(await quaymirror.sync(Selection("kolla", "*", "next"), address, other)) == []

        assert shared.blob.digest not in uploads(target.requests())


async def test_placeholders_name_images(tmp_path: Path) -> None:
    registry, images = kolla(3)
    with peers.DockerRegistry(tmp_path) as target:
        async with QuayServer(registry) as server:
            address = f"registry://{target.host}/mirror/{{repo}}:{{tag}}-staging?insecure=true"
            report = await quaymirror.sync(EVERYTHING, address, settings(server, tmp_path))
            run_all = f"registry://{target.host}/all:{{repo}}?insecure=true"
            again = await quaymirror.sync(EVERYTHING, run_all, settings(server, tmp_path / "other"))

        assert errors(report) == errors(again) == []
        for name, image in images.items():
            check_pulled(target.url, f"mirror/{name}:{TAG}-staging", image, tmp_path, "--tls-verify=false")
            check_pulled(target.url, f"all:{name}", image, tmp_path, "--tls-verify=false")


@pytest.mark.parametrize("password", ["right", "wrong", None])
async def test_a_registry_with_passwords_takes_the_right_one_only(password: str | None, tmp_path: Path) -> None:
    registry, images = kolla(4)
    credentials = Credentials("mirror", Secret(password)) if password else None
    with peers.DockerRegistry(tmp_path, password="right") as target:
        async with QuayServer(registry) as server:
            options = settings(server, tmp_path, dest_credentials=credentials)
            address = f"registry://{target.host}?insecure=true"
            if password == "right":
                report = await quaymirror.sync(EVERYTHING, address, options)
                assert errors(report) == []
            else:
                with pytest.raises(CredentialsRefused) as caught:
                    await quaymirror.sync(EVERYTHING, address, options)

                assert caught.value.exit_code is ExitCode.CREDENTIALS
                assert server.requests == []
                return

        for name, image in images.items():
            reference = f"kolla/{name}:{TAG}"
            check_pulled(target.url, reference, image, tmp_path, "--tls-verify=false", "--creds=mirror:right")


async def test_credentials_of_an_auth_file_go_to_their_registry_only(tmp_path: Path) -> None:
    registry, _ = kolla(2)
    with peers.DockerRegistry(tmp_path, password="right") as target:
        authfile = tmp_path / "auth.json"
        entry = {"auth": base64.b64encode(b"mirror:right").decode()}
        # The longer key wins: the shorter one would be refused.
        wrong = {"auth": base64.b64encode(b"mirror:wrong").decode()}
        authfile.write_text(json.dumps({"auths": {f"{target.host}/prefix": entry, target.host: wrong}}))
        async with QuayServer(registry, require_token=True) as server:
            options = settings(server, tmp_path, authfile=authfile)
            report = await quaymirror.sync(EVERYTHING, f"registry://{target.host}/prefix?insecure=true", options)
            assert errors(report) == []
            assert not any("basic" in r.headers.get("authorization", "").lower() for r in server.requests)


async def test_a_private_authority_and_a_client_certificate_are_taken_from_a_directory(tmp_path: Path) -> None:
    registry, images = kolla(3)
    authority = trustme.CA()
    certificates = tmp_path / "certs"
    certificates.mkdir()
    authority.cert_pem.write_to_path(certificates / "ca.crt")
    server_chain = pair(authority.issue_cert("127.0.0.1"), tmp_path, "server")
    pair(authority.issue_cert("client.example"), certificates, "client")
    with peers.DockerRegistry(tmp_path, tls=server_chain, client_ca=certificates / "ca.crt") as target:
        async with QuayServer(registry) as server:
            address = f"registry://{target.host}"
            with pytest.raises(ConnectFailed, match="certificate is not trusted"):
                await quaymirror.sync(EVERYTHING, address, settings(server, tmp_path))

            assert server.requests == []
            options = settings(server, tmp_path, dest_cert_dir=certificates)
            assert errors(await quaymirror.sync(EVERYTHING, address, options)) == []

        for name, image in images.items():
            check_pulled(target.url, f"kolla/{name}:{TAG}", image, tmp_path, f"--cert-dir={certificates}")


async def test_certificate_verification_can_be_disabled(tmp_path: Path) -> None:
    registry, _ = kolla(2)
    chain = pair(trustme.CA().issue_cert("127.0.0.1"), tmp_path, "server")
    with peers.DockerRegistry(tmp_path, tls=chain) as target:
        async with QuayServer(registry) as server:
            options = settings(server, tmp_path, dest_tls_verify=False)
            assert errors(await quaymirror.sync(EVERYTHING, f"registry://{target.host}", options)) == []


def pair(certificate: trustme.LeafCert, directory: Path, name: str) -> tuple[Path, Path]:
    """Write a certificate and its key, and return their files."""
    files = directory / f"{name}.cert", directory / f"{name}.key"
    files[0].write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    certificate.private_key_pem.write_to_path(files[1])
    return files


async def test_a_target_that_is_down_ends_the_run_before_any_request_to_the_source(tmp_path: Path) -> None:
    registry, _ = kolla(2)
    async with QuayServer(registry) as server:
        address = f"registry://127.0.0.1:{peers.free_port()}?insecure=true"
        with pytest.raises(ConnectFailed, match="the target is not usable") as caught:
            await quaymirror.sync(EVERYTHING, address, settings(server, tmp_path, retries=0))

        assert server.requests == []

    assert caught.value.exit_code is ExitCode.UNAVAILABLE
    assert caught.value.side is Side.TARGET


async def test_a_registry_that_is_restarted_gets_everything_in_the_same_run(tmp_path: Path) -> None:
    registry, images = kolla(30, layer_size=300_000)
    with peers.DockerRegistry(tmp_path) as target:
        async with QuayServer(registry) as server:
            server.on_request = lambda _: target.kill() if server.count("", listener="cdn") == 20 else None

            def revive(event: Event) -> None:
                if isinstance(event, RetryScheduled) and not target.is_running:
                    target.start()

            address = f"registry://{target.host}?insecure=true"
            options = settings(server, tmp_path)
            report = await quaymirror.sync(EVERYTHING, address, options, observer=revive)
            assert errors(report) == []
            assert (await verify_target(find_target(address, options), options)).damages == ()

        for name, image in list(images.items())[:5]:
            check_pulled(target.url, f"kolla/{name}:{TAG}", image, tmp_path, "--tls-verify=false")


async def test_a_registry_that_stays_down_fails_only_the_missing_images(tmp_path: Path) -> None:
    registry, images = kolla(30, layer_size=300_000)
    with peers.DockerRegistry(tmp_path) as target:
        async with QuayServer(registry) as server:
            server.on_request = lambda _: target.kill() if server.count("", listener="cdn") == 60 else None
            address = f"registry://{target.host}?insecure=true"
            options = settings(server, tmp_path, retries=0, retry=RetryPolicy(patience=1.0), concurrency=2)
            report = await quaymirror.sync(EVERYTHING, address, options)
            assert report.exit_code is ExitCode.PARTIAL
            failed = [outcome for outcome in report.outcomes if outcome.error is not None]
            assert 0 < len(failed) < len(images)
            assert {outcome.error.side for outcome in failed if outcome.error} == {Side.TARGET}

            server.on_request = None
            target.start()
            there = {name for name in images if peers.has_tag(target.url, f"kolla/{name}", TAG)}
            assert there == {o.reference.repository.name.removeprefix("kolla/") for o in report.outcomes if not o.error}
            again = await quaymirror.sync(EVERYTHING, address, settings(server, tmp_path))
            assert errors(again) == []
            assert again.counts == {Status.UNCHANGED: len(there), Status.MIRRORED: len(failed), Status.SKIPPED: 0}
            assert (await verify_target(find_target(address, options), options)).damages == ()


async def test_images_move_within_a_registry_without_a_byte_of_a_blob(tmp_path: Path) -> None:
    _, images = kolla(4)
    with peers.DockerRegistry(tmp_path) as target:
        for name, image in images.items():
            peers.push(target.url, f"kolla/{name}", TAG, image)

        target.forget()
        source = f"registry://{target.host}/kolla/*:{TAG}?insecure=true"
        words = ("sync", source, "--to", f"registry://{target.host}/promoted?insecure=true", "--state", "state")
        await run(*words, cwd=tmp_path, check=ExitCode.OK)
        asked = target.requests()
        assert not [each for each in asked if each.method == "GET" and "/blobs/" in each.path]
        assert uploads(asked) == []
        assert set(mounts(asked)) == {201}
        for name, image in images.items():
            check_pulled(target.url, f"promoted/kolla/{name}:{TAG}", image, tmp_path, "--tls-verify=false")


async def test_foreign_layers_that_a_registry_refuses_are_named_at_once(tmp_path: Path) -> None:
    registry, layer = Registry(), make_layer("foreign", 2048)
    document = json.loads(make_image([layer]).raw)
    document["layers"][0]["urls"] = ["https://example.com/layer"]
    raw = json.dumps(document).encode()
    image = replace(make_image([layer]), raw=raw, digest=digest_of(raw))
    registry.organization("kolla").repository("windows").push(TAG, image)
    with peers.DockerRegistry(tmp_path) as target:
        async with QuayServer(registry) as server:
            address = f"registry://{target.host}/mirror?insecure=true"
            words = ("sync", "kolla", "*", TAG, "--server", server.url, "--to", address, "--state", "state")
            done = await run(*words, cwd=tmp_path, check=ExitCode.PARTIAL)
            assert "the target refuses its foreign layers" in done.stderr
            assert "validation.manifests.urls.allow" in done.stderr

        assert len([each for each in target.requests() if each.method == "PUT" and "/manifests/" in each.path]) == 1


async def test_what_a_registry_lost_is_pushed_again_from_the_layout(tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", {f"kolla/{name}:{TAG}": small_image(name) for name in ("nova", "glance")})
    async with Receiver() as target:
        words = ("push", str(tmp_path / "layout"), target.address, "--state", str(tmp_path / "state"))
        await run(*words, cwd=tmp_path, check=0)
        lost = target.manifests["kolla/nova"].pop(TAG)
        # The record says that nothing is missing; the host that the images came from does not exist here.
        done = await run(*words, "--verify-target", cwd=tmp_path, check=0)
        assert "pushing it again" in done.stderr
        assert target.manifests["kolla/nova"][TAG] == lost
