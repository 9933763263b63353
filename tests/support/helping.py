"""A helper process for every body, however small: without it, tests would end before one is worth it."""

from __future__ import annotations

import select

from quaymirror.http.helper import Helper

started: list[Helper] = []
"""The helpers that were started, the last one last."""


def takes_everything(helper: Helper, _: int) -> bool:
    """Take the place of `Helper.takes`: start the process with the first body, and wait until it takes requests."""
    if helper not in started:
        started.append(helper)
        helper.start()

    while not helper.is_ready and helper._socket is not None:
        select.select([helper._socket], [], [])
        helper._readable()

    return helper.is_ready
