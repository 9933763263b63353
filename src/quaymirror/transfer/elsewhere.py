"""Blobs that other processes bring to the same target."""

from __future__ import annotations

from typing import Protocol

from ..oci import Reference
from .stream import BlobJob


class BlobsElsewhere(Protocol):
    """The division of blobs among the processes that mirror to one target."""

    async def wait_for(self, job: BlobJob, named: Reference) -> int:
        """Return once the blob of `job` is at the target, brought by this process or another, or has to be fetched.

        `named` is the image that needs it, under its name at the target. The value is the number of bytes that were
        fetched from the source for this image.

        :raises QuaymirrorError: if the target fails, or the run ends.
        """
