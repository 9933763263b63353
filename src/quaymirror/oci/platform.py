"""Platforms of an index's children (OCI image-spec, image-index.md, "platform")."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ..errors import InvalidName

_PART = re.compile(r"[A-Za-z0-9_.-]+")

# What people and other tools write for what the specification calls by Go's names, with the variant that the name
# implies. As containerd/platforms has it.
_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "i386": ("386", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
}
# The variant that an architecture has anyway, so that naming it says nothing.
_DEFAULT_VARIANTS = {"arm64": "v8", "amd64": "v1"}


@dataclass(frozen=True, slots=True, order=True)
class Platform:
    """An operating system and a CPU, such as `linux/arm64/v8`. Empty `variant` or `os_version`: not said."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Return the platform that `text` (`OS/ARCH` or `OS/ARCH/VARIANT`) spells, in the specification's names.

        :raises InvalidName: when `text` has another shape.
        """
        parts = text.split("/")
        if len(parts) not in (2, 3) or not all(_PART.fullmatch(part) for part in parts):
            raise InvalidName(f"not a platform: {text[:100]!r}; write OS/ARCH or OS/ARCH/VARIANT, such as linux/arm64")

        return cls(*parts).normalized()

    def normalized(self) -> Platform:
        """Return the same platform in Go's names: `aarch64` is `arm64`, whose default variant `v8` says nothing."""
        architecture = self.architecture.lower()
        architecture, implied = _ARCHITECTURES.get(architecture, (architecture, ""))
        variant = self.variant.lower() or implied
        if architecture in ("arm", "arm64") and variant in {"5", "6", "7", "8", "9"}:
            variant = f"v{variant}"

        if variant == _DEFAULT_VARIANTS.get(architecture):
            variant = ""

        return Platform(self.os.lower(), architecture, variant, self.os_version)

    def matches(self, wanted: Platform) -> bool:
        """Tell whether this platform is one that `wanted` asks for: what `wanted` leaves open, anything fits.

        An `arm` without variant is `v7`, as containerd and Docker read it.
        """
        mine, theirs = self.normalized(), wanted.normalized()
        if mine.architecture == "arm" and not mine.variant:
            mine = replace(mine, variant="v7")

        return (
            (mine.os, mine.architecture) == (theirs.os, theirs.architecture)
            and theirs.variant in ("", mine.variant)
            and theirs.os_version in ("", mine.os_version)
        )

    def __str__(self) -> str:
        text = "/".join(part for part in (self.os, self.architecture, self.variant) if part)
        # An index can hold anything here, and this goes into messages: one line, and nothing a terminal obeys.
        return text if text.isprintable() else ascii(text)[1:-1]
