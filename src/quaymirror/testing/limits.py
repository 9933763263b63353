"""nginx's request limits (``limit_req`` with ``nodelay``), counted the way nginx counts.

Every zone keeps a leaky bucket per key. A request adds one to the bucket, time drains it at the zone's rate, and a
request that would leave more than *burst* in it is refused and not counted. Several locations can share a zone and
still have bursts of their own (ngx_http_limit_req_module).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

LimitKey = Literal["address", "authorization"]
Monotonic = Callable[[], float]


@dataclass(frozen=True, slots=True)
class LimitRule:
    """A location and its limit: *rate* in requests per second, *burst* in requests. The first match rules."""

    path: str
    zone: str
    rate: float
    burst: int
    key: LimitKey = "address"


# Quay's own nginx templates, HTTP/1.1 part. The repository patterns match exactly NAMESPACE/NAME, so nested names fall
# through to the last rule.
QUAY_NGINX_HTTP1: tuple[LimitRule, ...] = (
    LimitRule(r"^/api/", "heavy", 5, 25),
    LimitRule(r"^/v2/_catalog", "heavy", 5, 1),
    LimitRule(r"^/v2/auth", "auth", 120, 2, "authorization"),
    LimitRule(r"^/v2/[^/]+/[^/]+/tags/", "namespaced-heavy", 5, 2),
    LimitRule(r"^/v2/[^/]+/[^/]+/manifests/", "namespaced-light", 50, 10),
    LimitRule(r"^/v2/[^/]+/.+/blobs/", "namespaced-light", 50, 50),
    LimitRule(r"^/v2", "very-light", 60, 20),
)


@dataclass(slots=True)
class _Bucket:
    excess: float
    last: float


class RateLimiter:
    """The state of a set of rules."""

    def __init__(self, rules: Iterable[LimitRule], *, clock: Monotonic = time.monotonic) -> None:
        """Start with empty buckets; *clock* gives monotonic seconds."""
        self._rules = [(re.compile(rule.path), rule) for rule in rules]
        self._clock = clock
        self._buckets: dict[tuple[str, str], _Bucket] = {}

    def admits(self, path: str, *, address: str, authorization: str = "") -> bool:
        """Count a request and return whether it is allowed. An empty key isn't limited."""
        rule = next((rule for pattern, rule in self._rules if pattern.search(path)), None)
        key = "" if rule is None else address if rule.key == "address" else authorization
        return rule is None or not key or self._count(rule, key)

    def _count(self, rule: LimitRule, key: str) -> bool:
        now = self._clock()
        bucket = self._buckets.get((rule.zone, key))
        if bucket is None:
            # nginx starts a bucket at zero rather than one: the first request is free.
            self._buckets[rule.zone, key] = _Bucket(0.0, now)
            return True
        excess = max(0.0, bucket.excess - rule.rate * (now - bucket.last) + 1)
        if excess > rule.burst:
            return False
        bucket.excess, bucket.last = excess, now
        return True
