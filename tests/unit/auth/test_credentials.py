from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from quaymirror.auth.credentials import CredentialStore
from quaymirror.errors import ConfigError


def auth(pair: str) -> dict[str, str]:
    return {"auth": base64.b64encode(pair.encode()).decode()}


def write(path: Path, document: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


async def user(path: Path | None, registry: str, repository: str | None = None, **env: str) -> str | None:
    found = await CredentialStore(authfile=path, env=env).find(registry, repository)
    return found.username if found else None


NAMESPACED = {
    "auths": {
        "quay.io": auth("host:p"),
        "quay.io/kolla": auth("namespace:p"),
        "quay.io/kolla/nova": auth("repository:p"),
    }
}


@pytest.mark.parametrize(
    ("repository", "expected"),
    [
        (None, "host"),
        ("other/nova", "host"),
        ("kolla", "namespace"),
        ("kolla/nova", "repository"),
        ("kolla/nova/deeper", "repository"),
        ("kolla/nova-api", "namespace"),
        ("kollaborate/nova", "host"),
        ("Kolla/nova", "host"),
    ],
)
async def test_longest_key_wins_by_whole_path_components(repository: str | None, expected: str, tmp_path: Path) -> None:
    assert await user(write(tmp_path / "a.json", NAMESPACED), "quay.io", repository) == expected


@pytest.mark.parametrize(
    "registry",
    [
        "quay.io.evil.test",
        "evil.quay.io",
        "evilquay.io",
        "quay.i",
        "uay.io",
        "quay.io:8443",
        "quay.io:80",
        "quayXio",
        "io",
    ],
)
@pytest.mark.parametrize("key", ["quay.io", "https://quay.io", "https://quay.io/v1/", "quay.io/kolla"])
async def test_other_hosts_get_nothing(registry: str, key: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {"auths": {key: auth("u:p")}, "credHelpers": {"quay.io": "must-not-run"}})
    assert await user(path, registry, "kolla/nova") is None
    assert await user(path, registry) is None


@pytest.mark.parametrize(
    ("key", "registry", "is_found"),
    [
        ("quay.io", "QUAY.io", True),
        ("Quay.IO", "quay.io:443", True),
        ("quay.io:443", "quay.io", True),
        ("localhost:5000", "localhost:5000", True),
        ("localhost", "localhost:5000", False),
        ("[::1]:5000", "[::1]:5000", True),
        ("https://quay.io/v1/", "quay.io", True),
        ("https://quay.io/v2/", "quay.io", True),
        ("https://quay.io", "quay.io", True),
        ("https://quay.io:443/", "quay.io", True),
        ("https://quay.io/v1/x", "quay.io", False),
        ("http://quay.io/v1/", "quay.io", False),
        ("http://quay.io/v1/", "quay.io:80", True),
        ("http://localhost:5000/v1/", "localhost:5000", True),
        ("https://quay.io@evil.test/v1/", "evil.test", False),
        ("quay.io/", "quay.io", False),
        ("\u212auay.io", "kuay.io", False),
        ("quay.io\n", "quay.io", False),
    ],
)
async def test_keys_name_exactly_one_origin(key: str, registry: str, is_found: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {"auths": {key: auth("u:p")}})
    assert (await user(path, registry) == "u") is is_found


async def test_exact_key_is_before_other_spellings(tmp_path: Path) -> None:
    keys = ["https://quay.io/v1/", "QUAY.IO", "quay.io"]
    for order in (keys, keys[::-1]):
        path = write(tmp_path / "a.json", {"auths": {key: auth(f"{keys.index(key)}:p") for key in order}})
        assert await user(path, "quay.io") == "2"


@pytest.mark.parametrize(
    "registry", ["", "https://quay.io", "user:pass@quay.io", "quay.io/kolla", "quay.io\n", "a b", "quay.io:"]
)
async def test_registry_must_be_host_and_port(registry: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        await user(None, registry)
    assert "pass@" not in caught.value.message


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (auth("user:pass:with:colons"), ("user", "pass:with:colons")),
        (auth("user:pass\0\0"), ("user", "pass")),
        (auth("org+robot:ü"), ("org+robot", "ü")),
        ({"username": "user", "password": "pass"}, ("user", "pass")),
        ({**auth("user:pass"), "username": "x", "password": "y", "email": 1}, ("user", "pass")),
        ({**auth("000:"), "identitytoken": "refresh"}, ("<token>", "refresh")),
        (auth("<token>:refresh"), ("<token>", "refresh")),
        ({}, None),
        ({"email": "a@b"}, None),
        ({"auth": ""}, None),
        ({"auth": None}, None),
    ],
)
async def test_entries(entry: object, expected: tuple[str, str] | None, tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {"auths": {"quay.io": entry}})
    found = await CredentialStore(authfile=path, env={}).find("quay.io")
    assert (found and (found.username, found.secret.reveal())) == expected


async def test_empty_entry_leaves_the_answer_to_a_shorter_key(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {"auths": {"quay.io/kolla": {}, "quay.io": auth("u:p")}})
    assert await user(path, "quay.io", "kolla/nova") == "u"


BAD_DOCUMENTS: list[Any] = [
    "",
    "{",
    "[]",
    "null",
    '"text"',
    "[" * 100_000,
    "1" * 5000,
    '{"auths": []}',
    '{"auths": {"quay.io": 1}}',
    '{"auths": {"quay.io": {"auth": 1}}}',
    '{"credsStore": 1}',
    '{"credHelpers": []}',
    '{"credHelpers": {"quay.io": 1}}',
    {"auths": {"quay.io": {"auth": "!!!"}}},
    {"auths": {"quay.io": {"auth": "\u00fc"}}},
    {"auths": {"quay.io": {"username": "u"}}},
    {"auths": {"quay.io": {"registrytoken": "t"}}},
    {"auths": {"quay.io": auth("no colon")}},
    {"auths": {"quay.io": auth("user:")}},
    {"auths": {"quay.io": auth(":pass")}},
    {"auths": {"quay.io": auth("us\ner:pass")}},
    {"auths": {"quay.io": auth("user:pa\nss")}},
    {"auths": {"quay.io": {"auth": base64.b64encode(b"u:\xff").decode()}}},
    {"auths": {"quay.io": {"identitytoken": "a\nb"}}},
]


@pytest.mark.parametrize("document", BAD_DOCUMENTS, ids=range(len(BAD_DOCUMENTS)))
async def test_bad_file_is_an_error_that_names_it_named_or_not(document: object, tmp_path: Path) -> None:
    path = write(tmp_path / "home/.docker/config.json", document)
    for authfile, env in (
        (path, {}),
        (None, {"HOME": str(tmp_path / "home")}),
        (None, {"REGISTRY_AUTH_FILE": str(path)}),
    ):
        with pytest.raises(ConfigError) as caught:
            await CredentialStore(authfile=authfile, env=env).find("quay.io")
        assert str(path) in caught.value.message
        assert "\n" not in caught.value.message


async def test_file_over_the_limit_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", "{}" + " " * 1024 * 1024)
    with pytest.raises(ConfigError, match="larger than"):
        await user(path, "quay.io")


async def test_missing_file_is_an_error_only_if_it_was_named(tmp_path: Path) -> None:
    missing = tmp_path / "no/such.json"
    with pytest.raises(ConfigError, match=r"no/such\.json"):
        await user(missing, "quay.io")
    with pytest.raises(ConfigError, match=r"no/such\.json"):
        await user(None, "quay.io", REGISTRY_AUTH_FILE=str(missing))
    write(tmp_path / "file", "")
    env = {"HOME": str(tmp_path / "nobody"), "DOCKER_CONFIG": str(tmp_path / "file")}
    assert await user(None, "quay.io", **env) is None
    assert await user(None, "quay.io") is None


async def test_default_that_is_there_and_no_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / ".docker/config.json").mkdir(parents=True)
    with pytest.raises(ConfigError, match="not a regular file"):
        await user(None, "quay.io", HOME=str(tmp_path))


async def test_places_are_looked_into_in_order(tmp_path: Path) -> None:
    places = {
        "option": tmp_path / "option.json",
        "variable": tmp_path / "variable.json",
        "runtime": tmp_path / "run/containers/auth.json",
        "xdg": tmp_path / "xdg/containers/auth.json",
        "config": tmp_path / "home/.config/containers/auth.json",
        "docker_config": tmp_path / "docker/config.json",
        "docker": tmp_path / "home/.docker/config.json",
    }
    for name, path in places.items():
        write(path, {"auths": {"quay.io": auth(f"{name}:p")}})

    env = {
        "REGISTRY_AUTH_FILE": str(places["variable"]),
        "XDG_RUNTIME_DIR": str(tmp_path / "run"),
        "XDG_CONFIG_HOME": str(tmp_path / "xdg"),
        "DOCKER_CONFIG": str(tmp_path / "docker"),
        "HOME": str(tmp_path / "home"),
    }
    assert await user(places["option"], "quay.io", **env) == "option"
    assert await user(places["option"], "other.test", **env) is None
    assert await user(None, "quay.io", **env) == "variable"
    env["REGISTRY_AUTH_FILE"] = ""
    assert await user(None, "quay.io", **env) == "runtime"
    places["runtime"].unlink()
    assert await user(None, "quay.io", **env) == "xdg"
    del env["XDG_CONFIG_HOME"]
    assert await user(None, "quay.io", **env) == "config"
    places["config"].unlink()
    assert await user(None, "quay.io", **env) == "docker_config"
    del env["DOCKER_CONFIG"]
    assert await user(None, "quay.io", **env) == "docker"


async def test_next_file_is_asked_when_the_first_knows_nothing(tmp_path: Path) -> None:
    write(tmp_path / "run/containers/auth.json", {"auths": {"other.test": auth("o:p"), "quay.io": {}}})
    write(tmp_path / ".docker/config.json", {"auths": {"quay.io": auth("u:p")}})
    assert await user(None, "quay.io", HOME=str(tmp_path), XDG_RUNTIME_DIR=str(tmp_path / "run")) == "u"


async def test_file_is_read_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", NAMESPACED)
    store = CredentialStore(authfile=path, env={})
    users: list[str | None] = []

    async def ask() -> None:
        found = await store.find("quay.io")
        users.append(found.username if found else None)

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(ask)

    path.unlink()
    await ask()
    assert users == ["host"] * 21


async def test_failure_is_an_outcome_and_each_caller_gets_an_own_exception(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", "{")
    store = CredentialStore(authfile=path, env={})
    with pytest.raises(ConfigError) as first:
        await store.find("quay.io")
    write(path, NAMESPACED)
    with pytest.raises(ConfigError) as second:
        await store.find("quay.io")
    assert first.value.message == second.value.message
    assert first.value is not second.value


def test_repr_has_paths_only(tmp_path: Path) -> None:
    env: Mapping[str, str] = {"HOME": "/home/user", "QUAYMIRROR_API_TOKEN": "hunter2"}
    assert "hunter2" not in repr(CredentialStore(authfile=None, env=env))
