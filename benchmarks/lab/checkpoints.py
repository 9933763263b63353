"""Run a command of quaymirror in this process, and measure the CPU time that the writing of `index.json` takes.

python -P checkpoints.py FIGURES -- sync …

FIGURES gets the number of times that it was written, the seconds of CPU of all of them, and those of the run.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from quaymirror.cli.main import entry
from quaymirror.store import layout


def main() -> None:
    """Run the command, and write the figures."""
    file, words = Path(sys.argv[1]), sys.argv[sys.argv.index("--") + 1 :]
    sys.argv = ["quaymirror", *words]
    spent: list[float] = []
    # The name by which a layout calls it.
    names = vars(layout)
    update = names["update_index"]

    def measured(*given: Any, **options: Any) -> frozenset[str]:
        began = time.thread_time()
        try:
            found: frozenset[str] = update(*given, **options)
            return found
        finally:
            spent.append(time.thread_time() - began)

    names["update_index"] = measured
    try:
        entry()
    except SystemExit as end:
        if end.code:
            raise
    finally:
        figures = {"checkpoints": len(spent), "index_cpu": sum(spent), "run_cpu": time.process_time()}
        file.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
