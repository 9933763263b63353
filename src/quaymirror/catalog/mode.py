"""Ways to resolve tags on a Quay server."""

from __future__ import annotations

from enum import Enum


class Discovery(Enum):
    """Where to resolve tags: the API until it limits the rate, then the registry (`AUTO`), or always one of them."""

    AUTO = "auto"
    API = "api"
    REGISTRY = "registry"
