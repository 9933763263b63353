"""The socket that systemd listens at for the server."""

from __future__ import annotations

import os
import socket

from ..errors import ConfigError

# The first descriptor that systemd passes (sd_listen_fds(3)).
_FIRST = 3


def passed_socket() -> socket.socket:
    """Return the listening socket that systemd passed to this process; the variables that announce it are removed.

    :raises ConfigError: if there is none, several, or one that is not for TCP.
    """
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or count != "1":
        found = f"{count} sockets" if pid == str(os.getpid()) and count != "0" else "no socket"
        raise ConfigError(
            f"--listen systemd: systemd passed {found}: start quaymirror by a socket unit with one ListenStream="
        )

    os.set_inheritable(_FIRST, False)
    passed = socket.socket(fileno=_FIRST)
    if passed.family not in (socket.AF_INET, socket.AF_INET6) or passed.type != socket.SOCK_STREAM:
        passed.close()
        raise ConfigError("--listen systemd: the socket is not one for TCP: write ListenStream=HOST:PORT")

    passed.setblocking(False)
    return passed
