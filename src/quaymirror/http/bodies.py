"""The types of functions that receive the body of an answer in a thread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

Read = Callable[[memoryview], int]
"""Puts the next bytes of a body into a buffer, and returns their number, 0 at the end. It blocks.

It raises QuaymirrorError if the body ends early.
"""

Fill = Callable[[Read], None]
"""Takes a body from `Read`, and passes on its errors. It blocks."""

ReceiveInThread = Callable[[Fill, Callable[[int], None]], Awaitable[None]]
"""Has a thread call `Fill` with the body. The second function is told from time to time how many bytes are new.

It raises QuaymirrorError like either of both. If it is cancelled, the thread has ended afterwards.
"""
