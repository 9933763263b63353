"""Addresses of mirrors in object stores: `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX`."""

from __future__ import annotations

from ..errors import ConfigError
from ..values import dataclass, pattern

SCHEMES = ("s3", "gs", "az")
_BUCKET = pattern(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}")
_PART = pattern(r"(?!\.\.?$)[A-Za-z0-9._=+-]+")
_FORM = "write {0}://BUCKET/PREFIX, without credentials: they come from the environment"


@dataclass(frozen=True, slots=True)
class BucketAddress:
    """A mirror in an object store; without `locks` the user answers for there being one writer only."""

    scheme: str
    bucket: str
    prefix: str = ""
    locks: bool = True

    def __str__(self) -> str:
        # Without the option: it is the same mirror, with the same state.
        return self.url

    @property
    def url(self) -> str:
        """The address without options."""
        return f"{self.scheme}://{self.bucket}{'/' if self.prefix else ''}{self.prefix}"

    @property
    def text(self) -> str:
        """The address with its options, as `parse_bucket` takes it."""
        return self.url if self.locks else f"{self.url}?locks=none"


def is_bucket(text: str) -> bool:
    """Return True if `text` is an address of an object store."""
    scheme, separator, _ = text.partition("://")
    return bool(separator) and scheme in SCHEMES


def parse_bucket(text: str) -> BucketAddress:
    """Return the address `text`, `s3://BUCKET[/PREFIX][?locks=none]`.

    :raises ConfigError: if it has another form.
    """
    scheme, _, rest = text.partition("://")
    form = _FORM.format(scheme)
    if "@" in rest:
        # Not quoted: a secret may stand before it.
        raise ConfigError(f"an '@' in the address of a bucket; {form}")

    place, _, query = rest.partition("?")
    bucket, _, prefix = place.rstrip("/").partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise ConfigError(f"{bucket[:100]!r} is not the name of a bucket; {form}")

    wrong = next((part for part in prefix.split("/") if not _PART.fullmatch(part)), None) if prefix else None
    if wrong is not None:
        raise ConfigError(f"{wrong[:100]!r} can't be part of the prefix of a bucket: one mirror holds all; {form}")

    if query not in ("", "locks=none"):
        raise ConfigError(f"the address of a bucket has no option {query.partition('=')[0][:50]!r}: only locks=none")

    return BucketAddress(scheme, bucket, prefix, not query)
