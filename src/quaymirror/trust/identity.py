"""The rules of a policy for the image that a signature names: `signedIdentity`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..values import dataclass
from .names import DockerName, parse_name

MATCH_REPOSITORY = "matchRepository"
DEFAULT = "matchRepoDigestOrExact"


@dataclass(frozen=True, slots=True)
class SignedIdentity:
    """The rule called `kind`, with its parameters."""

    kind: str = DEFAULT
    reference: str = ""
    prefix: str = ""
    signed_prefix: str = ""

    def accepts(self, image: DockerName, signed: str) -> bool:
        """Return True if a signature for `signed` counts for `image`."""
        found = parse_name(signed)
        return found is not None and _RULES[self.kind](self, image, found)

    @property
    def takes_unnamed(self) -> bool:
        """True if a signature that names no image counts, too: the rule asks for no more than the content."""
        return self.kind == MATCH_REPOSITORY

    def remapped(self, image: DockerName) -> DockerName | None:
        """Return `image` under the name that signatures have for it."""
        repository, prefix = image.repository, self.prefix
        if repository != prefix and not repository.startswith(f"{prefix}/"):
            return image

        return parse_name(f"{self.signed_prefix}{str(image)[len(prefix) :]}")


def _exact(image: DockerName, signed: DockerName) -> bool:
    return bool(image.tag or image.digest) and bool(signed.tag or signed.digest) and image == signed


def _digest_or_exact(image: DockerName, signed: DockerName) -> bool:
    if image.tag:
        return image == signed

    return bool(image.digest) and bool(signed.tag or signed.digest) and image.repository == signed.repository


def _is_reference(rule: SignedIdentity, _image: DockerName, signed: DockerName) -> bool:
    return bool(signed.tag or signed.digest) and parse_name(rule.reference) == signed


def _is_repository(rule: SignedIdentity, _image: DockerName, signed: DockerName) -> bool:
    wanted = parse_name(rule.reference)
    return wanted is not None and wanted.repository == signed.repository


def _is_remapped(rule: SignedIdentity, image: DockerName, signed: DockerName) -> bool:
    wanted = rule.remapped(image)
    return wanted is not None and _digest_or_exact(wanted, signed)


_RULES: Mapping[str, Callable[[SignedIdentity, DockerName, DockerName], bool]] = {
    "matchExact": lambda _, image, signed: _exact(image, signed),
    DEFAULT: lambda _, image, signed: _digest_or_exact(image, signed),
    MATCH_REPOSITORY: lambda _, image, signed: image.repository == signed.repository,
    "exactReference": _is_reference,
    "exactRepository": _is_repository,
    "remapIdentity": _is_remapped,
}
KINDS = frozenset(_RULES)
