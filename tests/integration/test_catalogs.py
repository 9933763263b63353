"""Registries with an API of their own, end to end: a mirror, what the second night costs, and the limits of pulls."""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import layouts
import peers
import pytest
from aiohttp import web
from commands import run
from organizations import small_image
from receiver import Receiver

import quaymirror
from quaymirror import Credentials, Options, ReferrerMode, Secret, Selection, Status
from quaymirror.errors import ConfigError, ExitCode, HostUnusable
from quaymirror.testing import (
    ForeignServer,
    GitHubServer,
    GitLabServer,
    HarborServer,
    HubServer,
    QuayServer,
    Registry,
    Repository,
    make_index,
)

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"
TOKEN = "personal-token"
TOKENS = {"/token", "/service/token", "/jwt/auth", "/v2/auth", "/v2/auth/token"}
URLS = "api=http://{}&registry=http://{}"
ADDRESSES = {
    "registry": "registry://{}/kolla/GLOB?insecure=true",
    "harbor": "harbor://{}/kolla/GLOB?insecure=true",
    "hub": f"hub://kolla/GLOB?{URLS}",
    "ghcr": f"ghcr://kolla/GLOB?{URLS}",
    "gitlab": f"gitlab://{{}}/kolla/GLOB?insecure=true&{URLS}",
}
KINDS: dict[str, Callable[..., ForeignServer]] = {
    "registry": ForeignServer,
    "harbor": HarborServer,
    "hub": HubServer,
    "ghcr": GitHubServer,
    "gitlab": GitLabServer,
}


class Clock:
    """The time of a server and of its clients."""

    def __init__(self) -> None:
        self.now = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now


def content(clock: Clock, count: int = 3, *, tags: tuple[str, ...] = ("1",)) -> Registry:
    """Return a registry with `count` images for each of `tags`, one of them in a nested repository."""
    registry = Registry(now=clock)
    kolla = registry.organization("kolla")
    for number in range(count):
        for tag in tags:
            kolla.repository(f"image-{number}" if number else "deep/image").push(tag, small_image(f"{number}-{tag}"))

    clock.now += 3600
    return registry


def at(server: ForeignServer | QuayServer, kind: str, names: str) -> Selection:
    return Selection.parse_uri(ADDRESSES[kind].replace("{}", server.host).replace("GLOB", names))


def options(tmp_path: Path, **more: object) -> Options:
    more = {"referrers": ReferrerMode.NONE, **more}  # requests are counted
    return Options.of(state=tmp_path / "state", **more)


def login(tmp_path: Path, **more: object) -> Options:
    return options(tmp_path, credentials=Credentials("mirror", Secret(TOKEN)), **more)


def second_night(kind: str, count: int) -> dict[str, int]:
    """Return the requests of a night without changes for `count` repositories with one tag, as the how-to has them."""
    pages = -(-count // 100)
    owner = {"hub": "/v2/namespaces/kolla/repositories", "ghcr": "/orgs/kolla/packages"}
    owner |= {"harbor": "/api/v2.0/projects/kolla/repositories", "registry": "/v2/_catalog"}
    owner |= {"gitlab": "/api/v4/groups/kolla/registry/repositories", "quay": "/api/v1/repository"}
    more = {
        # The pulls of the first night moved the time of each repository; the third night asks for the list only.
        "harbor": {"GET /api/v2.0/systeminfo": 1, "GET artifacts": count},
        "gitlab": {"HEAD manifests": count},
        "registry": {"HEAD manifests": count},
    }
    # GitHub does not say how many there are: a list of several pages is read twice.
    readings = 2 if kind == "ghcr" and pages > 1 else 1
    return {f"GET {owner[kind]}": -(-count // 1000) if kind == "registry" else pages * readings} | more.get(kind, {})


def asked(server: ForeignServer | QuayServer, since: int) -> Counter[str]:
    """Return the answered requests, without those for tokens, by method and path or what is at the end of it."""
    found: Counter[str] = Counter()
    for request in server.requests[since:]:
        if request.status == 200 and request.path not in TOKENS:
            part = next((part for part in ("manifests", "artifacts") if f"/{part}/" in request.path), request.path)
            found[f"{request.method} {part}"] += 1

    return found


@pytest.mark.parametrize("count", [3, pytest.param(230, marks=pytest.mark.soak)])
@pytest.mark.parametrize("kind", ["quay", *KINDS])
async def test_each_kind_is_mirrored_and_the_nights_after_cost_what_the_docs_say(
    kind: str, count: int, tmp_path: Path
) -> None:
    clock = Clock()
    registry = content(clock, count)
    opening = QuayServer(registry) if kind == "quay" else KINDS[kind](registry, accounts={"mirror": TOKEN})
    async with opening as server:
        given = options(tmp_path, server=server.url) if kind == "quay" else login(tmp_path)
        selection = Selection("kolla", tags="1") if kind == "quay" else at(server, kind, "*:1")
        report = await quaymirror.sync(selection, tmp_path / "mirror", given)
        assert {outcome.reference.name for outcome in report.outcomes} == {
            "kolla/deep/image:1",
            *(f"kolla/image-{number}:1" for number in range(1, count)),
        }
        assert (report.counts[Status.MIRRORED], report.exit_code) == (count, ExitCode.OK)
        layouts.check(tmp_path / "mirror")
        expected = second_night(kind, count)
        for _ in range(2):
            clock.now += 86_400
            before = len(server.requests)
            report = await quaymirror.sync(selection, tmp_path / "mirror", given)
            assert (report.counts[Status.UNCHANGED], report.exit_code) == (count, ExitCode.OK)
            assert asked(server, before) == expected
            expected.pop("GET artifacts", 0)

        clock.now += 86_400
        before = len(server.requests)
        registry.organization("kolla").repository("image-1").push("1", small_image("new"))
        clock.now += 60
        report = await quaymirror.sync(selection, tmp_path / "mirror", given)
        assert (report.counts[Status.MIRRORED], report.counts[Status.UNCHANGED]) == (1, count - 1)
        if kind == "harbor":
            # The moved one, and again at the end: its pull moved the time of its repository.
            assert asked(server, before)["GET artifacts"] == 2


PAGES = {
    "from-quay": "quay",
    "from-harbor": "harbor",
    "from-docker-hub": "hub",
    "from-github": "ghcr",
    "from-gitlab": "gitlab",
    "from-any-registry": "registry",
}


@pytest.mark.parametrize(("page", "kind"), PAGES.items())
async def test_the_command_of_each_how_to_mirrors_the_images(page: str, kind: str, tmp_path: Path) -> None:
    registry = Registry()
    for name in ("api", "web"):
        registry.organization("team").repository(name).push("2025.1", small_image(name))

    (command,) = re.findall(r"(?m)^    quaymirror (.*)$", (HOW_TO / f"{page}.md").read_text())
    opening = QuayServer(registry) if kind == "quay" else KINDS[kind](registry, accounts={"mirror": TOKEN})
    async with opening as server:
        pair = base64.b64encode(f"mirror:{TOKEN}".encode()).decode()
        (tmp_path / "auth.json").write_text(json.dumps({"auths": {server.host: {"auth": pair}}}))
        command = re.sub(r"//\w+\.example/", f"//{server.host}/", command.replace("/srv/", ""))
        query = ADDRESSES.get(kind, "?").replace("{}", server.host).partition("?")[2]
        words = [f"{word}?{query}" if "://" in word else word for word in shlex.split(command)]
        env = {"REGISTRY_AUTH_FILE": "" if kind == "quay" else str(tmp_path / "auth.json")}
        await run(*words, "--server", server.url, cwd=tmp_path, env=env, check=0)

    assert {*layouts.names(tmp_path / "mirror")} == {"team/api:2025.1", "team/web:2025.1"}


@pytest.mark.parametrize("kind", KINDS)
async def test_globs_for_tags_and_private_repositories_are_mirrored_with_a_token(kind: str, tmp_path: Path) -> None:
    clock = Clock()
    registry = content(clock, 2, tags=("1.0", "1.1", "2.0"))
    registry.organization("kolla").repository("secret", public=False).push("1.2", small_image("secret"))
    async with KINDS[kind](registry, accounts={"mirror": TOKEN}) as server:
        report = await quaymirror.sync(at(server, kind, "*:1.*"), tmp_path / "mirror", login(tmp_path))
        assert (report.counts[Status.MIRRORED], report.exit_code) == (5, ExitCode.OK)
        wrong = Options.of(credentials=Credentials("mirror", Secret("wrong")), state=tmp_path / "state")
        refused = await quaymirror.sync(at(server, kind, "*:1.*"), tmp_path / "other", wrong)
        assert refused.exit_code is ExitCode.CREDENTIALS
        assert refused.fatal is not None
        assert "wrong" not in refused.fatal.message


@pytest.mark.parametrize("names", ["*", "image-1"])
@pytest.mark.parametrize("kind", KINDS)
async def test_an_auth_file_that_is_broken_is_a_mistake_of_the_configuration(
    kind: str, names: str, tmp_path: Path
) -> None:
    (tmp_path / "auth.json").write_text("{nonsense")
    async with KINDS[kind](content(Clock()), accounts={"mirror": TOKEN}) as server:
        done = await run(
            *("sync", str(at(server, kind, f"{names}:1")), "--authfile", "auth.json", "--to", "mirror"),
            cwd=tmp_path,
            check=2,
        )

    assert "auth file 'auth.json' is not JSON" in done.stderr
    assert "run the same command again" not in done.stderr


@pytest.mark.parametrize("kind", ["harbor", "hub", "gitlab"])
async def test_public_images_need_no_account(kind: str, tmp_path: Path) -> None:
    clock = Clock()
    async with KINDS[kind](content(clock)) as server:
        report = await quaymirror.sync(at(server, kind, "*:1"), tmp_path / "mirror")
        assert (report.counts[Status.MIRRORED], report.exit_code) == (3, ExitCode.OK)


@pytest.mark.parametrize("kind", ["registry", "harbor", "hub"])  # the others call such names private
async def test_names_without_wildcards_that_do_not_exist_are_reported_with_the_nearest(
    kind: str, tmp_path: Path
) -> None:
    opening = KINDS[kind](content(Clock()), **({"needs_token": False} if kind == "registry" else {}))
    async with opening as server:
        names = "imag-1,kolla/image-2" if kind == "registry" else "imag-1,image-2"
        selection = at(server, kind, f"{names}:1")
        report = await quaymirror.sync(selection, tmp_path / "mirror", options(tmp_path))
        assert (report.counts[Status.MIRRORED], report.exit_code) == (1, ExitCode.PARTIAL)
        (unmatched,) = report.unmatched
        assert unmatched.name.endswith("kolla/imag-1")
        assert "kolla/image-1" in unmatched.nearest


@pytest.mark.interop
@pytest.mark.parametrize("kind", KINDS)
async def test_each_kind_is_mirrored_through_nginx(kind: str, tmp_path: Path) -> None:
    port = peers.free_port()
    async with KINDS[kind](content(Clock()), accounts={"mirror": TOKEN}) as server:
        proxy = f"location / {{ proxy_pass {server.url}; proxy_set_header Host $http_host; }}"
        with peers.nginx(tmp_path, f"server {{ listen 127.0.0.1:{port}; {proxy} }}"):
            await peers.answers(port)
            server.url = f"http://127.0.0.1:{port}"
            report = await quaymirror.sync(at(server, kind, "*:1"), tmp_path / "mirror", login(tmp_path))
            assert (report.counts[Status.MIRRORED], report.exit_code) == (3, ExitCode.OK)


async def test_github_lists_to_tokens_only_but_named_packages_need_none(tmp_path: Path) -> None:
    async with GitHubServer(content(Clock())) as server:
        refused = await quaymirror.sync(at(server, "ghcr", "*:1"), tmp_path / "mirror")
        assert refused.exit_code is ExitCode.CREDENTIALS
        assert refused.fatal is not None
        assert "read:packages" in refused.fatal.message
        report = await quaymirror.sync(at(server, "ghcr", "image-1,deep/image:1"), tmp_path / "mirror")
        assert (report.counts[Status.MIRRORED], report.exit_code) == (2, ExitCode.OK)
        assert server.count("packages") == 0


@pytest.mark.parametrize("kind", ["hub", "ghcr", "gitlab"])
async def test_nothing_is_pruned_by_a_list_that_may_hide_repositories(kind: str, tmp_path: Path) -> None:
    async with KINDS[kind](content(Clock()), accounts={"mirror": TOKEN}) as server:
        with pytest.raises(ConfigError, match="does not prove that an image was deleted"):
            await quaymirror.sync(at(server, kind, "*:1"), tmp_path / "mirror", login(tmp_path, prune=True))

        assert server.requests == []


async def test_harbor_shows_absence_and_hidden_projects_are_refused(tmp_path: Path) -> None:
    clock = Clock()
    registry = content(clock)
    async with HarborServer(registry, accounts={"mirror": TOKEN}) as server:
        selection = at(server, "harbor", "*:1")
        await quaymirror.sync(selection, tmp_path / "mirror", login(tmp_path, prune=True))
        registry.organization("kolla").repository("image-1", public=False).is_public = False
        hidden = await quaymirror.sync(selection, tmp_path / "mirror", Options.of(state=tmp_path / "state", prune=True))
        assert hidden.exit_code is ExitCode.CREDENTIALS
        unknown = Selection.parse_uri(str(selection).replace("kolla/", "unheard-of/"))
        empty = await quaymirror.sync(unknown, tmp_path / "mirror", login(tmp_path))
        assert empty.exit_code is ExitCode.EMPTY


async def test_an_older_harbor_is_asked_for_every_tag(tmp_path: Path) -> None:
    clock = Clock()
    async with HarborServer(content(clock), accounts={"mirror": TOKEN}, version="v2.11.1-x") as server:
        for _ in range(3):
            before = len(server.requests)
            await quaymirror.sync(at(server, "harbor", "*:1"), tmp_path / "mirror", login(tmp_path))
            clock.now += 86_400

        assert asked(server, before)["GET artifacts"] == 3


@pytest.mark.parametrize("is_pushed", [False, True])
async def test_hub_stops_within_its_limit_and_the_next_windows_lose_nothing(is_pushed: bool, tmp_path: Path) -> None:
    clock = Clock()
    registry = content(clock, 12)
    index = make_index([(small_image("amd64"), "linux/amd64"), (small_image("arm64"), "linux/arm64")])
    registry.organization("kolla").repository("multi").push("1", index)
    clock.now += 3600
    async with HubServer(registry, pulls=6) as server, Receiver() as receiver:
        target = receiver.address if is_pushed else tmp_path / "mirror"
        selection, mirrored = at(server, "hub", "*:1"), 0
        given = options(tmp_path, referrers=ReferrerMode.NONE if is_pushed else ReferrerMode.SIGNATURES)
        for window in range(1, 6):  # noqa: B007 - the last one is of interest
            report = await quaymirror.sync(selection, target, given)
            mirrored += report.counts[Status.MIRRORED]
            if report.exit_code is ExitCode.OK:
                break

            assert report.exit_code is ExitCode.PARTIAL
            # Looking for signatures is no pull.
            assert not any(outcome.referrer_failures for outcome in report.outcomes)
            failed = next(outcome for outcome in report.outcomes if outcome.status is Status.FAILED)
            assert failed.error is not None
            assert "the limit of 6 pulls in 6 h is reached; pulls resume by" in failed.error.message
            assert "docker login" in failed.error.message
            clock.now += 86_400

        assert (mirrored, window) == (13, 3)  # 15 manifests
        assert not any(request.status == 429 for request in server.requests)
        before = len(server.requests)
        report = await quaymirror.sync(selection, target, given)
        assert report.counts[Status.UNCHANGED] == 13
        assert asked(server, before) == second_night("hub", 13)
        names = {"kolla/deep/image", "kolla/multi", *(f"kolla/image-{number}" for number in range(1, 12))}
        if is_pushed:
            assert {name for name, stored in receiver.manifests.items() if "1" in stored} == names
            assert receiver.manifests["kolla/multi"]["1"][1] == index.raw
        else:
            layouts.check(tmp_path / "mirror")
            assert {*layouts.names(tmp_path / "mirror")} == {f"{name}:1" for name in names}


async def test_a_list_of_images_of_hub_stays_within_its_limit_of_pulls(tmp_path: Path) -> None:
    clock = Clock()
    async with HubServer(content(clock, 12), pulls=6) as server:
        names = ",".join(["kolla/deep/image", *(f"kolla/image-{number}" for number in range(1, 12))])
        selection = Selection.parse_uri(f"registry://{server.host}/{names}:1?insecure=true")
        for mirrored, code in ((6, ExitCode.PARTIAL), (6, ExitCode.OK)):
            report = await quaymirror.sync(selection, tmp_path / "mirror", options(tmp_path))
            assert (report.counts[Status.MIRRORED], report.exit_code) == (mirrored, code)
            messages = {outcome.error.message for outcome in report.outcomes if outcome.error is not None}
            assert all("6 pulls in 6 h is reached; pulls resume by" in message for message in messages)
            clock.now += 86_400

        assert not any(request.status == 429 for request in server.requests)


class RatedServer(ForeignServer):
    """A registry that states a rate: no request is left in this minute, and yet it answers."""

    def manifest_headers(self) -> dict[str, str]:
        return {"RateLimit-Limit": "10;w=60", "RateLimit-Remaining": "0;w=60"}


async def test_a_rate_that_a_registry_states_is_no_limit_of_pulls(tmp_path: Path) -> None:
    async with RatedServer(content(Clock()), needs_token=False) as server:
        report = await quaymirror.sync(at(server, "registry", "*:1"), tmp_path / "mirror", options(tmp_path))
        assert (report.counts[Status.MIRRORED], report.exit_code) == (3, ExitCode.OK)


async def test_a_used_up_limit_of_hub_is_found_out_without_a_pull(tmp_path: Path) -> None:
    async with HubServer(content(Clock()), pulls=0) as server:
        report = await quaymirror.sync(at(server, "hub", "*:1"), tmp_path / "mirror")
        assert report.exit_code is ExitCode.PARTIAL
        assert [
            request.method for request in server.requests if "/manifests/" in request.path if request.status == 200
        ] == ["HEAD"]


async def test_tokens_of_hub_are_renewed_before_they_expire(tmp_path: Path) -> None:
    clock = Clock()
    async with HubServer(content(clock, 2), accounts={"mirror": TOKEN}) as server:
        await quaymirror.sync(at(server, "hub", "*:1"), tmp_path / "mirror", login(tmp_path))
        assert server.count("/v2/auth/token") == 1
        # A token that the server no longer takes is replaced in the middle of the listing.
        seen: list[str] = []

        def expire(request: object) -> None:
            if "/tags/" in getattr(request, "path", "") and not seen:
                seen.append("expired")
                server.forget_tokens()

        server.overrides.append(expire)
        clock.now += 8 * 86_400  # every tag is checked again
        report = await quaymirror.sync(at(server, "hub", "*:1"), tmp_path / "mirror", login(tmp_path))
        assert (report.counts[Status.UNCHANGED], report.exit_code) == (2, ExitCode.OK)
        assert server.count("/v2/auth/token") == 3


async def test_old_tags_of_hub_without_a_digest_are_resolved_by_the_registry(tmp_path: Path) -> None:
    async with HubServer(content(Clock(), 2)) as server:
        server.without_digest.add("kolla/image-1:1")
        for tags in ("1", "[1-9]"):
            report = await quaymirror.sync(at(server, "hub", f"*:{tags}"), tmp_path / f"mirror-{len(tags)}")
            assert (report.counts[Status.MIRRORED], report.exit_code) == (2, ExitCode.OK)


async def test_of_the_tags_of_hub_without_a_digest_only_those_are_resolved_that_match(tmp_path: Path) -> None:
    async with HubServer(content(Clock(), 1, tags=("1.0", "1.1", "2.0", "2.1"))) as server:
        server.without_digest.update(f"kolla/deep/image:{tag}" for tag in ("1.0", "1.1", "2.0"))
        selection = at(server, "hub", "*:2.*")
        assert len([image async for image in quaymirror.discover(selection, options(tmp_path))]) == 2
        assert [request.path for request in server.recorder.matching("/manifests/") if request.status == 200] == [
            "/v2/kolla/deep/image/manifests/2.0"
        ]


async def test_the_token_of_a_gitlab_job_pulls_named_images_and_is_told_that_it_cannot_list(tmp_path: Path) -> None:
    registry = content(Clock())
    registry.organization("kolla").repository("secret", public=False).push("1", small_image("secret"))
    job = Options.of(credentials=Credentials("gitlab-ci-token", Secret("job")), state=tmp_path / "state")
    async with GitLabServer(registry, accounts={"gitlab-ci-token": "job"}) as server:
        report = await quaymirror.sync(at(server, "gitlab", "secret,deep/image:1"), tmp_path / "mirror", job)
        assert (report.counts[Status.MIRRORED], report.exit_code) == (2, ExitCode.OK)
        refused = await quaymirror.sync(at(server, "gitlab", "*:1"), tmp_path / "mirror", job)
        assert refused.exit_code is ExitCode.CREDENTIALS
        assert refused.fatal is not None
        assert "write the names of repositories without wildcards" in refused.fatal.message


class GoogleServer(ForeignServer):
    """A registry whose lists of tags have the digests, as those of Google have."""

    def tag_list(self, request: web.BaseRequest, repo: Repository) -> web.Response:
        manifests: dict[str, Any] = {}
        for row in repo.tags():
            found = manifests.setdefault(row.manifest.digest, {"tag": [], "mediaType": row.manifest.media_type})
            found["tag"].append(row.name)

        manifests["nonsense"] = {"tag": ["1.0"]}
        manifests[f"sha256:{'0' * 64}"] = {"tag": ["1.1"], "imageSizeBytes": -1}
        manifests[f"sha256:{'1' * 64}"] = None
        names = sorted(row.name for row in repo.tags())
        return web.json_response({"name": repo.full_name, "child": [], "manifest": manifests, "tags": names})


async def test_lists_of_tags_at_google_have_the_digests(tmp_path: Path) -> None:
    registry = content(Clock(), 2, tags=("1.0", "1.1", "1.2", "2.0"))
    async with GoogleServer(registry, needs_token=False) as server:
        report = await quaymirror.sync(at(server, "registry", "*:1.*"), tmp_path / "mirror", options(tmp_path))
        assert (report.counts[Status.MIRRORED], report.exit_code) == (6, ExitCode.OK)
        answered = [request.path.rpartition("/")[2] for request in server.requests if request.status == 200]
        assert answered.count("list") == 2
        # Two digests claim to be 1.1: the registry is asked.
        assert {request.path.rpartition("/")[2] for request in server.requests if request.method == "HEAD"} == {"1.1"}


async def test_repositories_that_gitlab_is_deleting_are_left_out(tmp_path: Path) -> None:
    async with GitLabServer(content(Clock())) as server:
        server.deleting = frozenset({"kolla/image-1"})
        report = await quaymirror.sync(at(server, "gitlab", "*:1"), tmp_path / "mirror")
        assert (len(report.outcomes), report.exit_code) == (2, ExitCode.OK)


async def test_the_registry_of_a_gitlab_is_named_if_it_is_elsewhere(tmp_path: Path) -> None:
    async with GitLabServer(content(Clock())) as server:
        selection = Selection.parse_uri(f"gitlab://{server.host}/kolla/*:1?insecure=true&registry=http://localhost:1")
        report = await quaymirror.sync(selection, tmp_path / "mirror")
        assert report.fatal is not None
        assert report.fatal.kind is HostUnusable
        assert f"its images are at '{server.host}', not at localhost:1: add ?registry=" in report.fatal.message


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("harbor://", "not a host"),
        ("harbor://host", "PROJECT is missing"),
        ("harbor://host/p/*:1?api=http://x", "harbor:// has no option 'api'; it has insecure"),
        ("harbor://user:secret@host/p/*:1", "takes no credentials"),
        ("hub://docker.io/library/nginx:1", "hub:// takes no host"),
        ("hub://library/nginx:1?api=ftp://x", "api is not a URL"),
        ("hub://library/nginx:1?registry=https://x/path", "registry has more than a host"),
        ("ghcr://", "OWNER is missing"),
        ("gitlab://host/Group/[:1", "not a valid glob"),
        ("gitlab://host/gg/*:1?insecure=maybe", "insecure is true or false"),
        ("harbor://host/p/*:1?insecure=true&insecure=false", "insecure is given twice"),
        ("gitlab://host/gg/*:1?registry=http://x&registry=http://y", "registry is given twice"),
        ("registry://host/*:1?api=http://x", "registry:// has no option 'api'; it has insecure"),
        ("harbor://host/Project/*:1", "not a project name: 'Project'; names have lower-case letters"),
        ("hub://-x/*:1", "not a namespace name: '-x'"),
        ("ghcr://a!/*:1", "not an owner name: 'a!'"),
        ("gitlab://host/_/*:1", "not a group name: '_'"),
        # A variable of the shell without a value
        ("hub://library/nginx:", "not a tag: ''"),
        ("hub://library/:1", "not a valid glob: ''; write \\* for every repository"),
        ("registry://host/team/api:", "not a tag: ''"),
        ("registry://host/:1", "not a valid glob: ''"),
        ("harbor://host/p/:1", "not a valid glob: ''"),
    ],
)
def test_addresses_are_checked_before_any_request(address: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Selection.parse_uri(address)

    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    "address",
    [
        "harbor://harbor.example:8443/kolla/nova-*,glance:1,2*?insecure=true&since=2025-01-01",
        "hub://library/nginx:1.27",
        "ghcr://owner/app/web:latest?api=https://ghe.example/api/v3&registry=https://containers.ghe.example",
        "gitlab://gitlab.example/group/sub/project/*:latest",
    ],
)
def test_addresses_are_spelt_as_they_are_read(address: str) -> None:
    selection = Selection.parse_uri(address)
    assert Selection.parse_uri(str(selection)) == selection
    assert str(selection) == address


@pytest.mark.parametrize("address", ["harbor://h/p/*:1", "ghcr://a/*:1", "gitlab://h/a--b/*:1", "hub://a_b/*:1"])
def test_names_that_other_registries_allow_are_legal(address: str) -> None:
    assert Selection.parse_uri(address).organization


@pytest.mark.parametrize("kind", ["harbor", "gitlab"])
@pytest.mark.parametrize("status", [200, 404])
async def test_the_error_of_an_address_with_the_wrong_kind_names_another(
    kind: str, status: int, tmp_path: Path
) -> None:
    async with ForeignServer(content(Clock()), needs_token=False) as server:

        def page(request: web.BaseRequest) -> web.Response | None:
            is_api = request.path.startswith("/api")
            return web.Response(text="<html>", content_type="text/html", status=status) if is_api else None

        server.overrides.append(page)
        report = await quaymirror.sync(at(server, kind, "*:1"), tmp_path / "mirror", options(tmp_path, retries=0))
        assert report.exit_code is ExitCode.UNAVAILABLE
        assert report.fatal is not None
        advice = f"if {server.host} is not a {kind}, write registry://{server.host}/kolla/GLOB:TAG"
        assert report.fatal.message.lower().endswith(advice.lower())


def test_defaults_of_addresses() -> None:
    hub, ghcr, gitlab = (
        Selection.parse_uri(text) for text in ("hub://library", "ghcr://Owner/app", "gitlab://gitlab.com/Group/*:1")
    )
    assert [(each.organization, each.globs, each.tags) for each in (hub, ghcr, gitlab)] == [
        ("library", ("*",), ("latest",)),
        ("owner", ("app",), ("latest",)),
        ("group", ("*",), ("1",)),
    ]
    assert [each.source and (each.source.api_url, str(each.source.origin)) for each in (hub, ghcr, gitlab)] == [
        ("https://hub.docker.com", "https://registry-1.docker.io"),
        ("https://api.github.com", "https://ghcr.io"),
        ("https://gitlab.com", "https://registry.gitlab.com"),
    ]
