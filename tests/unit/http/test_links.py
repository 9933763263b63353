"""Links to the next page, in all forms of RFC 8288 and in some that servers send all the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from quaymirror.errors import Unavailable
from quaymirror.http.links import next_link

URL = "https://registry.example/v2/_catalog?n=2"
NEXT = "/v2/_catalog?last=b&n=2"


def answer(*fields: str) -> Any:
    return SimpleNamespace(url=URL, name="registry.example/v2/_catalog", all_headers=lambda _: list(fields))


@pytest.mark.parametrize(
    "field",
    [
        '<{}>; rel="next"',
        "<{}>; rel=next",
        "<{}>;rel='next'",
        '< {} > ; REL = "NEXT"',
        '<{}>; rel="next last"',
        '<{}>; rel="last next"',
        '<{}>; title="a, b; c"; rel="next"',
        '<{}>; title="a \\" b, <c>"; rel="next"; type="application/json"',
        '<{}>; crossorigin; rel="next"',
        '</first>; rel="first", <{}>; rel="next", </last>; rel="last"',
        '</other>; rel="nextish", <{}>; rel="next"',
        '</other>; rel="next-archive", <{}>; rel="next"',
        '</other>; title="x; rel=next"; rel="prev", <{}>; rel="next"',
        '</other>; rel="prev"; rel="next", <{}>; rel="next"',
        '</other>; myrel="next", <{}>; rel="next"',
        "</other>, <{}>; rel=next",
        '<?last=b&n=2>; rel="next"',
        'nonsense, <{}>; rel="next"',
    ],
)
def test_the_next_page_is_found_in_every_form(field: str) -> None:
    assert next_link(answer(field.replace("{}", NEXT))) == NEXT


def test_the_next_page_may_be_in_a_field_of_its_own() -> None:
    assert next_link(answer('</first>; rel="first"', f'<{NEXT}>; rel="next"')) == NEXT


@pytest.mark.parametrize("field", ["", "next", "<>", "</a>", '</a>; rel="prev"', '</a>; rel=""', "</a>; rel", "<a"])
def test_other_fields_name_no_next_page(field: str) -> None:
    assert next_link(answer(field)) == ""


@pytest.mark.parametrize("target", ["https://other.example/x", "file:///x", "https://me:pw@registry.example/x", ""])
def test_a_link_that_leads_elsewhere_is_an_error_without_its_secrets(target: str) -> None:
    with pytest.raises(Unavailable, match=r"not followed|can't be followed") as caught:
        next_link(answer(f"<{target}>; rel=next"))

    assert "pw" not in caught.value.message
