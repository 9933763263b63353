"""The decision which images have the labels that a selection wants."""

from __future__ import annotations

from collections.abc import Sequence

from ..catalog.base import PinnedImage
from ..discovery.label_verdicts import LabelVerdicts
from ..errors import PlatformNotFound
from ..oci import Platform
from ..registry.puller import Puller
from ..selection.labels import LabelCondition, all_hold, conditions_key
from .image_config import DEFAULT_PLATFORM, read_image


class LabelFilter:
    """Reads the labels of images of one source, each digest once; of an index those of its first wanted platform."""

    def __init__(self, source: Puller, platforms: Sequence[Platform], verdicts: LabelVerdicts) -> None:
        self._source = source
        self._platform = platforms[0] if platforms else DEFAULT_PLATFORM
        self._verdicts = verdicts

    async def check(self, image: PinnedImage, conditions: Sequence[LabelCondition]) -> bool:
        """Return True if the labels of `image` meet all of `conditions`.

        :raises QuaymirrorError: if its config can't be read.
        """
        key = f"{self._platform}\n{conditions_key(conditions)}"
        known = self._verdicts.recall(image.digest, key)
        if known is not None:
            return known

        try:
            _, config = await read_image(image, self._source, self._platform)
        except PlatformNotFound:
            holds = False  # an index without the platform stays one
        else:
            run = config.get("config")
            labels = run.get("Labels") if isinstance(run, dict) else None
            holds = all_hold(conditions, labels if isinstance(labels, dict) else {})

        self._verdicts.remember(image.digest, key, holds)
        return holds
