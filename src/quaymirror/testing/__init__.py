"""A Quay-compatible server for tests and demonstrations, with generated images and organizations.

::

    registry = Registry()
    kolla = registry.organization("kolla")
    for name, image in kolla_like(40).items():
        kolla.repository(name).push("2025.1-debian", image)

    async with QuayServer(registry) as server:
        ...  # use server.url; look at server.requests

Smaller servers imitate Harbor, Docker Hub, GitHub and GitLab, from the documents of these services.

It imitates the behaviour of quay.io that surprises clients, and misbehaves as each `Fault` specifies. It is independent
of the rest of quaymirror, so that a mistake there can't hide behind the same mistake here.
"""

from quaymirror.testing.faults import (
    Action,
    Call,
    CorruptBody,
    CutBody,
    Delay,
    DribbleBody,
    ExtraHeaders,
    Fault,
    Hold,
    IgnoreRange,
    Raw,
    Redirect,
    ReplaceBody,
    Reset,
    ShortBody,
    Stall,
    Status,
    WrongContentRange,
    bad_gateway,
    too_many_requests,
)
from quaymirror.testing.foreign import ForeignServer, Override
from quaymirror.testing.github import GitHubServer
from quaymirror.testing.gitlab import GitLabServer
from quaymirror.testing.harbor import HarborServer
from quaymirror.testing.hub import HubServer
from quaymirror.testing.images import (
    Blob,
    Layer,
    SourceManifest,
    digest_of,
    make_artifact,
    make_attestation,
    make_image,
    make_index,
    make_layer,
)
from quaymirror.testing.kolla import kolla_like
from quaymirror.testing.limits import QUAY_NGINX_HTTP1, LimitRule, RateLimiter
from quaymirror.testing.organization import OAuthToken, Organization, Registry, Repository, Robot, Tag, User
from quaymirror.testing.recording import RequestRecord
from quaymirror.testing.server import QuayServer

__all__ = [
    "QUAY_NGINX_HTTP1",
    "Action",
    "Blob",
    "Call",
    "CorruptBody",
    "CutBody",
    "Delay",
    "DribbleBody",
    "ExtraHeaders",
    "Fault",
    "ForeignServer",
    "GitHubServer",
    "GitLabServer",
    "HarborServer",
    "Hold",
    "HubServer",
    "IgnoreRange",
    "Layer",
    "LimitRule",
    "OAuthToken",
    "Organization",
    "Override",
    "QuayServer",
    "RateLimiter",
    "Raw",
    "Redirect",
    "Registry",
    "ReplaceBody",
    "Repository",
    "RequestRecord",
    "Reset",
    "Robot",
    "ShortBody",
    "SourceManifest",
    "Stall",
    "Status",
    "Tag",
    "User",
    "WrongContentRange",
    "bad_gateway",
    "digest_of",
    "kolla_like",
    "make_artifact",
    "make_attestation",
    "make_image",
    "make_index",
    "make_layer",
    "too_many_requests",
]
