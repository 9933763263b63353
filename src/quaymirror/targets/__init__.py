"""Targets of images: an OCI image layout, a registry, or derived images. Each kind is registered here."""

from . import derived, layout, registry
from .kinds import register

register(derived.KIND, registry.KIND, layout.KIND)
