"""Hosts of URLs from users and servers."""

from __future__ import annotations

import pytest

from quaymirror.errors import ConfigError, UnsafeRedirect
from quaymirror.http.origin import Origin, follow, parse_server


@pytest.mark.parametrize("host", ["bücher.example", "bÃ¼cher.example", "例え.example"])
def test_a_redirect_to_a_host_that_is_not_ascii_is_refused_with_its_reason(host: str) -> None:
    with pytest.raises(UnsafeRedirect, match=r"^quay\.io redirects .*: its host name is not ASCII") as caught:
        follow("https://quay.io/v2/", f"https://{host}/blob")

    assert "\n" not in str(caught.value)


def test_a_server_is_named_by_the_ascii_form_of_its_name() -> None:
    with pytest.raises(ConfigError, match="its host name is not ASCII, as xn--… is"):
        parse_server("https://bücher.example")

    assert parse_server("https://xn--bcher-kva.example") == Origin("https", "xn--bcher-kva.example", 443)
