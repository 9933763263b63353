"""Pings of a monitoring service. Their URL is a secret, since anyone who knows it can ping."""

from __future__ import annotations

import base64
from contextlib import closing
from urllib.parse import unquote_to_bytes

import anyio

from ..errors import ConnectFailed, QuaymirrorError, ServiceError, TimedOut, TransportError
from .guard import AddressGuard
from .origin import Origin, without_user
from .timeouts import Timeouts
from .transport import AiohttpTransport

_SECONDS = 10.0
_MAX_ANSWER = 64 * 1024


async def ping(url: str, body: bytes = b"") -> None:
    """Send `body` to `url`, at any address; redirects are not followed.

    :raises QuaymirrorError: if no success is answered within ten seconds. Its message names only the host of the URL.
    """
    url, user = without_user(url)
    host = Origin.of(url).netloc
    headers = {"Content-Type": "text/plain; charset=utf-8"}
    if user:
        headers["Authorization"] = f"Basic {base64.b64encode(unquote_to_bytes(user)).decode()}"

    timeouts = Timeouts(connect=_SECONDS, headers=_SECONDS, stall=_SECONDS)
    try:
        with anyio.fail_after(_SECONDS):
            async with AiohttpTransport(socket_factory=AddressGuard().trusted_socket, timeouts=timeouts) as transport:
                answer = await transport.send("POST", url, headers, body)
                with closing(answer):
                    status = answer.status
                    await answer.read(_MAX_ANSWER)
    except ConnectFailed:
        raise
    except (TimeoutError, TimedOut):
        raise TimedOut(f"{host}: no answer within {_SECONDS:.0f} s") from None
    except QuaymirrorError:
        raise TransportError(f"{host}: the connection broke") from None

    if not 200 <= status < 300:
        raise ServiceError(f"{host}: answered {status}", status=status)
