"""The meaning of a registry's refusals to store something."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import (
    ContentMissing,
    DigestMismatch,
    NotGranted,
    ReadInterrupted,
    Scope,
    ServiceError,
    Side,
    UnsupportedContent,
)
from ..oci import manifest

_LOST_UPLOAD = frozenset({"BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID"})
# Quay uses the last one for a manifest whose blobs are missing, among other things.
_CONTENT_MISSING = frozenset({"MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_UNKNOWN", "MANIFEST_INVALID"})
_WORDS = {
    400: "the target rejects it",
    401: "no permission to write to this repository",
    403: "writing is forbidden: permission, quota, or read-only",
    404: "repository not found at the target: create its project or organization there",
    405: "the target accepts no uploads: is it read-only?",
    409: "the tag is immutable at the target",
    413: "it is too large for the target",
    415: "the target rejects this media type",
    507: "no space left at the target",
}
# docker-registry answers 500 for layers with URLs that its configuration does not allow.
_FOREIGN_REFUSED = frozenset({400, 403, 415, 422, 500})


class UploadLost(ReadInterrupted):
    """The registry has forgotten the upload, or its position: it has to start again."""

    side = Side.TARGET


class ForeignLayersRefused(ServiceError):
    """The registry refuses a manifest because of its layers with URLs elsewhere."""

    is_lasting = True
    side = Side.TARGET


def has_foreign_layers(content: bytes, media_type: str) -> bool:
    """Return True if a manifest has layers with URLs outside of the registry."""
    if b'"urls"' not in content:
        return False

    try:
        node = manifest.parse(content, media_type)
    except UnsupportedContent:
        return False

    return isinstance(node, manifest.Manifest) and any(layer.urls for layer in node.layers)


def refusal_of_foreign_layers(error: ServiceError) -> ServiceError:
    """Return what `error`, the answer to a manifest with foreign layers, means: it is final if they are the reason."""
    if not error.codes & _CONTENT_MISSING or error.status not in _FOREIGN_REFUSED:
        return error

    url = error.message.partition(": ")[0]
    return ForeignLayersRefused(
        f"{url}: the target refuses its foreign layers, which have URLs elsewhere ({_answer(error)}): allow these URLs "
        "there (docker-registry: validation.manifests.urls.allow), or leave the image out (--exclude)",
        status=error.status,
    )


def _answer(error: ServiceError) -> str:
    """Return the status and the registry's sentence, without the URL that the message begins with."""
    return error.message.partition(": ")[2] or error.message


def other_bytes(what: str, error: ServiceError) -> DigestMismatch | None:
    """Return the error of `what`, if the registry says only that its bytes have another digest: they may be sent again.

    docker-registry also says so while another client stores the same content, whose files it reads half written.
    """
    if "DIGEST_INVALID" not in error.codes or error.codes & _CONTENT_MISSING:
        return None

    return DigestMismatch(f"{what}: other bytes arrived ({error.message})", side=Side.TARGET)


@contextmanager
def refusals(what: str) -> Iterator[None]:
    """Name the rejected object, and the registry's reason if it gives one, in the error of a rejected request."""
    try:
        yield
    except ServiceError as error:
        if error.codes & _LOST_UPLOAD or error.status == 416:
            raise UploadLost(error.message) from None

        if mismatch := other_bytes(what, error):
            raise mismatch from None

        if error.scope is not Scope.IMAGE or isinstance(error, NotGranted | ForeignLayersRefused):
            raise

        # Images that fail for one reason have the same text after the first colon.
        message = f"{what}: {_WORDS.get(error.status, 'the target rejects it')} ({_answer(error)})"
        if error.codes & _CONTENT_MISSING and error.status in (400, 404):
            raise ContentMissing(message, status=error.status, codes=error.codes) from None

        raise error.replace(message) from None
