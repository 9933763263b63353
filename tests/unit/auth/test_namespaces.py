"""Each organization of a registry may have credentials of its own."""

from __future__ import annotations

import pytest

from quaymirror.auth.namespaces import ByNamespace
from quaymirror.http.authorizer import Fixed
from quaymirror.secret import Secret


@pytest.mark.parametrize(
    ("scope", "namespace"),
    [
        ("repository:kolla/nova-api:pull", "kolla"),
        ("repository:ceph/a/b:pull repository:kolla/nova:pull", "ceph"),
        ("repository:host:5000/nova:pull", "host:5000"),
        ("repository:nova:pull", ""),
        ("", ""),
        (None, ""),
    ],
)
async def test_a_scope_is_asked_for_with_what_its_namespace_has(scope: str | None, namespace: str) -> None:
    made: list[str] = []

    def make(name: str) -> Fixed:
        made.append(name)
        return Fixed(Secret(f"Bearer {name}"))

    authorizer = ByNamespace(make)
    for _ in range(2):
        header = await authorizer.header(scope)
        assert header is not None
        assert header.header_value() == f"Bearer {namespace}"

    assert not await authorizer.challenged([], scope, None)
    assert not authorizer.allows(scope)
    assert made == [namespace]
