"""Platforms of an index's children (OCI image-spec, image-index.md, "platform")."""

from __future__ import annotations

from dataclasses import replace

from ..errors.usage import InvalidName
from ..values import dataclass, pattern

_PART = pattern(r"[A-Za-z0-9_.-]+")

# Other names of architectures, with the variant that they imply, as in containerd/platforms.
_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "i386": ("386", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
}
# The default variants, which need not be named.
_DEFAULT_VARIANTS = {"arm64": "v8", "amd64": "v1"}


@dataclass(frozen=True, slots=True, order=True)
class Platform:
    """An operating system and a CPU, such as `linux/arm64/v8`. `variant` and `os_version` may be empty."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Return the platform in `text` (`OS/ARCH` or `OS/ARCH/VARIANT`), normalized.

        :raises InvalidName: if `text` has another form.
        """
        parts = text.split("/")
        if len(parts) not in (2, 3) or not all(_PART.fullmatch(part) for part in parts):
            raise InvalidName(f"not a platform: {text[:100]!r}; write OS/ARCH or OS/ARCH/VARIANT, such as linux/arm64")

        return cls(*parts).normalized()

    def normalized(self) -> Platform:
        """Return the platform in Go's names, without a default variant: `aarch64/v8` is `arm64`."""
        architecture = self.architecture.lower()
        architecture, implied = _ARCHITECTURES.get(architecture, (architecture, ""))
        variant = self.variant.lower() or implied
        if architecture in ("arm", "arm64") and variant in {"5", "6", "7", "8", "9"}:
            variant = f"v{variant}"

        if variant == _DEFAULT_VARIANTS.get(architecture):
            variant = ""

        return Platform(self.os.lower(), architecture, variant, self.os_version)

    def matches(self, wanted: Platform) -> bool:
        """Return True if this platform is one of `wanted`, whose empty fields match anything.

        An `arm` without variant is `v7`, as in containerd and Docker.
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
        # An index may have any text here, and this is part of messages: no control characters.
        return text if text.isprintable() else ascii(text)[1:-1]
