"""Values of the OCI specifications, without I/O."""

from .descriptor import Descriptor
from .digest import Digest
from .manifest import Index, Manifest
from .platform import Platform
from .reference import Reference, Repository

__all__ = ["Descriptor", "Digest", "Index", "Manifest", "Platform", "Reference", "Repository"]
