"""Pure values of the OCI specifications: no I/O, standard library only."""

from .descriptor import Descriptor
from .digest import Digest
from .manifest import Index, Manifest
from .platform import Platform
from .reference import Reference, Repository

__all__ = ["Descriptor", "Digest", "Index", "Manifest", "Platform", "Reference", "Repository"]
