"""What stands between the clients and the workspace: the proxy or nginx, each as a process of its own.

What belongs here: starting, addressing and ending them.
"""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from tests.nginx import load_balancer, running

_POLITELY = ("nice", "-n", "5")
"""Below the workspace and above the clients (`measure.loaders`): on one machine they delay each other."""

_CACHE = """\
    proxy_cache_path cache keys_zone=answers:10m;
    limit_req_zone $server_name zone=registry:1m rate=LIMITr/s;
    upstream pacer { server unix:pacer.sock; keepalive 64; }
    upstream workspace { server WORKSPACE; keepalive 64; }

    # Stored answers, each for the token it was given to; of equal questions only one goes on.
    server {
        listen 127.0.0.1:PORT;
        location / {
            proxy_pass http://pacer;
            proxy_cache answers;
            proxy_cache_key "$request_method $request_uri $http_authorization";
            proxy_cache_valid 200 60s;
            proxy_cache_lock on;
        }
    }

    # What goes on is spaced; the queue is long enough for every call of the storm.
    server {
        listen unix:pacer.sock;
        location / {
            limit_req zone=registry burst=100000;
            proxy_pass http://workspace;
        }
        location /.well-known/ { proxy_pass http://workspace; }
    }
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
        *("-m", "mlflow_proxy", "serve", "--upstream", upstream, "--port", "0"),
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
    http = _CACHE.replace("WORKSPACE", upstream.removeprefix("http://")).replace("LIMIT", str(limit))
    async with running(http, before=_POLITELY) as url:
        yield url


@asynccontextmanager
async def balanced_proxy(upstream: str, *options: str) -> AsyncIterator[str]:
    """Run `mlflow-proxy serve` behind an nginx as load balancer; yields the URL of that."""
    async with proxy(upstream, *options) as behind, load_balancer(behind, before=_POLITELY) as url:
        yield url


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
    await process.wait()


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.read(1 << 16):
        pass
