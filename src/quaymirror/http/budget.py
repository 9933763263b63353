"""Budgets of pulls: registries that allow a number of them per time window, and say how many are left.

Docker Hub counts each GET of a manifest. Its answers to HEAD, which do not count, have the same fields
(docs.docker.com, "Docker Hub usage and limits"): `ratelimit-limit: 100;w=21600` and `ratelimit-remaining: 76;w=21600`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import anyio

from ..errors import PullsExhausted, QuaymirrorError, RateLimited
from ..values import pattern
from .client import Client, Exchange
from .dates import parse_http_date
from .exchange import Request, Response

_COUNT = pattern(r"([0-9]{1,9})(?:\s*;\s*w=([0-9]{1,9}))?")
_SECONDS_PER_HOUR = 3600
# A limit for a shorter time is a rate, for which the run waits.
_SHORTEST_WINDOW = 900


class PullBudget:
    """The pulls that one registry still allows, as its answers say; unlimited if they say nothing."""

    def __init__(self, advice: str = "") -> None:
        self._advice = advice
        self._left: int | None = None
        self._under_way = 0
        self._is_known = False
        self._limit = ""
        self._resumes = ""
        self.lock: anyio.Lock = anyio.Lock()
        """Held by the first request, which reads the number that is left."""

    @property
    def is_known(self) -> bool:
        """True if an answer has shown whether a limit exists."""
        return self._is_known

    @property
    def is_limited(self) -> bool:
        """True if an answer has named a limit."""
        return self._left is not None

    def take(self, host: str) -> None:
        """Take one pull.

        :raises PullsExhausted: if none is left. It concerns one image: those whose manifests are here are completed.
        """
        if self._left is not None and self._left - self._under_way <= 0:
            raise self.exhausted(host)

        self._under_way += 1

    def ended(self) -> None:
        """Record the end of a pull."""
        self._under_way -= 1

    def record(self, response: Response) -> None:
        """Record what an answer says."""
        self._is_known = True
        left = _COUNT.fullmatch(response.headers.get("ratelimit-remaining", ""))
        if left is None or (left[2] and int(left[2]) < _SHORTEST_WINDOW):
            return

        if limit := _COUNT.fullmatch(response.headers.get("ratelimit-limit", "")):
            hours = int(limit[2] or 0) / _SECONDS_PER_HOUR
            self._limit = f"{int(limit[1]):,} pulls in {hours:g} h" if hours else f"{int(limit[1]):,} pulls"

        count = int(left[1])
        # Answers may come in another order than they were counted: only an idle client believes a larger number.
        self._left = count if self._left is None or not self._under_way else min(self._left, count)
        date = parse_http_date(response.headers.get("Date"))
        if date is not None and left[2]:
            self._resumes = f"{date + timedelta(seconds=int(left[2])):%Y-%m-%d %H:%M} UTC"

    def exhausted(self, host: str) -> PullsExhausted:
        """Return the error for a pull that is not allowed now, and allow no more."""
        self._left = 0
        limit = f"the limit of {self._limit}" if self._limit else "the limit of pulls"
        resumes = f"pulls resume by {self._resumes}" if self._resumes else "pulls resume later"
        return PullsExhausted(f"{host}: {limit} is reached; {resumes}{self._advice}")


class BudgetedClient(Client):
    """A client that sends no request for a manifest beyond `budget`."""

    budget: PullBudget

    @classmethod
    def of(cls, budget: PullBudget) -> Callable[..., BudgetedClient]:
        """Return a factory of clients with this budget, with the parameters of `Client`."""

        def make(*args: object, **options: object) -> BudgetedClient:
            client = cls(*args, **options)  # type: ignore[arg-type]
            client.budget = budget
            return client

        return make

    async def send(self, request: Request) -> Exchange:
        """Send `request` once; see `Client.send`.

        :raises PullsExhausted: if it is a pull, and none is left.
        """
        # Lists of referrers are in the same class of endpoints, but are no pulls.
        if request.kind != "manifests" or "/manifests/" not in request.path:
            return await super().send(request)

        if request.method == "HEAD":
            exchange = await super().send(request)
            self.budget.record(exchange.response)
            return exchange

        await self._find_out(request)
        self.budget.take(self.origin.netloc)
        try:
            exchange = await super().send(request)
            self.budget.record(exchange.response)
        except RateLimited as error:
            if error.status != 429 or not self.budget.is_limited:
                raise

            raise self.budget.exhausted(self.origin.netloc) from None
        finally:
            self.budget.ended()

        return exchange

    async def _find_out(self, request: Request) -> None:
        """Ask for the number of pulls that are left, once; this is no pull."""
        async with self.budget.lock:
            if self.budget.is_known:
                return

            try:
                exchange = await super().send(replace(request, method="HEAD"))
            except QuaymirrorError:
                return  # the pull itself fails with the reason

            self.budget.record(exchange.response)
            exchange.close(passed=True)
