from __future__ import annotations

import pytest

from quaymirror.testing import QUAY_NGINX_HTTP1, RateLimiter


class Clock:
    """A monotonic clock that tests set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def admitted(limiter: RateLimiter, path: str, requests: int, **keys: str) -> int:
    return sum(limiter.admits(path, **{"address": "192.0.2.1", **keys}) for _ in range(requests))


@pytest.mark.parametrize(
    ("path", "at_once"),
    [
        ("/api/v1/repository", 26),
        ("/v2/_catalog", 2),
        ("/v2/kolla/nova-api/tags/list", 3),
        ("/v2/kolla/nova-api/manifests/x", 11),
        ("/v2/kolla/nova-api/blobs/sha256:0", 51),
        ("/v2/kolla/nested/a/manifests/x", 21),
        ("/v2/", 21),
    ],
)
def test_the_burst_and_one_more_pass_at_once(path: str, at_once: int) -> None:
    assert admitted(RateLimiter(QUAY_NGINX_HTTP1, clock=Clock()), path, 200) == at_once


def test_the_bucket_leaks_at_the_zones_rate() -> None:
    clock = Clock()
    limiter = RateLimiter(QUAY_NGINX_HTTP1, clock=clock)
    admitted(limiter, "/api/v1/repository", 26)
    clock.now = 1.0
    assert admitted(limiter, "/api/v1/repository", 50) == 5


def test_locations_that_share_a_zone_share_its_bucket() -> None:
    limiter = RateLimiter(QUAY_NGINX_HTTP1, clock=Clock())
    admitted(limiter, "/v2/kolla/a/manifests/x", 11)
    assert admitted(limiter, "/v2/kolla/a/blobs/sha256:0", 100) == 40
    assert admitted(limiter, "/v2/kolla/a/manifests/x", 1) == 0


def test_addresses_are_limited_apart() -> None:
    limiter = RateLimiter(QUAY_NGINX_HTTP1, clock=Clock())
    admitted(limiter, "/api/v1/repository", 100)
    assert admitted(limiter, "/api/v1/repository", 100, address="192.0.2.2") == 26


def test_token_requests_are_limited_by_credential_and_anonymous_ones_not_at_all() -> None:
    limiter = RateLimiter(QUAY_NGINX_HTTP1, clock=Clock())
    assert admitted(limiter, "/v2/auth", 200) == 200
    assert admitted(limiter, "/v2/auth", 200, authorization="Basic eA==") == 3
