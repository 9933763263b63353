"""The tags of a target registry: each is set when its image is complete, or all of them at the end of a run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial

from ..errors import ExitCode, QuaymirrorError, Side, most_severe
from ..oci import Descriptor, Digest, Reference, Repository
from ..registry.pull import RegistryPuller
from ..settings import PublishOptions
from ..store.records import ImageRecord
from ..tasks import run_all
from ..text import counted
from .placeholders import fill

# Tags that are set at the same time at the end of a run.
_AT_A_TIME = 16
# Manifests that are kept for their tags; the others are read back.
_MOST_KEPT_BYTES = 32 * 1024 * 1024

PutManifest = Callable[[Repository, str, Descriptor, bytes], Awaitable[object]]
"""Stores a manifest under a tag or its digest."""


class TagsNotSet(QuaymirrorError):
    """Some of the tags that a run set at its end were refused. Exit code 3."""

    exit_code = ExitCode.PARTIAL


class Tagging:
    """Sets the tags of images whose content is in a registry."""

    def __init__(self, put: PutManifest, reader: RegistryPuller, options: PublishOptions) -> None:
        self._put = put
        self._reader = reader
        self._dated_tags = options.dated_tags
        self._at_end = options.at_end
        self._contents: dict[tuple[Repository, Digest], bytes] = {}
        self._kept_bytes = 0
        self._waiting: dict[Reference, ImageRecord] = {}

    @property
    def waits(self) -> bool:
        """True if tags are set at the end of the run."""
        return self._at_end

    def keep(self, repository: Repository, digest: Digest, content: bytes) -> None:
        """Keep a manifest, which may be set as a tag soon."""
        if (repository, digest) not in self._contents and self._kept_bytes < _MOST_KEPT_BYTES:
            self._contents[repository, digest] = content
            self._kept_bytes += len(content)

    def drop(self, repository: Repository, digest: Digest) -> None:
        """Forget a manifest that no tag needs any more."""
        self._kept_bytes -= len(self._contents.pop((repository, digest), b""))

    async def set(self, place: Reference, root: Descriptor) -> None:
        """Set the tag of `place`, after the second one that the options may want.

        A run that is killed in between sets both of them again the next time.

        :raises ContentMissing: if the registry lacks content of the image.
        :raises QuaymirrorError: if the registry rejects the tag.
        """
        assert place.tag is not None
        repository = place.repository
        content = self._contents.get((repository, root.digest))
        if content is None:
            content = (await self._reader.manifest(repository, root.digest)).raw

        if self._dated_tags is not None:
            values = {"{tag}": place.tag, "{date}": f"{datetime.now().astimezone():%Y-%m-%d}"}
            await self._put(repository, fill(self._dated_tags, values), root, content)

        await self._put(repository, place.tag, root, content)

    def wait(self, place: Reference, record: ImageRecord) -> None:
        """Set the tag of `place` when `publish` is called; until then readers see the image that it had."""
        self._waiting[place] = record

    async def publish(self, done: Callable[[ImageRecord], Awaitable[None]]) -> None:
        """Set the tags that wait, and call `done` for each image that has its tag.

        :raises QuaymirrorError: if some of the tags can't be set; the others are.
        """
        waiting, errors = list(self._waiting.items()), list[QuaymirrorError]()
        self._waiting.clear()

        async def publish_one(place: Reference, record: ImageRecord) -> None:
            try:
                await self.set(place, record.root)
            except QuaymirrorError as error:
                errors.append(error)
            else:
                await done(record)

        for start in range(0, len(waiting), _AT_A_TIME):
            batch = waiting[start : start + _AT_A_TIME]
            await run_all(partial(publish_one, place, record) for place, record in batch)

        if errors:
            error = most_severe(errors)
            text = f"{counted(len(errors), 'tag')} of {len(waiting):,} not set at the target: {error.message}"
            raise error.replace(text) if len(errors) == len(waiting) else TagsNotSet(text, side=Side.TARGET)
