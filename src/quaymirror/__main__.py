"""The command `quaymirror`, and `python -m quaymirror`."""

import gc

# Imported objects stay: a search for garbage among them takes 3 % of the start-up time. The commands enable it.
gc.disable()

from .cli.main import run_and_exit as entry  # noqa: E402 - see above

if __name__ == "__main__":
    entry()
