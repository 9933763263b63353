"""Where images land: what the words of `--to` mean, and how that place is opened.

The choice of a target shows here and nowhere else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from ..events import Observer
from ..oci import Platform
from ..quay.selection import Selection
from ..store.layout import OCILayout
from ..transfer.target import Target
from .destination import DerivedTarget, is_derived, parse_derived
from .settings import Settings

_OCIDIR = "ocidir"


@dataclass(frozen=True, slots=True)
class LayoutTarget:
    """One OCI image layout for all images, at `path`."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


TargetSpec = LayoutTarget | DerivedTarget


def parse_target(text: str, selection: Selection, settings: Settings) -> TargetSpec:
    """Return what `text` (`PATH`, `ocidir://PATH` or an address of occystrap's) names, `{org}` and `{tag}` replaced.

    :raises ConfigError: when it names nothing that images can land in, or can't tell two of them apart.
    """
    if is_derived(text, settings):
        return parse_derived(text, selection, settings)

    if settings.filters:
        raise ConfigError("filters change images: they need a target like dir://PATH, tar://PATH or registry://HOST")

    scheme, separator, rest = text.partition("://")
    if separator and scheme != _OCIDIR:
        raise ConfigError(f"no such kind of target: {scheme[:50]!r}; write a PATH or ocidir://PATH")

    path = rest if separator else text
    if not path or "\0" in path:
        raise ConfigError("the target needs the path of a directory")

    if "{repo}" in path:
        raise ConfigError("{repo} in the target: one layout holds all images, which share layers there; leave it out")

    return LayoutTarget(Path(path.replace("{org}", selection.organization).replace("{tag}", selection.tag)))


def home_of(spec: TargetSpec) -> Path:
    """Return the directory where what we know of this target is kept, beside or inside of it."""
    return (spec.directory if isinstance(spec, DerivedTarget) else spec.path) / ".quaymirror"


@asynccontextmanager
async def open_target(spec: TargetSpec, settings: Settings, observer: Observer) -> AsyncIterator[Target]:
    """Open the place that `spec` names; for a dry run only to look.

    :raises TargetRefused: when something else is there.
    :raises LockHeld: when another run is at work on it.
    :raises StoreError: when the disk refuses.
    """
    async with _opened(spec, settings, observer) as target:
        yield target


def _opened(spec: TargetSpec, settings: Settings, observer: Observer) -> AbstractAsyncContextManager[Target]:
    match spec:
        case DerivedTarget():
            # Imported when it is asked for: worker processes are nothing that a mirror needs.
            from .derive import Deriver

            opened = Deriver.inspect if settings.dry_run else Deriver.open
            return opened(spec, observer=observer)
        case LayoutTarget():
            return OCILayout.inspect(spec.path) if settings.dry_run else OCILayout.open(spec.path, observer=observer)


def wanted_platforms(spec: TargetSpec, settings: Settings) -> tuple[Platform, ...]:
    """Return the platforms to mirror of a multi-arch image, () for all."""
    return (spec.platform,) if isinstance(spec, DerivedTarget) else settings.platforms
