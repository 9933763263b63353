"""Addresses of target registries, and those that are refused before the first request."""

from __future__ import annotations

from pathlib import Path

import pytest

from quaymirror import Options, Selection
from quaymirror.errors import ConfigError, InvalidName
from quaymirror.targets.derived import DerivedSpec
from quaymirror.targets.kinds import parse_target
from quaymirror.targets.registry import RegistrySpec
from quaymirror.targets.registry_address import parse_address

SELECTION = Selection("kolla", "*", "2025.1")
NAME = "kolla/nova-api:2025.1"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("registry://mirror.example", "mirror.example/kolla/nova-api:2025.1"),
        ("registry://mirror.example/", "mirror.example/kolla/nova-api:2025.1"),
        ("registry://mirror.example:5000/a/b", "mirror.example:5000/a/b/kolla/nova-api:2025.1"),
        ("registry://mirror.example/mirror/{repo}", "mirror.example/mirror/nova-api:2025.1"),
        ("registry://mirror.example/mirror/{repo}:{tag}-staging", "mirror.example/mirror/nova-api:2025.1-staging"),
        ("registry://mirror.example/{org}-{tag}/{repo}:stable", "mirror.example/kolla-2025.1/nova-api:stable"),
        ("registry://mirror.example/all:{repo}", "mirror.example/all:nova-api"),
    ],
)
def test_an_address_gives_each_image_its_name(text: str, place: str) -> None:
    assert parse_address(text).place(NAME).full_name == place


def test_repositories_in_repositories_keep_their_path() -> None:
    assert parse_address("registry://r.example/x").place("org/a/b:t").full_name == "r.example/x/org/a/b:t"


def test_plain_http_is_used_only_on_request() -> None:
    assert parse_address("registry://mirror.example").origin.is_secure
    assert not parse_address("registry://mirror.example?insecure=true").origin.is_secure
    assert parse_address("registry://mirror.example?insecure=false").origin.is_secure


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("registry://", "not a registry"),
        ("registry://a b", "not a registry"),
        ("registry://user:secret@mirror.example", "credentials are not allowed"),
        ("registry://mirror.example/one:latest", "add {repo} to it"),
        ("registry://mirror.example/Upper", "no usable names"),
        ("registry://mirror.example/../x", "no usable names"),
        ("registry://mirror.example/{repo}:{nope}", "no usable names"),
        ("registry://mirror.example?insecure=maybe", "true or false"),
        ("registry://mirror.example?compress=1", "no option 'compress'"),
    ],
)
def test_an_invalid_registry_address_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        parse_target(text, SELECTION, Options())

    assert "secret" not in caught.value.message


def test_images_are_not_pushed_to_their_source() -> None:
    with pytest.raises(ConfigError, match="source of the images"):
        parse_target("registry://quay.io", SELECTION, Options())

    assert isinstance(parse_target("registry://quay.io/backup", SELECTION, Options()), RegistrySpec)


def test_several_tags_need_a_name_each() -> None:
    several = Selection("kolla", "*", "2025.*,latest")
    assert isinstance(parse_target("registry://r.example/{repo}", several, Options()), RegistrySpec)
    with pytest.raises(ConfigError, match="several tags the same name"):
        parse_target("registry://r.example/{repo}:stable", several, Options())


def test_a_name_that_is_not_a_valid_tag_fails_its_image() -> None:
    with pytest.raises(InvalidName):
        parse_address("registry://r.example/all:{repo}").place("org/a/b:t")


def test_filters_make_it_a_derived_target() -> None:
    spec = parse_target("registry://r.example/x", SELECTION, Options.of(filters=("normalize-timestamps",)))
    assert isinstance(spec, DerivedSpec)


def state_of(text: str, settings: Options) -> Path:
    return settings.state_directory(str(parse_address(text)))


def test_each_address_has_a_state_of_its_own() -> None:
    settings = Options.of(environment={"HOME": "/home/me"})
    one = state_of("registry://r.example/x", settings)
    assert one == state_of("registry://r.example/x/{org}/{repo}", settings)
    assert one != state_of("registry://r.example/y", settings)
    assert one.parent == Path("/home/me/.local/state/quaymirror")
    elsewhere = Options.of(environment={"HOME": "/home/me", "XDG_STATE_HOME": "/state"})
    assert state_of("registry://r.example/x", elsewhere).parent == Path("/state/quaymirror")
    named = Options.of(state=Path("s"))
    assert state_of("registry://r.example/x", named).parent == Path("s")
    assert state_of("registry://r.example/x", named) != state_of("registry://r.example/y", named)


def test_the_state_of_derived_images_in_a_registry_has_the_same_location() -> None:
    settings = Options.of(filters=("normalize-timestamps",), state=Path("s"))
    spec = parse_target("registry://r.example/x", SELECTION, settings)
    assert spec.state_directory(settings).parent.parent == Path("s")


def test_a_user_without_a_home_directory_gets_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)
    with pytest.raises(ConfigError, match="set HOME or use --state"):
        state_of("registry://r.example/x", Options())


def test_credentials_can_be_limited_to_the_common_start_of_all_names() -> None:
    assert parse_address("registry://r.example").namespace == ""
    assert parse_address("registry://r.example/a/b").namespace == "a/b"
    assert parse_address("registry://r.example/a/b-{repo}").namespace == "a"


@pytest.mark.parametrize(
    ("text", "is_one_to_one"),
    [
        ("registry://r.example", True),
        ("registry://r.example/a", True),
        ("registry://r.example/a/{org}/{repo}:x-{tag}", True),
        ("registry://r.example/a/{repo}", False),
        ("registry://r.example/a/{org}-{repo}", False),
        ("registry://r.example/a/{org}/{repo}:latest", False),
    ],
)
def test_an_address_is_one_to_one_if_no_two_images_share_a_name(text: str, is_one_to_one: bool) -> None:
    assert parse_address(text).is_one_to_one == is_one_to_one
