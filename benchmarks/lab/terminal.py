"""Run a command in a terminal of 120 x 40, and read its output.

python -P terminal.py COMMAND …
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import sys
import termios


def main() -> int:
    """Return the exit code of the command."""
    child, terminal = pty.fork()
    if child == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        os.environ["TERM"] = "xterm-256color"
        os.execvp(sys.argv[1], sys.argv[1:])

    with contextlib.suppress(OSError):  # the other end is closed
        while os.read(terminal, 65536):
            pass

    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main())
