"""Measure cache hits on one core: this proxy beside nginx, Varnish and a handler of aiohttp alone.

It prints Markdown and asserts nothing. Run it as `python -m tests.bench.hits`. Needs two cores: what answers
has one to itself, wrk has the other. wrk, nginx and Varnish are installed if missing (apt-get, as root).
"""

import argparse
import asyncio
import hashlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

from aiohttp import web

from tests.bench.setups import proxy_process
from tests.bench.table import print_table
from tests.certificates import Authority, Pair
from tests.nginx import running
from tests.ports import free_port

TOKEN = "a-token"
TARGET = "/api/2.0/mlflow/model-versions/list-artifacts?name=m&version=1"
CORE, LOAD = ("taskset", "-c", "0"), ("taskset", "-c", "1")
PACKAGES = {"wrk": "wrk", "nginx": "nginx-core", "varnishd": "varnish"}

_NGINX = """\
    proxy_cache_path cache keys_zone=answers:10m;
    server {
        listen 127.0.0.1:PORT TLS;
        keepalive_requests 1000000000;
        location / {
            proxy_pass UPSTREAM;
            proxy_cache answers;
            proxy_cache_key "$request_method $request_uri $http_authorization";
            proxy_cache_valid 200 1h;
            proxy_cache_lock on;
            add_header X-Cache $upstream_cache_status;
        }
    }
"""
_VARNISH = """\
vcl 4.1;
backend workspace { .host = "127.0.0.1"; .port = "PORT"; }
sub vcl_recv { return (hash); }
sub vcl_hash { hash_data(req.http.Authorization); }
sub vcl_backend_response { set beresp.ttl = 1h; }
"""


Serve = Callable[[str, Pair | None, Path], AbstractAsyncContextManager[str]]
"""Puts something that answers on the first core in front of a workspace's URL; yields its own."""


def ours(sharing: str) -> Serve:
    """Return this proxy in one of its modes."""

    @asynccontextmanager
    async def serve(upstream: str, pair: Pair | None, directory: Path) -> AsyncIterator[str]:
        options = [
            "--access.sharing",
            sharing,
            "--cache.unverified-ttl",
            "3600",
            "--budget.registry-limit",
            "1000",
        ]
        if sharing == "service":
            digest = hashlib.sha256(TOKEN.encode()).hexdigest()
            clients, token = directory / "clients.toml", directory / "token"
            clients.write_text(f'[clients]\nbench = "sha256:{digest}"\n')
            token.write_text("principal")
            options += ["--access.clients-file", str(clients), "--access.token-file", str(token)]
        if pair is not None:
            options += ["--tls.certificate", str(pair.certificate), "--tls.key", str(pair.key)]
        async with proxy_process(upstream, *options, before=CORE) as (url, _):
            yield url

    return serve


@asynccontextmanager
async def nginx(upstream: str, pair: Pair | None, directory: Path) -> AsyncIterator[str]:
    """Run nginx with a proxy_cache."""
    http = _NGINX.replace("UPSTREAM", upstream)
    if pair is not None:
        certified = f"ssl_certificate {pair.certificate}; ssl_certificate_key {pair.key};"
        http = http.replace("keepalive_requests", f"{certified}\n        keepalive_requests")
    async with running(http.replace("TLS", "ssl" if pair is not None else ""), before=CORE) as url:
        yield url if pair is None else url.replace("http:", "https:")


@asynccontextmanager
async def varnish(upstream: str, pair: Pair | None, directory: Path) -> AsyncIterator[str]:
    """Run Varnish, which speaks no TLS."""
    port = free_port()
    vcl = directory / "workspace.vcl"
    vcl.write_text(_VARNISH.replace("PORT", upstream.rpartition(":")[2]))
    process = await asyncio.create_subprocess_exec(
        *CORE,
        *("varnishd", "-F", "-n", str(directory / "varnish"), "-a", f"127.0.0.1:{port}", "-f", str(vcl)),
        *("-s", "malloc,64m", "-p", "thread_pools=1", "-p", "thread_pool_min=50"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


_BARE = """\
import asyncio, ssl, sys
from aiohttp import web
body, port, pair = sys.stdin.buffer.read(), int(sys.argv[1]), sys.argv[2:]
async def answer(request): return web.Response(body=body, content_type="application/json")
async def main():
    context = None
    if pair:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*pair)
    runner = web.ServerRunner(web.Server(answer), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
    await asyncio.Event().wait()
asyncio.run(main())
"""


def bare(body: bytes) -> Serve:
    """Return a handler of aiohttp that answers the same from memory, and does nothing else."""

    @asynccontextmanager
    async def serve(upstream: str, pair: Pair | None, directory: Path) -> AsyncIterator[str]:
        port = free_port()
        files = [] if pair is None else [str(pair.certificate), str(pair.key)]
        process = await asyncio.create_subprocess_exec(
            *CORE, sys.executable, "-c", _BARE, str(port), *files, stdin=subprocess.PIPE
        )
        assert process.stdin is not None
        process.stdin.write(body)
        process.stdin.close()
        try:
            yield f"http{'s' if pair else ''}://127.0.0.1:{port}"
        finally:
            process.terminate()
            await process.wait()

    return serve


@asynccontextmanager
async def workspace(listing: bytes) -> AsyncIterator[str]:
    """Serve a workspace with one model, whose listing is given."""
    model = json.dumps({"registered_model": {"name": "m", "creation_timestamp": 1}}).encode()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        body = listing if "list-artifacts" in request.path else model
        return web.Response(body=body, content_type="application/json")

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def listing(size: int) -> bytes:
    """Return a listing of so many bytes."""
    empty = len(json.dumps({"files": [{"path": "", "is_dir": False, "file_size": 1}]}))
    return json.dumps({"files": [{"path": "x" * (size - empty), "is_dir": False, "file_size": 1}]}).encode()


async def rate(url: str, connections: int, seconds: int) -> float:
    """Return the answers in a second that wrk gets over so many connections, all of them 200."""
    process = await asyncio.create_subprocess_exec(
        *LOAD,
        *(
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{seconds}s",
            "-H",
            f"Authorization: Bearer {TOKEN}",
            url + TARGET,
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said = (await process.communicate())[0].decode()
    if "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(f"{url}: {said}")
    found = re.search(r"Requests/sec:\s+([0-9.]+)", said)
    if found is None:
        raise RuntimeError(f"{url}: {said}")
    return float(found[1])


async def measured(
    servers: dict[str, Serve],
    body: bytes,
    connections: list[int],
    pair: Pair | None,
    options: argparse.Namespace,
) -> None:
    """Print a table: each server's answers a second, and its ratio to nginx's of the same round."""
    names = list(servers)
    rates: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="mlflow-proxy-bench-") as place:
        async with workspace(body) as upstream:
            for _ in range(options.repetitions):
                for name, serve in servers.items():
                    directory = Path(tempfile.mkdtemp(dir=place))
                    for each in (Path(place), directory):
                        each.chmod(0o755)  # Varnish reads its configuration as another user
                    async with serve(upstream, pair, directory) as url:
                        await _warm(url)
                        for count in connections:
                            rates.setdefault((name, count), []).append(
                                await rate(url, count, options.seconds)
                            )
    rows = []
    for count in connections:
        row = [f"{len(body)} bytes{', TLS' if pair else ''}", str(count)]
        for name in names:
            own = rates[name, count]
            against = statistics.median(a / b for a, b in zip(own, rates["nginx", count], strict=True))
            row.append(f"{statistics.median(own):,.0f} ({against:.2f})")
        rows.append(row)
    print_table(["answer", "connections", *names], rows)


async def _warm(url: str) -> None:
    for attempt in range(50):
        try:
            await rate(url, 1, 1)
        except RuntimeError:
            if attempt == 49:
                raise
            await asyncio.sleep(0.1)
        else:
            return


def _install() -> None:
    missing = [package for program, package in PACKAGES.items() if shutil.which(program, path=_PATH) is None]
    if missing:
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(["apt-get", "install", "-y", "-qq", *missing], check=True, stdout=subprocess.DEVNULL)


_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


async def _run(options: argparse.Namespace) -> None:
    os.sched_setaffinity(0, {1})
    for size in options.sizes:
        body = listing(size)
        servers = {
            "mlflow-proxy": ours("proven"),
            "nginx": nginx,
            "Varnish": varnish,
            "aiohttp alone": bare(body),
        }
        await measured(servers, body, options.connections, None, options)
    body = listing(1000)
    with tempfile.TemporaryDirectory(prefix="mlflow-proxy-bench-") as place:
        pair = Authority(Path(place)).issue("bench")
        secure = {"mlflow-proxy": ours("proven"), "nginx": nginx, "aiohttp alone": bare(body)}
        await measured(secure, body, options.connections, pair, options)
    modes = {mode: ours(mode) for mode in ("credential", "proven", "service")}
    await measured({**modes, "nginx": nginx}, body, [32], None, options)


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.hits", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[200, 1000, 20_000], help="bytes of answers")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 32, 256], help="of wrk")
    parser.add_argument("--repetitions", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("--seconds", type=int, default=2, help="of each measurement (default: 2)")
    options = parser.parse_args()
    _install()
    print(
        "Answers in a second on one core, medians; in brackets the median ratio to nginx in the same round.\n"
    )
    asyncio.run(_run(options))


if __name__ == "__main__":
    main()
