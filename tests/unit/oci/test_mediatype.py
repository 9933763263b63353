"""Media types of manifests and Content-Type headers."""

from __future__ import annotations

import pytest

from quaymirror.oci import mediatype


@pytest.mark.parametrize(
    ("header", "essence"),
    [
        pytest.param(mediatype.OCI_INDEX, mediatype.OCI_INDEX, id="plain"),
        pytest.param(f"{mediatype.OCI_INDEX}; charset=utf-8", mediatype.OCI_INDEX, id="parameter"),
        pytest.param(f" {mediatype.OCI_INDEX} ;x=y", mediatype.OCI_INDEX, id="spaces"),
        pytest.param(mediatype.DOCKER_LIST.upper(), mediatype.DOCKER_LIST, id="upper-case"),
        pytest.param(None, "", id="missing"),
        pytest.param("", "", id="empty"),
        pytest.param("; charset=utf-8", "", id="only-a-parameter"),
    ],
)
def test_the_essence_of_a_header_is_lower_case_without_parameters(header: str | None, essence: str) -> None:
    assert mediatype.essence(header) == essence


def test_every_known_type_is_accepted_so_that_quay_never_converts() -> None:
    kinds = mediatype.INDEXES | mediatype.MANIFESTS | mediatype.SCHEMA1

    assert set(mediatype.ACCEPT.split(", ")) == kinds
    assert len(kinds) == 6
