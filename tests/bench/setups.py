"""What stands between the clients and the workspace: the proxy or nginx, each as a process of its own.

What belongs here: starting, addressing and ending them.
"""

import asyncio
import contextlib
import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

_POLITELY = ("nice", "-n", "5")
"""Below the workspace and above the clients (`measure.loaders`): on one machine they delay each other."""

_NGINX = """\
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    proxy_cache_path {directory}/cache keys_zone=answers:10m;
    limit_req_zone $server_name zone=registry:1m rate={limit}r/s;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_read_timeout 60s;
    upstream pacer {{ server 127.0.0.1:{pacer}; keepalive 64; }}
    upstream workspace {{ server {workspace}; keepalive 64; }}

    # Stored answers, and of equal questions only one goes on.
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location / {{
            proxy_pass http://pacer;
            proxy_cache answers;
            proxy_cache_key "$request_method $request_uri $http_authorization";
            proxy_cache_valid 200 60s;
            proxy_cache_lock on;
        }}
    }}

    # What goes on is spaced; the queue is long enough for every call of the storm.
    server {{
        listen 127.0.0.1:{pacer} backlog=1024;
        location / {{
            limit_req zone=registry burst=10000;
            proxy_pass http://workspace;
        }}
        location /.well-known/ {{ proxy_pass http://workspace; }}
    }}
}}
"""


@asynccontextmanager
async def proxy(upstream: str, *options: str) -> AsyncIterator[str]:
    """Run `mlflow-proxy serve`; yields its URL."""
    async with proxy_process(upstream, *options) as (url, _):
        yield url


@asynccontextmanager
async def proxy_process(
    upstream: str, *options: str, before: Sequence[str] = (), secret: str = ""
) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """Run `mlflow-proxy serve` with `before` in front of the command; yields its URL and the process."""
    process = await asyncio.create_subprocess_exec(
        *before,
        *_POLITELY,
        sys.executable,
        *("-m", "proxy", "serve", "--upstream", upstream, "--port", "0"),
        *("--log-format", "json", "--shutdown-grace", "0", *options),
        env={**os.environ, "MLFLOW_PROXY_FLEET__SECRET": secret} if secret else None,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    log = process.stderr
    try:
        url = ""
        while not url:
            line = await log.readline()
            if not line:
                raise RuntimeError("the proxy did not start")
            url = json.loads(line).get("url", "")
        drain = asyncio.create_task(_drain(log))  # a full pipe would stop the proxy
        try:
            yield url, process
        finally:
            await _end(process)
            await drain
    finally:
        await _end(process)


@asynccontextmanager
async def nginx(upstream: str, limit: int) -> AsyncIterator[str]:
    """Run nginx with a cache, a lock for equal questions and a pacer behind them; yields its URL."""
    program = nginx_program()
    if program is None:
        raise RuntimeError("nginx is not installed")
    directory = _open_directory()
    try:
        port, pacer = _free_ports(2)
        config = directory / "nginx.conf"
        workspace = upstream.removeprefix("http://")
        config.write_text(
            _NGINX.format(directory=directory, port=port, pacer=pacer, workspace=workspace, limit=limit)
        )
        process = await asyncio.create_subprocess_exec(
            *_POLITELY,
            program,
            *("-p", directory, "-c", config, "-e", directory / "error.log"),
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await _listening(process, port, directory / "error.log")
            yield f"http://127.0.0.1:{port}"
        finally:
            await _end(process)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def nginx_program() -> str | None:
    """Return nginx's path; it lives where only root's PATH leads."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
    await process.wait()


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.read(1 << 16):
        pass


async def _listening(process: asyncio.subprocess.Process, port: int, log: Path) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            if process.returncode is not None:
                raise RuntimeError(f"nginx did not start: {_text(log)}") from None
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return


def _open_directory() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="mlflow-proxy-bench-"))
    directory.chmod(0o755)  # started by root, nginx works as nobody
    return directory


def _text(path: Path) -> str:
    return path.read_text(errors="replace")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
