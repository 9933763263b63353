"""Tokens: requested when a registry needs one, from allowed services only, and used within their limits only."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
from clocks import ManualClock
from hypothesis import given
from hypothesis import strategies as st

from quaymirror.auth.challenge import parse_challenges, parse_token, sort_by_grant
from quaymirror.auth.tokens import TokenAuth
from quaymirror.errors import (
    AccessDenied,
    ConfigError,
    CredentialsRefused,
    QuaymirrorError,
    ServiceError,
    Unavailable,
    UnsafeRedirect,
)
from quaymirror.http.guard import AddressGuard, AddressRefused, is_public
from quaymirror.http.origin import Origin, follow
from quaymirror.secret import Credentials, Secret

SCOPE = "repository:kolla/nova:pull"
GOOD = 'Bearer realm="https://quay.io/v2/auth",service="quay.io"'


def jwt(**claims: Any) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{payload}.c2ln"


class TokenService:
    """A client that records requests and gives prepared answers."""

    def __init__(self, token: str = "", error: QuaymirrorError | None = None) -> None:
        self.asked: list[tuple[str, Secret | None]] = []
        self.forms: list[dict[str, str]] = []
        self.refresh_token: str | None = None
        self.token = token or jwt(iat=0, exp=3600, access=[{"type": "repository", "name": "x", "actions": []}])
        self.error = error

    async def ask(self, url: str, authorization: Secret | None, form: Secret | None) -> bytes:
        self.asked.append((url, authorization))
        if form is not None:
            self.forms.append(dict(parse_qsl(form.reveal())))

        if self.error is not None:
            raise self.error

        return json.dumps({"token": self.token, "refresh_token": self.refresh_token}).encode()


def make_auth(
    service: TokenService,
    *,
    origin: str = "https://quay.io",
    realms: frozenset[str] = frozenset(),
    clock: ManualClock | None = None,
    credentials: Credentials | None = None,
) -> TokenAuth:
    async def find() -> Credentials | None:
        return credentials

    return TokenAuth(
        Origin.of(origin),
        ask=service.ask,
        find_credentials=find,
        allowed_realms=realms,
        clock=clock or ManualClock(),
    )


async def test_a_token_is_asked_for_once_and_renewed_before_it_expires() -> None:
    service, clock = TokenService(), ManualClock()
    auth = make_auth(service, clock=clock)
    assert await auth.header(SCOPE) is None
    assert await auth.challenged([GOOD], SCOPE, None)
    assert await auth.header(SCOPE) is not None
    clock.now += 3590
    assert await auth.header(SCOPE) is None
    query = parse_qs(urlsplit(service.asked[0][0]).query)
    assert query == {"service": ["quay.io"], "scope": [SCOPE]}


IDENTITY = Credentials.identity_token(Secret("first"), source="auth file /x/auth.json, entry for quay.io")


async def test_an_identity_token_is_exchanged_as_oauth2_wants_it_and_is_never_in_a_url() -> None:
    service = TokenService()
    auth = make_auth(service, credentials=IDENTITY)
    assert await auth.challenged([GOOD], f"{SCOPE} repository:kolla/base:pull", None)
    assert service.asked == [("https://quay.io/v2/auth", None)]
    assert service.forms == [
        {
            "grant_type": "refresh_token",
            "service": "quay.io",
            "client_id": "quaymirror",
            "access_type": "online",
            "scope": f"{SCOPE} repository:kolla/base:pull",
            "refresh_token": "first",
        }
    ]


async def test_an_identity_token_that_the_service_replaces_is_not_used_again() -> None:
    service, clock = TokenService(), ManualClock()
    service.refresh_token = "second"
    auth = make_auth(service, credentials=IDENTITY, clock=clock)
    for _ in range(2):
        await auth.challenged([GOOD], SCOPE, None)
        clock.now += 3600

    assert [form["refresh_token"] for form in service.forms] == ["first", "second"]


@pytest.mark.parametrize("error", [AccessDenied("401", status=401), ServiceError("400", status=400)])
async def test_a_rejected_identity_token_is_named_by_its_file_and_not_tried_again(error: QuaymirrorError) -> None:
    service = TokenService(error=error)
    auth = make_auth(service, credentials=IDENTITY)
    for _ in range(2):
        with pytest.raises(CredentialsRefused, match=r"quay\.io rejects the identity token \(auth file /x/auth\.json"):
            await auth.challenged([GOOD], SCOPE, None)

    assert len(service.forms) == 1


async def test_a_registry_that_wants_a_password_gets_no_identity_token() -> None:
    service = TokenService()
    with pytest.raises(ConfigError, match=r"quay\.io wants a password: the identity token \(auth file /x/auth\.json"):
        await make_auth(service, credentials=IDENTITY).challenged(["Basic"], SCOPE, None)


async def test_thirty_repositories_share_a_token_and_no_more() -> None:
    service = TokenService()
    scopes = [f"repository:kolla/image-{number:02}:pull" for number in range(40)]
    await make_auth(service).challenged([GOOD], " ".join(scopes), None)
    assert len(parse_qs(urlsplit(service.asked[0][0]).query)["scope"]) == 30


@pytest.mark.parametrize(
    ("realm", "says"),
    [
        ("https://evil.example/token", "add --allow-realm evil.example if you trust it"),
        ("https://quay.io.evil.example/token", "another host"),
        ("https://quay.io:8443/token", "another host"),
        ("http://quay.io/v2/auth", "plain HTTP"),
        ("https://me:pw@quay.io/v2/auth", "no place in a URL"),
        ("file:///etc/passwd", "not an http"),
        ("", "not an http"),
        ("https://[::1", "not a URL"),
    ],
)
async def test_a_realm_that_is_none_of_the_registry_s_sees_nothing(realm: str, says: str) -> None:
    service = TokenService()
    auth = make_auth(service, credentials=Credentials("me", Secret("password")))
    with pytest.raises(UnsafeRedirect, match=says):
        await auth.challenged([f'Bearer realm="{realm}"'], SCOPE, None)

    assert service.asked == []


@pytest.mark.parametrize("allowed", ["auth.example", "auth.example:8443"])
async def test_an_allowed_realm_gets_the_credentials(allowed: str) -> None:
    service = TokenService()
    auth = make_auth(service, realms=frozenset({allowed}), credentials=Credentials("me", Secret("password")))
    await auth.challenged(['Bearer realm="https://auth.example:8443/token"'], SCOPE, None)
    assert service.asked[0][1] is not None


async def test_an_allowed_realm_is_still_no_reason_for_plain_http() -> None:
    service = TokenService()
    with pytest.raises(UnsafeRedirect, match="plain HTTP"):
        await make_auth(service, realms=frozenset({"auth.example"})).challenged(
            ['Bearer realm="http://auth.example/token"'], SCOPE, None
        )


async def test_wrong_credentials_end_the_run_and_are_not_named() -> None:
    service = TokenService(error=AccessDenied("401", status=401))
    auth = make_auth(service, credentials=Credentials("me", Secret("pass-canary")))
    with pytest.raises(CredentialsRefused) as caught:
        await auth.challenged([GOOD], SCOPE, None)

    assert "pass-canary" not in caught.value.message


async def test_only_a_token_that_says_so_allows() -> None:
    access = [{"type": "repository", "name": "kolla/nova", "actions": ["pull"]}]
    auth = make_auth(TokenService(jwt(access=access)))
    await auth.challenged([GOOD], SCOPE, None)
    assert auth.allows(SCOPE)
    assert not auth.allows("repository:kolla/glance:pull")
    assert not auth.allows(None)


@pytest.mark.parametrize(
    "access",
    [[], None, 5, [5], [{"type": "repository", "name": "kolla/nova", "actions": []}], [{"actions": ["pull"]}]],
    ids=repr,
)
def test_a_token_without_rights_grants_nothing(access: object) -> None:
    assert SCOPE not in sort_by_grant(jwt(access=access), [SCOPE])[0]


@given(st.lists(st.text(), max_size=3))
def test_no_challenge_breaks_anything(fields: list[str]) -> None:
    for challenge in parse_challenges(fields):
        assert challenge.scheme == challenge.scheme.lower()


@given(st.one_of(st.binary(), st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps)))
def test_any_answer_of_a_token_service_is_a_token_or_refused(body: bytes | str) -> None:
    try:
        token, seconds, _ = parse_token(body if isinstance(body, bytes) else body.encode())
    except Unavailable:
        return

    assert token.isascii()
    assert 30 <= seconds <= 3600


@given(st.dictionaries(st.sampled_from(["token", "access_token", "expires_in"]), st.text() | st.floats() | st.none()))
def test_any_fields_of_a_token_service_are_a_token_or_refused(fields: dict[str, object]) -> None:
    try:
        seconds = parse_token(json.dumps(fields).encode()).lifetime
    except Unavailable:
        return

    assert 30 <= seconds <= 3600


@given(st.dictionaries(st.sampled_from(["iat", "nbf", "exp", "access"]), st.floats() | st.text() | st.lists(st.text())))
def test_any_claims_of_a_token_are_survived(claims: dict[str, object]) -> None:
    seconds = parse_token(json.dumps({"token": jwt(**claims)}).encode()).lifetime
    assert 30 <= seconds <= 3600
    assert SCOPE not in sort_by_grant(jwt(**claims), [SCOPE])[0]


@given(st.text(), st.sampled_from(["https://quay.io/v2/x", "http://quay.io:8080/x"]))
def test_any_location_is_an_address_of_the_web_or_refused(location: str, base: str) -> None:
    try:
        url = follow(base, location)
    except UnsafeRedirect:
        return

    assert Origin.of(url).is_secure or not base.startswith("https")


PRIVATE_V4 = ["127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1"]
PRIVATE_V6 = ["::1", "fe80::1%eth0", "fd00::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"]


@pytest.mark.parametrize("address", [*PRIVATE_V4, *PRIVATE_V6])
def test_a_public_registry_leads_to_no_private_address(address: str) -> None:
    assert not is_public(address)
    with pytest.raises(AddressRefused):
        AddressGuard().guarded_socket((2, 1, 6, "", (address, 80)))


def test_a_registry_at_a_private_address_may_have_its_storage_there() -> None:
    guard = AddressGuard()
    guard.trusted_socket((2, 1, 6, "", ("10.0.0.1", 443))).close()
    guard.guarded_socket((2, 1, 6, "", ("10.0.0.2", 443))).close()
