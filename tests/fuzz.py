"""Fuzz every parser of outside input, each for its share of the time: `python tests/fuzz.py --seconds 300`.

Each parser runs in a process of its own, under atheris, which looks for inputs that reach new code. Inputs that break a
parser are printed, ready for `FOUND` in tests/property/test_outside_input.py.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent / "support"))
# Only the processes that fuzz have to see which way our code goes.
with atheris.instrument_imports(include=["quaymirror"]) if "--here" in sys.argv else nullcontext():
    from parsers import PARSERS, Parser, survive

_LARGEST = 8192


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=int, default=300, help="for all parsers together")
    options.add_argument("--parser", choices=[*PARSERS], help="this one only")
    options.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.here is not None:
        _fuzz(PARSERS[chosen.parser], chosen.here, chosen.seconds)

    names = [chosen.parser] if chosen.parser else [*PARSERS]
    broken = [name for name in names if not _is_sound(name, max(1, chosen.seconds // len(names)))]
    print(f"{len(names)} parsers, {len(broken)} broken: {', '.join(broken) or 'none'}")
    return 1 if broken else 0


def _is_sound(name: str, seconds: int) -> bool:
    """Fuzz one parser in a process of its own; return whether no input broke it."""
    with tempfile.TemporaryDirectory() as here:
        command = [sys.executable, __file__, "--parser", name, "--seconds", str(seconds), "--here", here]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds * 3 + 120)
        runs = [line for line in done.stderr.splitlines() if line.startswith("Done ")]
        print(f"{name}: {runs[0] if runs else 'broken'}", flush=True)
        if done.returncode == 0:
            return True

        inputs = [path.read_bytes() for path in Path(here).glob("found-*")]
        print("\n".join([*done.stdout.splitlines()[-30:], *done.stderr.splitlines()[-30:]]))
        print(*(f"({name!r}, {data!r})," for data in inputs), sep="\n", flush=True)
        return False


def _fuzz(parser: Parser, here: Path, seconds: int) -> None:
    corpus, words = here / "corpus", here / "words"
    corpus.mkdir()
    for number, seed in enumerate(parser.seeds):
        (corpus / str(number)).write_bytes(seed)

    escaped = ("".join(rf"\x{byte:02x}" for byte in word) for word in parser.words)
    words.write_text("".join(f'"{word}"\n' for word in escaped))
    arguments = [sys.argv[0], f"-max_total_time={seconds}", f"-max_len={_LARGEST}", f"-artifact_prefix={here}/found-"]
    if parser.words:
        arguments.append(f"-dict={words}")

    atheris.Setup([*arguments, str(corpus)], lambda data: survive(parser, data))
    atheris.Fuzz()  # ends the process


if __name__ == "__main__":
    sys.exit(main())
