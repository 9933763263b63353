from __future__ import annotations

from collections.abc import Callable

import pytest

from quaymirror.testing import Registry, Repository, SourceManifest, make_artifact, make_image, make_index, make_layer


class Clock:
    """A clock that tests set."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def image(seed: int) -> SourceManifest:
    return make_image([make_layer(seed, 600)])


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def repository(clock: Clock) -> Repository:
    return Registry(now=clock).organization("kolla").repository("nova-api")


def test_last_modified_follows_every_event_as_quays_does(clock: Clock, repository: Repository) -> None:
    one, two, three = image(1), image(2), image(3)
    events: list[Callable[[], object]] = [
        lambda: repository.push("A", one),
        lambda: repository.push("B", two),
        lambda: repository.push("A", one),
        lambda: repository.push("A", three),
        lambda: repository.restore("A", one.digest),
        lambda: repository.set_expiry("B", 9000),
        lambda: repository.delete_tag("A"),
        lambda: setattr(clock, "now", 9000),
    ]
    seen = [repository.last_modified]
    for event in events:
        event()
        seen.append(repository.last_modified)
        clock.now += 10

    assert seen == [None, 1000, 1010, 1020, 1030, 1040, 1040, 1010, None]


def test_history_keeps_one_row_per_push_newest_first(clock: Clock, repository: Repository) -> None:
    repository.push("A", image(1))
    clock.now = 1010.5
    repository.push("A", image(1))
    clock.now = 1020
    repository.restore("A", image(1).digest)
    rows = [(row.start_ts, row.end_ts, row.reversion) for row in repository.tags(only_active=False)]

    assert rows == [(1020, None, True), (1010, 1020, False), (1000, 1010, False)]
    assert [row.start_ts for row in repository.tags()] == [1020]


def test_a_dead_tags_manifest_is_unknown_at_once_but_its_blobs_stay(repository: Repository) -> None:
    first = image(1)
    repository.push("A", first)
    repository.push("A", image(2))

    assert repository.manifest(first.digest) is None
    assert repository.blob(first.blobs[0].digest) == first.blobs[0]


def test_children_and_attached_manifests_are_reachable_until_lost(repository: Repository) -> None:
    child = image(1)
    repository.push("multi", make_index([(child, "linux/amd64")]))
    artifact = make_artifact("text/sbom", b"x", subject=child)
    repository.attach(artifact)
    assert repository.manifest(child.digest) == child
    assert repository.manifest(artifact.digest) == artifact

    repository.lose(child.digest)
    assert repository.manifest(child.digest) is None


@pytest.mark.parametrize("call", ["delete_tag", "set_expiry"])
def test_a_missing_tag_can_not_be_ended(repository: Repository, call: str) -> None:
    arguments = ("nope",) if call == "delete_tag" else ("nope", 1)
    with pytest.raises(KeyError):
        getattr(repository, call)(*arguments)
    with pytest.raises(KeyError):
        repository.restore("nope", "sha256:0")


def test_repositories_come_in_creation_order_without_those_marked_for_deletion() -> None:
    registry = Registry()
    organization = registry.organization("kolla")
    organization.repository("zeta")
    organization.repository("gone", state="MARKED_FOR_DELETION")
    organization.repository("alpha")
    organization.repository("deleted")
    organization.delete_repository("deleted")

    assert [repo.name for repo in registry.repositories()] == ["zeta", "alpha"]
    assert registry.find("kolla/gone") is None
    assert organization.repository("zeta") is registry.find("kolla/zeta")


def test_a_name_is_either_an_organization_or_a_user() -> None:
    registry = Registry()
    registry.organization("kolla")
    registry.user("bob")
    with pytest.raises(TypeError):
        registry.user("kolla")
    with pytest.raises(TypeError):
        registry.organization("bob")


def test_rights_come_from_the_repository_the_namespace_or_ownership() -> None:
    registry = Registry()
    kolla = registry.organization("kolla")
    secret, other = kolla.repository("secret", public=False), kolla.repository("other", public=False)
    own = registry.user("bob").repository("own", public=False)
    secret.grant("bob")
    kolla.grant("kolla+robot")

    assert [registry.may_read("bob", repo) for repo in (secret, other, own)] == [True, False, True]
    assert registry.may_read("kolla+robot", other)
    assert not registry.may_read(None, secret)


def test_an_oauth_token_expires(clock: Clock) -> None:
    registry = Registry(now=clock)
    value = registry.oauth_token("bob", expires_at=2000)
    assert len(value) == 40
    assert registry.valid_oauth_token(value) is not None
    clock.now = 2000
    assert registry.valid_oauth_token(value) is None
