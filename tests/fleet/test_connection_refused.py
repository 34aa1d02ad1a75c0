"""A Redis that cannot be used is named with the remedy, and no secret is."""

import asyncio
from pathlib import Path

import pytest

from mlflow_proxy.errors import InvalidSettingsError
from mlflow_proxy.fleet.address import parse
from mlflow_proxy.fleet.connection import Connection
from tests.fleet.connecting import ADD, NOWHERE, PASSWORD, SECRET, fails, works
from tests.fleet.redis_server import Certificate, NetworkRedisServer, RedisServer, SentinelServer, running

pytestmark = pytest.mark.impatient


async def test_tls_is_to_be_what_the_url_says(tmp_path: Path) -> None:
    own, other = Certificate(tmp_path, "own"), Certificate(tmp_path, "other")
    async with (
        running(NetworkRedisServer(tmp_path / "tls", certificate=own)) as tls,
        running(NetworkRedisServer(tmp_path / "plain")) as plain,
    ):
        await works(f"{tls.url}?ssl_ca_certs={own.file}")
        await works(f"{tls.url}?ssl_cert_reqs=none")
        await fails(tls.url, "CERTIFICATE_VERIFY_FAILED", "ssl_ca_certs")
        await fails(f"{tls.url}?ssl_ca_certs={other.file}", "CERTIFICATE_VERIFY_FAILED", "ssl_ca_certs")
        await fails(f"redis://{tls.host}", "begins with rediss instead of redis")
        await fails(f"rediss://{plain.host}", "begins with redis instead of rediss")
        for kind in ("rediss+cluster://{}", "rediss+sentinel://{}/main"):
            await fails(kind.format(plain.host))
            await fails(kind.format(tls.host))


async def test_a_wrong_password_is_told_but_not_which(tmp_path: Path) -> None:
    async with (
        running(RedisServer(tmp_path / "local", "--requirepass", PASSWORD)) as local,
        running(NetworkRedisServer(tmp_path / "redis", "--requirepass", PASSWORD)) as server,
        running(SentinelServer(tmp_path / "sentinel", server, f"requirepass {PASSWORD}")) as sentinel,
    ):
        await fails(f"{local.url}?password={SECRET}", "refuses its password or user")
        await fails(server.url, "refuses", "Authentication required")
        await fails(f"redis://:{SECRET}@{server.host}", "refuses its password or user")
        await fails(f"redis://somebody:{SECRET}@{server.host}", "refuses its password or user")
        await fails(f"redis+cluster://:{SECRET}@{server.host}", "refuses its password or user")
        await fails(f"redis+sentinel://{sentinel.host}/main?sentinel_password={SECRET}", "Authentication")


async def test_a_server_that_repeats_the_password_is_not_quoted() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(f"-ERR unknown command, with args beginning with: '{SECRET}'\r\n".encode())
        await reader.read()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        await fails(f"redis://:{SECRET}@127.0.0.1:{server.sockets[0].getsockname()[1]}", "unknown command")


async def test_what_is_no_redis_at_all() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for url in (f"redis://{host}", f"redis+sentinel://{host}/main", f"redis+cluster://{host}"):
            await fails(url)


async def test_a_redis_that_is_full_says_so(tmp_path: Path) -> None:
    async with running(RedisServer(tmp_path, "--maxmemory", "100kb")) as server:
        await fails(server.url, "OutOfMemory", script=ADD)


async def test_a_replica_says_that_it_is_one(tmp_path: Path) -> None:
    async with running(RedisServer(tmp_path, "--replicaof", *NOWHERE.split(":"))) as server:
        await fails(server.url, "read only replica", script=ADD)


async def test_a_redis_that_still_loads_says_so(tmp_path: Path) -> None:
    server = RedisServer(
        tmp_path, "--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024"
    )
    async with running(server):
        await server.ask("EVAL", "for key = 1, 10000 do redis.call('SET', key, ('.'):rep(100)) end", "0")
        await server.ask("SAVE")
        await server.kill()
        await server.start()
        await fails(server.url, "Redis is loading the dataset in memory")


async def test_a_service_that_sentinel_does_not_know(tmp_path: Path) -> None:
    async with (
        running(NetworkRedisServer(tmp_path / "redis")) as server,
        running(SentinelServer(tmp_path / "sentinel", server)) as sentinel,
    ):
        url = f"redis+sentinel://{NOWHERE},{sentinel.host}/none"
        assert "<" not in await fails(url, "Sentinel: No master found for 'none'; ")


async def test_a_redis_is_no_cluster(tmp_path: Path) -> None:
    async with running(NetworkRedisServer(tmp_path / "redis")) as server:
        await fails(f"redis+cluster://{server.host}", "Cluster mode is not enabled")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://geheim@localhost",
        "redis+other://localhost",
        "unix+sentinel://localhost/main",
        "unix://",
        "unix://localhost/redis.sock",
        "redis://",
        "redis://:geheim@",
        "redis://localhost:0",
        "redis://localhost:65536",
        "redis://localhost:geheim",
        "redis://:geheim/geheim@localhost",
        "redis://:geheim?geheim@localhost",
        "redis://:geheim#geheim@localhost",
        "redis://::1",
        "redis://localhost/geheim",
        "redis://localhost?db=geheim",
        "redis://localhost?geheim=1",
        "redis://localhost?decode_responses=yes",
        "redis://localhost?ssl_ca_certs=/geheim",
        "redis://one,two",
        "rediss://localhost?ssl_ca_certs=/geheim",
        "rediss://localhost?ssl_check_hostname=yes&ssl_cert_reqs=some",
        "redis+sentinel://localhost",
        "redis+sentinel://localhost/",
        "redis+sentinel:///main",
        "redis+sentinel://one,,two/main",
        "redis+sentinel://one:x/main",
        "redis+sentinel://one/main/geheim",
        "redis+cluster://",
        "redis+cluster://localhost/1",
        "redis+cluster://localhost?sentinel_password=geheim",
        "rediss+cluster://localhost?ssl_password=geheim",
    ],
)
def test_a_url_that_makes_no_sense(url: str) -> None:
    with pytest.raises(
        InvalidSettingsError, match=r"^redis: .+; give --redis a URL such as redis\S+$"
    ) as caught:
        Connection(url)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("redis://redis.example", [("redis.example", 6379)]),
        ("REDISS://[::1]:7000/", [("::1", 7000)]),
        ("redis+sentinel://a,[fe80::1]:1,c:2/main", [("a", 26379), ("fe80::1", 1), ("c", 2)]),
        ("redis+cluster://a:1,b/", [("a", 1), ("b", 6379)]),
        ("unix:///var/run/redis.sock", []),
    ],
)
def test_hosts_and_ports(url: str, hosts: list[tuple[str, int]]) -> None:
    assert parse(url).hosts == hosts
