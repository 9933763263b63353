"""A slow link before a registry that takes uploads: nginx passes on each request once the link would have carried it.

A request waits for a round trip, one more on a new connection, and until its body would have arrived at the rate of
the link; then it passes at once. A body that comes more slowly anyway, since its client receives it from a distant
source at the same time, waits no longer for that. nginx waits without CPU time of the cores that are measured. Without
Lua, a proxy delays all bytes instead (`lab.link`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from .front import Link, free_port, listening, loading, nginx, proxy, user, wait_for

_CONFIG = """
{load} {user} daemon off; worker_processes 2; pid {home}/nginx.pid; error_log {home}/error.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_max_body_size 0; keepalive_requests 1000000; keepalive_timeout 75s;
  client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f; uwsgi_temp_path {home}/u;
  scgi_temp_path {home}/s; {wait}
  upstream registry {{ server 127.0.0.1:{registry}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://registry; proxy_http_version 1.1;
      proxy_set_header Connection ""; proxy_set_header Host $http_host;
      proxy_read_timeout 600s; proxy_send_timeout 600s;
      proxy_redirect http://127.0.0.1:{registry}/ http://127.0.0.1:{near}/;
    }}
  }}
}}
"""
_WAIT = """
  client_body_buffer_size 1m;
  access_by_lua_block {{
    -- It is read as fast as the client sends it, and kept until the link would have carried it.
    ngx.req.read_body()
    local file, length = ngx.req.get_body_file(), #(ngx.req.get_body_data() or "")
    if file then
      local body = io.open(file)
      length = body:seek("end")
      body:close()
    end
    ngx.update_time()
    local owed = {trip} + math.max(0, length / {rate} - (ngx.now() - ngx.req.start_time()))
    if ngx.var.connection_requests == "1" then
      owed = owed + math.max(0, {trip} - tonumber(ngx.var.connection_time))
    end
    ngx.sleep(owed)
  }}
"""


@contextlib.contextmanager
def relay(registry: int, home: Path, link: Link) -> Iterator[int]:
    """Yield a port at which the registry at the port `registry` is reached over `link` while the context lasts."""
    home.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listening(link.rate if link.waits_in_nginx else 0))
        far = listener.getsockname()[1]
        near = far if link.waits_in_nginx else free_port()
        stack.enter_context(nginx(home, _configuration(registry, home, link, far, near), [listener]))
        if near != far:
            stack.enter_context(proxy(link, [near], [far]))

        wait_for(near)
        yield near


def _configuration(registry: int, home: Path, link: Link, port: int, near: int) -> str:
    wait = _WAIT.format(trip=link.round_trip, rate=link.rate) if link.waits_in_nginx else ""
    return _CONFIG.format(
        home=home, user=user(), registry=registry, port=port, near=near, wait=wait, load=loading() if wait else ""
    )
