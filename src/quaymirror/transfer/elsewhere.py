"""Blobs that other processes bring to the same target."""

from __future__ import annotations

from typing import Protocol

from ..oci import Descriptor


class BlobsElsewhere(Protocol):
    """The division of blobs among the processes that mirror to one target."""

    async def wait_for(self, blob: Descriptor) -> None:
        """Return once `blob` is at the target, brought by this process or another, or its image has to fetch it.

        :raises QuaymirrorError: if the target fails, or the run ends.
        """
