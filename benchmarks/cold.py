"""A cold sync to a layout, beside skopeo and the raw limit, over plain HTTP and over TLS.

    python benchmarks/cold.py [tree|tiny|big] [--tls] [--rounds N] [--link]

The raw limit fetches every distinct blob with curl, 16 at a time, and hashes it with openssl on two cores. With
`--link` there is a round trip of 50 ms in between, and each connection of the CDN carries 20 MB/s.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lab import corpus, measure, peers
from lab.front import Front, free_port, front, wait_for

_CORPORA = {"tree": corpus.kolla_tree, "tiny": corpus.tiny, "big": corpus.big}
_HERE = Path(__file__).parent


def main() -> None:
    """Measure, print the table, save the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="?", choices=_CORPORA, default="tree")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--link", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="contestants whose names hold this, and the raw limit")
    parser.add_argument("--profile", action="store_true", help="only quaymirror, under py-spy")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=peers.fast_directory(), prefix="quaymirror-lab-") as directory:
        home = Path(directory)
        content = _CORPORA[options.corpus](home / "site")
        with _served(home, tls=options.tls, link=options.link) as server:
            contestants = peers.cold(server, content, home, link=options.link)
            if options.profile:
                command = next(c for c in contestants if c.name == peers.OURS).command.format(out=home / "out")
                profile = f"py-spy record -o /tmp/profile.svg -r 500 -t -- {command}"
                print(measure.run(profile, home / "out"), server.asked())
                return

            chosen = [c for c in contestants if options.only in c.name or c.name in (peers.OURS, peers.RAW)]
            costs = measure.compare(chosen, home / "out", rounds=options.rounds, asked=server.asked)

    name = "-".join(["cold", options.corpus, *(["tls"] if options.tls else []), *(["link"] if options.link else [])])
    print(
        f"\n{name}: {len(content.images)} images, {content.unique_bytes:,} bytes, {content.referenced:,} referenced\n"
    )
    print("\n".join(measure.table(costs, base=peers.RAW)))
    facts = {
        "unique_bytes": content.unique_bytes,
        "referenced_bytes": content.referenced,
        "images": len(content.images),
    }
    measure.save(name, costs, facts, _HERE / "results")


@contextlib.contextmanager
def _served(home: Path, *, tls: bool, link: bool) -> Iterator[Front]:
    if not link:
        with front(home / "site", home / "nginx", tls=tls) as server:
            yield server

        return

    near, far = (free_port(), free_port()), (free_port(), free_port())
    scheme = "https" if tls else "http"
    cdn = f"{scheme}://127.0.0.1:{near[1]}"
    with front(home / "site", home / "nginx", tls=tls, cdn=cdn, limit_rate="20m", ports=far) as server:
        pairs = [f"{listen}:{to}" for listen, to in zip(near, far, strict=True)]
        proxy = subprocess.Popen([sys.executable, "-m", "lab.link", "50", *pairs], cwd=_HERE)
        try:
            wait_for(near[0])
            server.quay_port, server.cdn_port = near
            yield server
        finally:
            proxy.terminate()
            proxy.wait()


if __name__ == "__main__":
    main()
