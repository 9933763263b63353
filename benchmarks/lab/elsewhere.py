"""occystrap with another server than quay.io, the only one it knows. Nothing else is changed.

python -P elsewhere.py URL [occystrap's own arguments …]
python -P elsewhere.py URL --resolve NAMESPACE TAG WORKERS     only its resolver; prints seconds and what it found
"""

from __future__ import annotations

import json
import sys
import time
from urllib.parse import urlsplit

from occystrap import main, quay


def send_to(url: str) -> None:
    """Replace quay.io by the server at `url`."""
    host = urlsplit(url).netloc
    resolve = quay.resolve_quay_uri
    quay.QUAY_API_BASE = f"{url}/api/v1"
    quay.resolve_quay_uri = lambda *a, **k: [(host, image, tag) for _, image, tag in resolve(*a, **k)]


if __name__ == "__main__":
    send_to(sys.argv[1])
    if sys.argv[2] == "--resolve":
        began = time.perf_counter()
        found = quay.resolve_quay_uri(sys.argv[3], "*", sys.argv[4], max_workers=int(sys.argv[5]))
        print(json.dumps({"seconds": time.perf_counter() - began, "found": len(found)}))
    else:
        main.cli(sys.argv[2:])
