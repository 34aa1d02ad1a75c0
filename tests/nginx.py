"""A real nginx in a process of its own, and its configuration as a load balancer.

What belongs here: starting, addressing and ending it. Other configurations are where they are needed.
"""

import asyncio
import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

_FRAME = """\
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log;
events { worker_connections 4096; }
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_read_timeout 60s;
HTTP
}
"""
"""Paths are relative to nginx's prefix, a directory of this run."""

_LOAD_BALANCER = """\
    upstream proxy { server UPSTREAM; keepalive 256; }
    map $request_id $span { "~^(.{16})" $1; }
    server {
        listen 127.0.0.1:PORT;
        location / {
            proxy_pass http://proxy;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;

            # Where the call came from: the client's address, and of this hop what is the same for all.
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Host $http_host;
            proxy_set_header X-Forwarded-Port $server_port;
            proxy_set_header Forwarded "for=$remote_addr;by=_balancer";
            proxy_set_header Via "1.1 balancer";

            # New for every call, as the balancers of clouds make them.
            proxy_set_header X-Request-Id $request_id;
            proxy_set_header X-Correlation-Id $request_id;
            proxy_set_header X-Request-Start "t=$msec";
            proxy_set_header X-Amzn-Trace-Id "Root=1-$request_id";
            proxy_set_header X-Cloud-Trace-Context "$request_id/1;o=0";
            proxy_set_header traceparent "00-$request_id-$span-01";

            # New with every answer; clients send back the last one.
            add_header Set-Cookie "AWSALB=$request_id; Path=/" always;
            add_header Set-Cookie "AWSALBCORS=$request_id; Path=/; SameSite=None" always;
        }
    }
"""


def program() -> str | None:
    """Return nginx's path; it lives where only root's PATH leads."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


@asynccontextmanager
async def load_balancer(upstream: str, *, before: Sequence[str] = ()) -> AsyncIterator[str]:
    """Run what stands in front of services: it adds the usual forwarding fields and a sticky cookie.

    Yields its URL. `before` goes in front of the command.
    """
    http = _LOAD_BALANCER.replace("UPSTREAM", upstream.removeprefix("http://"))
    async with running(http, before=before) as url:
        yield url


@asynccontextmanager
async def running(http: str, *, before: Sequence[str] = ()) -> AsyncIterator[str]:
    """Run nginx with `http` in the block of that name, where PORT stands for the one it listens on.

    Yields its URL. Raises RuntimeError if it is not installed or does not start.
    """
    nginx = program()
    if nginx is None:
        raise RuntimeError("nginx is not installed")
    directory = _open_directory()
    try:
        # It takes over a socket that listens already, as in its own upgrades: nobody can take the port first.
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
            port = listening.getsockname()[1]
            (directory / "nginx.conf").write_text(_FRAME.replace("HTTP", http.replace("PORT", str(port))))
            process = await asyncio.create_subprocess_exec(
                *before,
                nginx,
                *("-p", directory, "-c", directory / "nginx.conf", "-e", directory / "error.log"),
                env={**os.environ, "NGINX": f"{listening.fileno()};"},
                pass_fds=[listening.fileno()],
                cwd=directory,
                stderr=asyncio.subprocess.DEVNULL,
            )
        try:
            await _started(process, directory)
            yield f"http://127.0.0.1:{port}"
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
            await process.wait()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _started(process: asyncio.subprocess.Process, directory: Path) -> None:
    while not (directory / "nginx.pid").exists():
        if process.returncode is not None:
            log = (directory / "error.log").read_text(errors="replace")
            raise RuntimeError(f"nginx did not start: {log}")
        await asyncio.sleep(0.02)


def _open_directory() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="mlflow-proxy-nginx-"))
    directory.chmod(0o755)  # started by root, nginx works as nobody
    return directory
