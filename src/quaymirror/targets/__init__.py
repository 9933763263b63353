"""Targets: an OCI image layout, here or in an object store, a registry, derived images. Each kind is registered."""

from . import bucket, derived, layout, registry
from .kinds import register

register(bucket.KIND, derived.KIND, registry.KIND, layout.KIND)
