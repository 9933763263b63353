"""Random secrets and random failures: no message, no chained exception and no repr contains a secret."""

from __future__ import annotations

import base64
import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quaymirror.auth.authfile import normalize_registry, normalize_server
from quaymirror.auth.credentials import CredentialStore
from quaymirror.auth.files import read_secret_file, read_secret_stdin
from quaymirror.auth.helper import ask_helper
from quaymirror.errors import ConfigError
from quaymirror.secret import Credentials, Secret

# Like nothing that a message says: random text can be a piece of one, and the generator tries words of the source.
_MARK = "~Zq7#"
printable = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=7, max_size=55).map(_MARK.__add__)
secrets = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=7, max_size=55).map(_MARK.__add__)
breakers = st.sampled_from(["\n", "\0", "\x1b", "\x85", "\x7f"])


def everything_said(error: BaseException | None) -> Iterator[str]:
    """All that a traceback or a debugger's `vars` would print of an exception and the ones behind it."""
    while error is not None:
        yield f"{error} {error!r} {error.args!r} {vars(error)!r}"
        # JSONDecodeError.doc and UnicodeDecodeError.object are not in vars().
        yield repr([getattr(error, name, None) for name in ("doc", "object")])
        error = error.__context__


def check_silent(error: BaseException, *hidden: str) -> None:
    said = "\n".join(everything_said(error))
    for text in hidden:
        assert text not in said
        assert repr(text)[1:-1] not in said


def pair(username: str, password: str) -> str:
    return base64.b64encode(f"{username}:{password}".encode()).decode()


@given(secrets)
def test_good_secret_shows_up_only_on_demand(value: str) -> None:
    secret = Secret(value)
    credentials = Credentials("user", secret)
    assert secret.reveal() == value
    assert value not in f"{secret}{secret!r}{credentials}{credentials!r}{credentials.basic()!r}"
    encoded = credentials.basic().header_value().removeprefix("Basic ")
    assert base64.b64decode(encoded).decode() == f"user:{value}"


@given(secrets, breakers)
def test_bad_secret_is_not_in_its_error(value: str, breaker: str) -> None:
    bad = value + breaker + value
    with pytest.raises(ConfigError) as caught:
        Secret(bad)
    check_silent(caught.value, value)
    with pytest.raises(ConfigError) as caught:
        Credentials(bad, Secret(value))
    check_silent(caught.value, value)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "token"
        for data in (bad.encode(), value.encode() + b"\xff", value.encode() * 6000):
            path.write_bytes(data)
            with pytest.raises(ConfigError) as caught:
                read_secret_file(path)
            check_silent(caught.value, value)
            with pytest.raises(ConfigError) as caught:
                read_secret_stdin(io.BytesIO(data))
            check_silent(caught.value, value)


@given(secrets.filter(lambda value: not value.isascii()))
def test_header_error_does_not_hold_the_token(value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Secret(value).header_value()
    check_silent(caught.value, value)


@given(secrets.filter(lambda value: ":" not in value), breakers)
@settings(max_examples=30, deadline=None)
def test_broken_auth_files_do_not_tell(value: str, breaker: str) -> None:
    bad = value + breaker + value
    entries: list[object] = [
        value,
        [value],
        {"auth": value + "!"},
        {"auth": [value]},
        {"auth": pair("user", bad)},
        {"auth": pair(bad, value)},
        {"auth": base64.b64encode(value.encode()).decode()},
        {"auth": base64.b64encode(b"u:" + value.encode() + b"\xff").decode()},
        {"identitytoken": bad},
        {"identitytoken": {value: value}},
        {"registrytoken": value},
        {"password": value},
        {"username": "u", "password": bad},
        {"username": bad, "password": value},
    ]
    documents = [json.dumps({"auths": {"quay.io": entry}}) for entry in entries]
    documents += [
        documents[4][:-1],
        json.dumps(value),
        json.dumps({"auths": value}),
        json.dumps({"credHelpers": value}),
    ]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "auth.json"
        for document in documents:
            path.write_text(document)
            with pytest.raises(ConfigError) as caught:
                anyio.run(CredentialStore(authfile=path, env={}).find, "quay.io")
            check_silent(caught.value, value, pair("user", bad), pair(bad, value))


@given(printable, st.integers(0, 5))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_broken_helpers_do_not_tell(value: str, way: int) -> None:
    answer = {"Username": "u", "Secret": value, "ServerURL": "quay.io"}
    output, code = [
        (value, 1),
        (value, 0),
        (json.dumps(answer)[:-1], 0),
        (json.dumps(answer | {"ServerURL": value}), 0),
        (json.dumps(answer | {"Username": value + ":"}), 0),
        (json.dumps(answer | {"Secret": value + "\n"}), 0),
    ][way]
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "answer").write_text(output)
        program = Path(directory) / "docker-credential-x"
        program.write_text(f"#!/bin/sh\ncat {directory}/answer\ncat {directory}/answer >&2\nexit {code}\n")
        program.chmod(0o755)
        with pytest.raises(ConfigError) as caught:
            anyio.run(lambda: ask_helper("x", "quay.io", env={"PATH": f"{directory}:/usr/bin:/bin"}))
        check_silent(caught.value, value)


@given(st.text())
def test_normal_form_is_stable_and_lower_case_ascii(text: str) -> None:
    for normalize in (normalize_registry, normalize_server):
        normal = normalize(text)
        if normal is not None:
            assert normal.isascii()
            assert normal == normal.lower()
            assert normalize_registry(normal) == normal


@given(st.from_regex(r"[a-z0-9.-]{1,12}", fullmatch=True), st.from_regex(r"[a-z0-9.-]{1,12}", fullmatch=True))
def test_host_beside_another_is_another(left: str, right: str) -> None:
    for other in (left + right, right + left, f"{left}.{right}", f"{left}@{right}", f"{left}:1{right}"):
        first, second = normalize_server(left), normalize_server(f"https://{other}/v1/")
        assert first is None or second is None or first != second
