"""OCI image layouts as targets."""

from __future__ import annotations

from ..store.layout import OCILayout
from ..transfer.target import Capabilities

CAPABILITIES = Capabilities(prunable=True, shares_blobs=True)


class LayoutTarget(OCILayout):
    """A layout that a run mirrors to."""

    capabilities = CAPABILITIES

    def prunable(self) -> OCILayout:
        """Return the layout itself."""
        return self
