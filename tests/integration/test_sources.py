"""Other sources than Quay, end to end: any registry, several sources in one run, and credentials for each."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path

import peers
import pytest
from organizations import TAG, kolla, small_image
from token_server import TokenServer

import quaymirror
from quaymirror import Credentials, Options, Secret, Selection, Status
from quaymirror.errors import ConfigError, ExitCode
from quaymirror.run.sync import run_sync
from quaymirror.selection.lockfile import lock_document, read_lock
from quaymirror.testing import QuayServer, Registry


def at(server: QuayServer, names: str) -> Selection:
    return Selection.parse_uri(f"registry://{server.url.removeprefix('http://')}/{names}?insecure=true")


def one_image(organization: str, repository: str, content: str) -> Registry:
    registry = Registry()
    registry.organization(organization).repository(repository).push(TAG, small_image(content))
    return registry


async def test_a_night_without_changes_is_one_request_per_tag(tmp_path: Path) -> None:
    registry, images = kolla(3)
    async with QuayServer(registry, public_catalog=True) as server:
        selection = at(server, f"kolla/*:{TAG}")
        report = await quaymirror.sync(selection, tmp_path / "mirror")
        assert report.counts[Status.MIRRORED] == len(images)
        before = len(server.requests)
        report = await quaymirror.sync(selection, tmp_path / "mirror")
        assert (report.counts[Status.UNCHANGED], report.exit_code) == (len(images), ExitCode.OK)
        asked = [(request.method, request.path.partition("/manifests/")[1]) for request in server.requests[before:]]
        assert asked.count(("HEAD", "/manifests/")) == len(images)
        assert len(asked) == len(images) + 1  # and the catalog


async def test_named_repositories_need_no_catalog(tmp_path: Path) -> None:
    registry, images = kolla(2)
    async with QuayServer(registry) as server:
        report = await quaymirror.sync(at(server, f"kolla/{next(iter(images))}:{TAG}"), tmp_path / "mirror")
        assert report.counts[Status.MIRRORED] == 1
        assert server.count("_catalog") == 0


async def test_one_run_mixes_sources_and_an_image_knows_its_own(tmp_path: Path) -> None:
    async with (
        QuayServer(one_image("kolla", "nova", "nova")) as quay,
        QuayServer(one_image("other", "tool", "tool")) as second,
    ):
        selections = [Selection("kolla", tags=TAG), at(second, f"other/tool:{TAG}")]
        report = await run_sync(selections, tmp_path / "mirror", Options.of(server=quay.url))
        assert {outcome.reference.repository.registry for outcome in report.outcomes} == {
            server.url.removeprefix("http://") for server in (quay, second)
        }
        assert (report.counts[Status.MIRRORED], report.exit_code) == (2, ExitCode.OK)
        assert report.server == f"{quay.url}, registry://{second.url.removeprefix('http://')}?insecure=true"
        names = {entry["annotations"]["io.containerd.image.name"] for entry in _index(tmp_path / "mirror")}
        assert len(names) == 2


async def test_two_sources_with_one_name_are_a_failure_of_the_second(tmp_path: Path) -> None:
    async with (
        QuayServer(one_image("kolla", "nova", "first")) as quay,
        QuayServer(one_image("kolla", "nova", "second")) as second,
    ):
        selections = [Selection("kolla", tags=TAG), at(second, f"kolla/nova:{TAG}")]
        report = await run_sync(selections, tmp_path / "mirror", Options.of(server=quay.url))
        assert report.exit_code is ExitCode.PARTIAL
        (failed,) = report.failed_checks
        assert f"has the same name as {quay.url.removeprefix('http://')}/kolla/nova:{TAG}" in failed.error.message


async def test_a_source_that_fails_does_not_end_the_others(tmp_path: Path) -> None:
    async with QuayServer(one_image("kolla", "nova", "nova")) as quay:
        down = Selection.parse_uri("registry://127.0.0.1:1/*:latest?insecure=true")
        notices: list[str] = []
        report = await run_sync(
            [down, Selection("kolla", tags=TAG)],
            tmp_path / "mirror",
            Options.of(server=quay.url, retries=0),
            observer=lambda event: notices.append(str(event)),
        )
        assert (report.counts[Status.MIRRORED], report.exit_code) == (1, ExitCode.UNAVAILABLE)
        assert not report.is_whole
        assert any("the other sources go on" in notice for notice in notices)


async def test_a_username_is_for_one_host(tmp_path: Path) -> None:
    selections = [Selection("kolla"), Selection.parse_uri("registry://registry.example/kolla/nova:1")]
    options = Options.of(credentials=Credentials("robot", Secret("password")))
    with pytest.raises(ConfigError, match="--username is for one host, but the sources are on 2"):
        await run_sync(selections, tmp_path / "mirror", options)


async def test_the_api_token_goes_to_its_own_server_only(tmp_path: Path) -> None:
    async with QuayServer(kolla(1)[0], public_catalog=True) as server:
        options = Options.of(api_token=Secret("top-secret"))
        await quaymirror.sync(at(server, f"kolla/*:{TAG}"), tmp_path / "mirror", options)
        assert server.requests
        assert all("top-secret" not in str(dict(request.headers)) for request in server.requests)


async def test_a_lock_file_of_another_source_leads_back_there(tmp_path: Path) -> None:
    async with QuayServer(kolla(2)[0], public_catalog=True) as server:
        report = await quaymirror.sync(at(server, f"kolla/*:{TAG}"), tmp_path / "mirror")
        lock = tmp_path / "lock.json"
        found = dict.fromkeys(outcome.reference for outcome in report.outcomes)
        lock.write_text(json.dumps(lock_document([(report.server, found)])))
        quay, selections = read_lock(lock)
        assert quay is None
        again = await run_sync(selections, tmp_path / "second", Options())
        assert {outcome.reference for outcome in again.outcomes} == {*found}
        assert again.exit_code is ExitCode.OK


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("registry://", "not a registry"),
        ("registry://user:secret@host/a:b", "takes no credentials"),
        ("registry://host/a:b?insecure=maybe", "insecure is true or false"),
        ("registry://host/[:b", "not a valid glob"),
        ("registry://host/a:b:c", "not a tag"),
    ],
)
def test_addresses_of_registries_are_checked(address: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Selection.parse_uri(address)

    assert "secret" not in caught.value.message


@pytest.mark.parametrize("options", [{"prune": True}, {}])
async def test_what_a_registry_does_not_know_is_refused_before_any_request(
    tmp_path: Path, options: dict[str, bool]
) -> None:
    text = "registry://registry.invalid/kolla/*:1"
    selection = Selection.parse_uri(text)
    if not options:
        selection = Selection("", selection.globs, "1", since=datetime(2025, 1, 1, tzinfo=UTC), source=selection.source)

    with pytest.raises(ConfigError, match=r"registry://.*(prove|--since)"):
        await quaymirror.sync(selection, tmp_path / "mirror", Options.of(**options))


@pytest.mark.interop
async def test_a_docker_registry_with_a_password_is_mirrored(tmp_path: Path) -> None:
    registry, images = kolla(4)
    with peers.DockerRegistry(tmp_path, password="secret") as source:
        login = base64.b64encode(b"mirror:secret").decode()
        auth = tmp_path / "auth.json"
        auth.write_text(json.dumps({"auths": {source.host: {"auth": login}}}))
        options = Options.of(authfile=auth, state=tmp_path / "state")
        async with QuayServer(registry) as server:
            target = f"registry://{source.host}?insecure=true"
            await quaymirror.sync(Selection("kolla", tags=TAG), target, options.replace(server=server.url))

        for tags in (TAG, "20*"):
            selection = Selection.parse_uri(f"registry://{source.host}/kolla/*:{tags}?insecure=true")
            report = await quaymirror.sync(selection, tmp_path / f"mirror-{len(tags)}", options)
            assert (report.counts[Status.MIRRORED], report.exit_code) == (len(images), ExitCode.OK)
            assert {outcome.reference.name: str(outcome.reference.digest) for outcome in report.outcomes} == {
                f"kolla/{name}:{TAG}": image.digest for name, image in images.items()
            }

        refused = await quaymirror.sync(selection, tmp_path / "refused", Options.of(state=tmp_path / "state"))
        assert refused.exit_code is ExitCode.CREDENTIALS
        assert refused.fatal is not None
        assert "write the names of repositories without wildcards" in refused.fatal.message


@pytest.mark.interop
async def test_a_docker_registry_behind_nginx_with_a_token_service_is_mirrored(tmp_path: Path) -> None:
    registry, images = kolla(3)
    accounts, port = {"mirror": "secret"}, peers.free_port()
    proxy = f"server {{ listen 127.0.0.1:{port}; client_max_body_size 0;"
    async with TokenServer(tmp_path, accounts) as tokens, QuayServer(registry) as server:
        with peers.DockerRegistry(tmp_path, auth=tokens.settings) as source:
            proxy += f" location / {{ proxy_pass http://{source.host}; proxy_set_header Host $http_host; }} }}"
            with peers.nginx(tmp_path, proxy):
                await peers.answers(port)
                login = Credentials("mirror", Secret("secret"))
                trusted = {tokens.url.split("/")[2]}
                options = Options.of(
                    server=server.url, dest_credentials=login, state=tmp_path / "state", allow_realms=trusted
                )
                target = f"registry://127.0.0.1:{port}?insecure=true"
                pushed = await quaymirror.sync(Selection("kolla", tags=TAG), target, options)
                assert pushed.exit_code is ExitCode.OK
                tokens.asked.clear()
                options = Options.of(credentials=login, state=tmp_path / "state", allow_realms=trusted)
                for tags in (TAG, "20*"):
                    selection = Selection.parse_uri(f"registry://127.0.0.1:{port}/kolla/*:{tags}?insecure=true")
                    report = await quaymirror.sync(selection, tmp_path / f"mirror-{len(tags)}", options)
                    assert (report.counts[Status.MIRRORED], report.exit_code) == (len(images), ExitCode.OK)

    assert "registry:catalog:*" in tokens.asked
    assert {scope for scope in tokens.asked if scope.startswith("repository:")} == {
        f"repository:kolla/{name}:pull" for name in images
    }


def _index(mirror: Path) -> list[dict[str, dict[str, str]]]:
    found: list[dict[str, dict[str, str]]] = json.loads((mirror / "index.json").read_text())["manifests"]
    return found
