"""Pushes of an organization of some images into a registry that tests can look into."""

from __future__ import annotations

from organizations import TAG
from receiver import Receiver

import quaymirror
from quaymirror import Selection
from quaymirror.run.report import Report
from quaymirror.testing import Registry, SourceManifest

EVERYTHING = Selection("kolla", "*", TAG)
LARGE = 9 * 1024 * 1024
UPLOADS = "/blobs/uploads/"


def organization(*images: SourceManifest) -> Registry:
    registry = Registry()
    for number, image in enumerate(images):
        registry.organization("kolla").repository(f"image-{number}").push(TAG, image)

    return registry


def check(target: Receiver, *images: SourceManifest) -> None:
    """Everything is there, byte for byte, and nothing is left half-done."""
    for number, image in enumerate(images):
        name = f"kolla/image-{number}"
        assert target.manifests[name][TAG] == (image.media_type, image.raw)
        assert {digest: blob.data for digest, blob in image.all_blobs().items()} == target.blobs[name]

    assert not target.uploads


def error_of(report: Report) -> quaymirror.QuaymirrorError:
    (outcome,) = report.outcomes
    assert outcome.error is not None
    return outcome.error.error()
