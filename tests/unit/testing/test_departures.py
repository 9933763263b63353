"""Clients that leave: the server says nothing about it, least of all a traceback."""

from __future__ import annotations

from dataclasses import dataclass

import aiohttp
import pytest
from aiohttp import web

from quaymirror.testing import Action, Fault, QuayServer, Registry
from quaymirror.testing.messages import Answer


@dataclass(frozen=True, slots=True)
class Leave(Action):
    """The connection closes between the request and its answer."""

    def on_answer(self, answer: Answer, source: web.BaseRequest) -> Answer:
        assert source.transport is not None
        source.transport.close()
        return answer


@pytest.mark.parametrize("bandwidth", [None, 1_000_000], ids=["at once", "at a pace"])
async def test_a_client_that_leaves_before_its_answer_is_no_error_of_the_server(
    bandwidth: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    async with QuayServer(Registry(), bandwidth=bandwidth) as server, aiohttp.ClientSession() as client:
        server.faults.append(Fault(".*", Leave(), listener="cdn"))
        with pytest.raises(aiohttp.ClientError):
            await client.post(f"{server.cdn_url}/nothing")

    assert caplog.records == []
