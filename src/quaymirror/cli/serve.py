"""`quaymirror serve`."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path

import anyio
import click

from ..errors import ExitCode
from ..serve.options import DEFAULT_LISTEN, ServeOptions
from ..text import counted
from .help import ADDRESS, command_option, options
from .messages import say


@click.command
@click.argument("mirrors", metavar="[PREFIX=]MIRROR...", nargs=-1, required=True, type=ADDRESS)
@command_option(
    "--listen",
    metavar="HOST:PORT",
    default=DEFAULT_LISTEN,
    show_default=True,
    help="Address to listen at; systemd for the socket of its unit.",
)
@command_option("--tls-cert", metavar="FILE", type=click.Path(path_type=Path), help="Certificate chain (PEM).")
@command_option("--tls-key", metavar="FILE", type=click.Path(path_type=Path), help="Its key (PEM).")
@command_option("--htpasswd", metavar="FILE", type=click.Path(path_type=Path), help="Users who may pull (htpasswd -B).")
@command_option("--at", metavar="DATE|ID", help="Serve an earlier set of images: a snapshot, or that of a day.")
@command_option("--access-log", metavar="FILE", help="Append a JSON line per request; - for standard output.")
@options("serve")
@command_option(
    "--write-nginx",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Serve nothing: write a configuration of nginx for the images of one mirror to DIR.",
)
def serve(
    mirrors: tuple[str, ...],
    listen: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    htpasswd: Path | None,
    at: str | None,
    access_log: str | None,
    write_nginx: Path | None,
    state: Path | None,
) -> int:
    """Serve mirrors as a read-only registry, with pages for people, until SIGTERM or Ctrl-C.

    Clients pull images by the names that they have in the mirror: HOST:PORT/kolla/nova-api:2025.1-debian. New images
    appear by themselves, and neither sync nor prune interrupts a pull. TAG.at.2026-03-03 is the image that TAG named at
    the end of that day. With several mirrors, PREFIX= puts a prefix before the names of one. Files of certificates and
    users are read again when they change.

    \b
    quaymirror serve /srv/mirror
    quaymirror serve /srv/mirror --listen :5000 --tls-cert tls.crt --tls-key tls.key --htpasswd users
    """
    wanted = ServeOptions(
        listen=listen,
        tls_cert=tls_cert,
        tls_key=tls_key,
        htpasswd=htpasswd,
        at=at,
        access_log=access_log,
        state=state,
    )
    if write_nginx is not None:
        return _write_nginx(mirrors, write_nginx, wanted)

    # asyncio's own TLS takes several times as long; without TLS its sendfile is better.
    anyio.run(partial(_serve, mirrors, wanted), backend_options={"use_uvloop": tls_cert is not None and _has_uvloop()})
    return ExitCode.OK


def _write_nginx(mirrors: tuple[str, ...], directory: Path, options: ServeOptions) -> int:
    from ..serve.serving import write_nginx_files

    if len(mirrors) != 1 or options.htpasswd is not None or options.tls_cert is not None:
        raise click.UsageError("--write-nginx is for one mirror, without --htpasswd and --tls-cert")

    count = anyio.run(write_nginx_files, mirrors[0], directory, options)
    say(f"{counted(count, 'image')} in {directory / 'nginx.conf'}: include it in the block http of nginx")
    return ExitCode.OK


async def _serve(mirrors: tuple[str, ...], options: ServeOptions) -> None:
    from ..serve.serving import serve_mirrors

    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:

        async def wait_for_signals() -> None:
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for _ in signals:
                    if stop.is_set():
                        tasks.cancel_scope.cancel()

                    stop.set()

        tasks.start_soon(wait_for_signals)
        await serve_mirrors(mirrors, options, say=say, ready=lambda url: say(f"serving at {url}"), stop=stop)
        tasks.cancel_scope.cancel()


def _has_uvloop() -> bool:
    from importlib.util import find_spec

    return find_spec("uvloop") is not None
