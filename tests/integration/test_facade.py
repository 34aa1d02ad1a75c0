"""Door A's own endpoints: listings and files under the reserved prefix, and nothing beyond it."""

import asyncio
import gzip
import time
from typing import Literal

import aiohttp
import pytest

from mlflow_proxy.demo.answers import Answer, Hang, Truncate
from mlflow_proxy.demo.models import Model, ModelVersion, Pattern
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from tests.integration.conftest import FILES, sample
from tests.integration.support import (
    HIT,
    MUCH,
    STORED,
    Api,
    Inbound,
    RawClient,
    Upstream,
    first,
    proxied,
    raw,
    request_bytes,
)

ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
ROOT = f"{ARTIFACTS}/mlflow-proxy/m/1"
UNAVAILABLE = "TEMPORARILY_UNAVAILABLE"
BIG = Pattern(300_000, seed=1).read(0, 300_000)


def listed(*files: tuple[str, int | None]) -> dict[str, object]:
    return {
        "files": [
            {"path": path, "is_dir": True}
            if size is None
            else {"path": path, "is_dir": False, "file_size": size}
            for path, size in files
        ]
    }


async def test_dbfs_becomes_a_path_of_ours(api: Api) -> None:
    reply = await api.get("model-versions/get-download-uri", name="m", version="1")
    assert reply.json() == {"artifact_uri": "mlflow-artifacts:/mlflow-proxy/m/1"}


@pytest.mark.parametrize(
    "body",
    [
        b'{"artifact_uri":  "s3://bucket/m"}',
        b'{"artifact_uri":  "mlflow-artifacts:/1/models"}',
        b'{"artifact_uri":  null}',
        b"[]",
        b"not json",
    ],
)
async def test_other_places_are_left_alone(workspace: EmulatedWorkspace, api: Api, body: bytes) -> None:
    workspace.fault = lambda _: Answer(200, body)
    assert (await api.get("model-versions/get-download-uri", name="m", version="1")).body == body


@pytest.mark.parametrize(
    "body",
    [
        b'{"error_code": "PERMISSION_DENIED"}',
        b'{"files": [], "error_code": "X"}',
        b'{"signed_uri": "x"}',
        b"<html>",
    ],
)
async def test_what_is_no_listing_is_no_empty_directory(
    workspace: EmulatedWorkspace, api: Api, body: bytes
) -> None:
    """Clients take an empty listing for a model without files, and report success."""
    workspace.fault = lambda _: Answer(200, body)
    reply = await api.call("GET", f"{ARTIFACTS}?path=mlflow-proxy/m/1")
    assert (reply.status, reply.json()["error_code"]) == (502, "TEMPORARILY_UNAVAILABLE")


@pytest.mark.parametrize("prefix", [ARTIFACTS, "/ajax-api/2.0/mlflow-artifacts/artifacts"])
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", listed(("MLmodel", 12), ("data", None), ("empty.txt", 0), ("void", None))),
        ("/", listed(("MLmodel", 12), ("data", None), ("empty.txt", 0), ("void", None))),
        ("/data", listed(("big.bin", 300_000), ("deeper", None))),
        ("/data/deeper", listed(("a b#\u00fc%41+.txt", 3))),
        ("/void", listed()),
        ("/MLmodel", listed()),
    ],
)
async def test_a_listing_names_what_is_in_a_directory(
    api: Api, prefix: str, path: str, expected: dict[str, object]
) -> None:
    reply = await api.get(prefix, path=f"mlflow-proxy/m/1{path}")
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
    assert reply.json() == expected


async def test_a_listing_of_many_pages_is_one(workspace: EmulatedWorkspace, api: Api) -> None:
    names = [f"f{number:04}" for number in range(2500)]
    workspace.models["many"] = Model("many", {"1": ModelVersion(dict.fromkeys(names, b""))})
    reply = await api.get(ARTIFACTS, path="mlflow-proxy/many/1")
    assert [file["path"] for file in reply.json()["files"]] == names
    assert len(workspace.arrivals.to("model-versions/list-artifacts")) == 3


async def test_files_arrive_and_storage_sees_no_credential(workspace: EmulatedWorkspace, api: Api) -> None:
    cookie = {"Cookie": "secret=1", "X-Forwarded-Access-Token": "secret"}
    for path, quoted in [
        ("MLmodel", "MLmodel"),
        ("data/big.bin", "data/big.bin"),
        ("data/big.bin", "data%2Fbig.bin"),
        ("data/deeper/a b#\u00fc%41+.txt", "data/deeper/a%20b%23%C3%BC%2541%2B.txt"),
        ("data/deeper/a b#\u00fc%41+.txt", "data/deeper/a%20b%23%C3%BC%2541+.txt"),
        ("empty.txt", "empty.txt"),
    ]:
        reply = await api.call("GET", f"{ROOT}/{quoted}", headers=cookie)
        content = FILES[path]
        assert reply.status == 200
        assert reply.body == (content if isinstance(content, bytes) else BIG)
        assert reply.headers["Content-Length"] == str(len(content))
        assert reply.headers["ETag"]
    for arrival in workspace.storage.arrivals:
        assert {name.lower() for name in arrival.headers} <= {"host", "accept", "accept-encoding"}


@pytest.mark.parametrize("form", ["aws", "azure", "gcp"])
async def test_storage_gets_what_was_signed(
    session: aiohttp.ClientSession, form: Literal["aws", "azure", "gcp"]
) -> None:
    options = WorkspaceOptions(limit=MUCH, latency=0, signed_url_form=form)
    async with EmulatedWorkspace([sample()], options) as workspace, proxied(workspace.url) as url:
        reply = await Api(session, url).get(f"{ROOT}/MLmodel")
    assert (reply.status, reply.body) == (200, FILES["MLmodel"])


async def test_files_are_counted_as_files(workspace: EmulatedWorkspace, api: Api) -> None:
    """They are no calls that the proxy merely lets pass."""
    reply = await api.call("GET", f"{ARTIFACTS}/mlflow-proxy/m/1/MLmodel")
    assert (reply.status, reply.outcome) == (200, "fwd=miss; detail=file")
    counted = {"route": "mlflow-artifacts/*", "outcome": "fwd=miss; detail=file", "status": "200"}
    await api.until_metric("mlflow_proxy_requests_total", 1, **counted)
    assert await api.metric("mlflow_proxy_requests_total") == 1


async def test_storage_tells_about_the_file_and_nothing_else(workspace: EmulatedWorkspace, api: Api) -> None:
    told = {"Content-Type": "a/b", "Last-Modified": "yesterday", "Set-Cookie": "a=1", "X-Amz-Id-2": "secret"}
    workspace.storage.fault = lambda _: Answer(200, b"x", told)
    reply = await raw(api.url, "GET", f"{ROOT}/MLmodel")
    assert (reply.all("Content-Type"), reply.all("Last-Modified")) == (["a/b"], ["yesterday"])
    assert (reply.all("Set-Cookie"), reply.all("X-Amz-Id-2")) == ([], [])


async def test_a_file_that_is_stored_in_a_coding_stays_in_it(workspace: EmulatedWorkspace, api: Api) -> None:
    packed = gzip.compress(b"flavors: {}\n")
    said = {"Content-Encoding": "gzip", "ETag": '"a"', "Accept-Ranges": "bytes"}
    workspace.storage.fault = lambda _: Answer(200, packed, {**said, "Content-MD5": "x"})
    reply = await raw(api.url, "GET", f"{ROOT}/MLmodel")
    assert reply.body == packed
    assert {name: reply.all(name) for name in said} == {name: [value] for name, value in said.items()}
    assert not reply.all("Content-MD5"), "storage's word on its bytes, which no client asks for"


async def test_a_range_is_storages_affair(workspace: EmulatedWorkspace, api: Api) -> None:
    url = f"{ROOT}/data/big.bin"
    whole = await api.call("GET", url)
    part = await api.call("GET", url, headers={"Range": "bytes=1000-1999"})
    assert (part.status, part.headers["Content-Range"]) == (206, "bytes 1000-1999/300000")
    assert part.body == BIG[1000:2000]
    last = await api.call("GET", url, headers={"Range": "bytes=-5"})
    assert last.body == BIG[-5:]
    stale = await api.call("GET", url, headers={"Range": "bytes=0-1", "If-Range": '"other"'})
    assert (stale.status, len(stale.body)) == (200, 300_000)
    same = await api.call("GET", url, headers={"Range": "bytes=0-1", "If-Range": whole.headers["ETag"]})
    assert (same.status, len(same.body)) == (206, 2)
    beyond = await api.call("GET", url, headers={"Range": "bytes=300000-"})
    assert (beyond.status, beyond.headers["Content-Range"]) == (416, "bytes */300000")
    assert len(workspace.arrivals.to("model-versions/get-signed-download-uri")) == 1


async def test_head_tells_the_size_without_fetching_it(workspace: EmulatedWorkspace, api: Api) -> None:
    workspace.models["m"].versions["3"] = ModelVersion({"huge": Pattern(2**30)})
    reply = await raw(api.url, "HEAD", f"{ARTIFACTS}/mlflow-proxy/m/3/huge")
    assert (reply.status, reply.all("Content-Length"), reply.body) == (200, [str(2**30)], b"")
    await workspace.storage.until(lambda arrivals: arrivals[0].cancelled)


@pytest.mark.parametrize(
    ("target", "status"),
    [(f"{ARTIFACTS}?path=mlflow-proxy/m/1", 200), (f"{ARTIFACTS}/mlflow-proxy/m/1", 400)],
)
async def test_what_is_said_to_a_head_is_no_part_of_the_next_answer(
    api: Api, target: str, status: int
) -> None:
    async with await RawClient.connect(api.url) as client:
        await client.send(f"HEAD {target} HTTP/1.1\r\nHost: proxy.localhost\r\n\r\n".encode())
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status} ".encode())
        if b"Connection: close" not in head:
            await client.send(request_bytes("GET", "/-/healthz"))
        reply = await client.rest()
    assert reply.line in {"", "HTTP/1.1 200 OK"}


@pytest.mark.parametrize(
    "target",
    [
        f"{ARTIFACTS}/mlflow-proxy",
        f"{ARTIFACTS}/mlflow-proxy/m",
        f"{ARTIFACTS}/mlflow-proxy/m/1",
        f"{ARTIFACTS}/mlflow-proxy/m/1/",
        f"{ARTIFACTS}/mlflow-proxy/m/latest/MLmodel",
        f"{ARTIFACTS}/mlflow-proxy/m/-1/MLmodel",
        f"{ARTIFACTS}/mlflow-proxy/m/1;2/MLmodel",
        f"{ROOT}/../2/only.bin",
        f"{ROOT}/%2e%2e/2/only.bin",
        f"{ROOT}/%2E%2e%2F2%2Fonly.bin",
        f"{ROOT}/data/..%2f..%2f2/only.bin",
        f"{ROOT}/./MLmodel",
        f"{ROOT}//MLmodel",
        f"{ROOT}/data%5C..%5CMLmodel",
        f"{ROOT}/MLmodel%00.txt",
        f"{ROOT}/%ff",
        f"{ROOT}/MLmodel/..",
        f"{ARTIFACTS}/mlflow-proxy/../m/1/MLmodel",
        f"{ARTIFACTS}/mlflow-proxy/%6d/1/..",
        f"{ARTIFACTS}/mlflow-proxy/m%20/1/MLmodel",
        f"{ARTIFACTS}/mlflow-proxy/m~FF/1/MLmodel",
        f"{ARTIFACTS}?path=mlflow-proxy",
        f"{ARTIFACTS}?path=mlflow-proxy/m/1/..",
        f"{ARTIFACTS}?path=mlflow-proxy/m/1/%2e%2e/2",
        f"{ARTIFACTS}?path=mlflow-proxy/m/1/../../..",
        f"{ARTIFACTS}?path=mlflow-proxy%2Fm%2F1%2F..%2F2",
        f"{ARTIFACTS}?path=1/a&path=mlflow-proxy/m/1",
        f"{ARTIFACTS}?path=mlflow-proxy/m/1;x=1",
        f"{ARTIFACTS}?path=mlflow-proxy/m/1%zz",
    ],
)
async def test_what_names_no_file_is_refused(workspace: EmulatedWorkspace, api: Api, target: str) -> None:
    reply = await raw(api.url, "GET", target)
    assert (reply.status, reply.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert not workspace.arrivals


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (f"{ARTIFACTS}/mlflow-proxy/m/9/MLmodel", 404),
        (f"{ARTIFACTS}/mlflow-proxy/nobody/1/MLmodel", 404),
        (f"{ARTIFACTS}/mlflow-proxy/m~2f/1/MLmodel", 404),
        (f"{ARTIFACTS}?path=mlflow-proxy/m/9", 404),
        (f"{ARTIFACTS}?path=mlflow-proxy/nobody/1", 404),
        (f"{ARTIFACTS}?path=mlflow-proxy/m/1/nothing", 404),
    ],
)
async def test_what_is_not_there_is_the_workspaces_own_answer(
    workspace: EmulatedWorkspace, api: Api, target: str, status: int
) -> None:
    reply = await raw(api.url, "GET", target)
    assert reply.status == status
    assert reply.json()["error_code"] == "RESOURCE_DOES_NOT_EXIST"
    assert workspace.arrivals


@pytest.mark.parametrize("target", [f"{ROOT}/%252e%252e/2/only.bin", f"{ROOT}/nothing", f"{ROOT}/data"])
async def test_a_file_that_is_not_there_is_an_error(
    workspace: EmulatedWorkspace, api: Api, target: str
) -> None:
    reply = await raw(api.url, "GET", target)
    assert reply.status in {400, 404, 502}
    assert reply.json()["error_code"]


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH"])
async def test_files_of_models_are_read_only(workspace: EmulatedWorkspace, api: Api, method: str) -> None:
    reply = await raw(api.url, method, f"{ROOT}/MLmodel", [("Content-Length", "2")], b"hi")
    assert (reply.status, reply.all("Allow")) == (405, ["GET, HEAD"])
    assert reply.json()["error_code"]
    assert not workspace.arrivals


@pytest.mark.parametrize("kind", ["presigned", "mpu/create", "anything"])
async def test_optional_ways_are_not_offered(workspace: EmulatedWorkspace, api: Api, kind: str) -> None:
    reply = await raw(api.url, "GET", f"/api/2.0/mlflow-artifacts/{kind}/mlflow-proxy/m/1/MLmodel")
    assert reply.status in {404, 501}
    assert reply.json()["error_code"]


@pytest.mark.parametrize(
    "target",
    [
        f"{ARTIFACTS}/1/run/artifacts/f",
        f"{ARTIFACTS}/mlflow-proxyx/m/1/f",
        f"{ARTIFACTS}/1/mlflow-proxy/m/1/f",
        f"{ARTIFACTS}?path=1/run",
        f"{ARTIFACTS}?path=",
        ARTIFACTS,
        f"{ARTIFACTS}/x/../mlflow-proxy/m/1/MLmodel",
        f"{ARTIFACTS}/./mlflow-proxy/m/1/MLmodel",
        "/api/2.0/mlflow-artifacts/presigned/1/f",
        "/api/3.0/mlflow/server-info",
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_paths_outside_the_prefix_pass_through(
    upstream: Upstream, proxy_url: str, target: str, method: str
) -> None:
    reply = await raw(proxy_url, method, target, [("Content-Length", "0")])
    assert reply.body == b"{}"
    assert [inbound.line for inbound in upstream.seen] == [f"{method} {target} HTTP/1.1"]


# -- storage that fails ----------------------------------------------------------------------------


async def test_a_truncated_file_never_looks_complete(workspace: EmulatedWorkspace, api: Api) -> None:
    workspace.storage.fault = lambda _: Truncate(1000)
    reply = await raw(api.url, "GET", f"{ROOT}/data/big.bin")
    assert reply.broken or not reply.complete
    workspace.storage.fault = lambda _: None
    assert (await raw(api.url, "GET", f"{ROOT}/data/big.bin")).body == BIG


@pytest.mark.parametrize("status", [302, 400, 403, 404, 500, 503])
async def test_storages_own_errors_are_not_files(workspace: EmulatedWorkspace, api: Api, status: int) -> None:
    workspace.storage.fault = lambda _: Answer(status, b"<Error/>", {"Location": "/x"})
    reply = await raw(api.url, "GET", f"{ROOT}/MLmodel")
    assert reply.status == (404 if status == 404 else 502)
    assert reply.json()["error_code"] == ("RESOURCE_DOES_NOT_EXIST" if status == 404 else UNAVAILABLE)
    assert "sig" not in reply.json()["message"].replace("signed", "").lower()


async def test_a_redirect_of_storage_is_followed(workspace: EmulatedWorkspace, api: Api) -> None:
    redirect, other = Answer(307, b"", {"Location": "/elsewhere"}), Answer(200, b"elsewhere")
    workspace.storage.fault = lambda request: other if request.path == "/elsewhere" else redirect
    reply = await raw(api.url, "GET", f"{ROOT}/MLmodel")
    assert (reply.status, reply.body, reply.all("Location")) == (200, b"elsewhere", [])
    head = await raw(api.url, "HEAD", f"{ROOT}/MLmodel")
    assert (head.status, head.all("Content-Length"), head.body) == (200, ["9"], b"")
    assert [arrival.target for arrival in workspace.storage.arrivals][1] == "/elsewhere"
    assert await api.metric("mlflow_proxy_storage_calls_total", status="307") == 2


ENDED = [
    Answer(400, b"<?xml version='1.0'?><Error><Code>ExpiredToken</Code></Error>"),
    Answer(401, b"<Error/>"),
    Answer(403, b"<Error/>"),
]
"""What storage says of a URL that has ended."""
SIGN = "model-versions/get-signed-download-uri"


@pytest.mark.parametrize("answer", ENDED)
async def test_a_stored_url_that_storage_refuses_is_replaced(
    workspace: EmulatedWorkspace, api: Api, answer: Answer
) -> None:
    assert (await api.get(f"{ROOT}/MLmodel")).status == 200
    workspace.storage.fault = first(1, answer)
    reply = await api.get(f"{ROOT}/MLmodel")
    assert (reply.status, reply.body) == (200, FILES["MLmodel"])
    assert len(workspace.arrivals.to(SIGN)) == 2
    assert (await api.get(f"{ROOT}/MLmodel")).status == 200
    assert len(workspace.arrivals.to(SIGN)) == 2


@pytest.mark.parametrize("answer", ENDED)
async def test_it_is_signed_anew_once(workspace: EmulatedWorkspace, api: Api, answer: Answer) -> None:
    assert (await api.get(f"{ROOT}/MLmodel")).status == 200
    workspace.storage.fault = lambda _: answer
    assert (await api.get(f"{ROOT}/MLmodel")).status == 502
    assert len(workspace.arrivals.to(SIGN)) == 2
    assert len(workspace.storage.arrivals) == 3
    # Nor is the second kept: whoever asks next has one that is new.
    assert (await api.get(SIGN, name="m", version="1", path="MLmodel")).outcome == STORED


async def test_it_is_signed_anew_once_for_all_who_meet_it(session: aiohttp.ClientSession) -> None:
    began, later = time.time(), [0.0]
    options = WorkspaceOptions(limit=MUCH, latency=0)
    async with (
        EmulatedWorkspace([sample()], options, clock=lambda: began + later[0]) as workspace,
        proxied(workspace.url) as url,
    ):
        api = Api(session, url)
        assert (await api.get(f"{ROOT}/MLmodel")).status == 200
        old = workspace.storage.arrivals[0].target
        workspace.storage.fault = lambda request: ENDED[0] if request.raw_path == old else None
        later[0] = 1.0  # so that the next URL is another
        replies = await asyncio.gather(*(api.get(f"{ROOT}/MLmodel") for _ in range(10)))
        assert [reply.status for reply in replies] == [200] * 10
        assert len(workspace.arrivals.to(SIGN)) == 2


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b"<Error><Code>InvalidArgument</Code></Error>"),
        (400, b"<Code>ExpiredToken</Code>".rjust(2**20)),
        (429, b""),
        (500, b""),
        (503, b"<Error><Code>SlowDown</Code></Error>"),
    ],
)
async def test_other_errors_of_storage_cost_no_signature(
    workspace: EmulatedWorkspace, api: Api, status: int, body: bytes
) -> None:
    workspace.storage.fault = first(5, Answer(status, body))
    for _ in range(5):
        assert (await api.get(f"{ROOT}/MLmodel")).status == 502
    assert (await api.get(f"{ROOT}/MLmodel")).body == FILES["MLmodel"]
    assert len(workspace.arrivals.to(SIGN)) == 1


async def test_an_error_of_storage_that_breaks_off_is_one(workspace: EmulatedWorkspace, api: Api) -> None:
    assert (await api.get(f"{ROOT}/MLmodel")).status == 200
    async with Upstream() as storage:

        async def respond(inbound: Inbound) -> None:
            await inbound.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 99\r\n\r\n<Error>")
            inbound.reset()

        storage.respond = respond
        workspace.storage.fault = lambda _: Answer(307, b"", {"Location": f"{storage.url}/x"})
        assert (await api.get(f"{ROOT}/MLmodel")).status == 502
        assert len(storage.seen) == 1
    assert len(workspace.arrivals.to(SIGN)) == 1


async def test_a_listing_from_the_cache_says_how_long_it_may_be_used(api: Api) -> None:
    one, two = [await api.get(ARTIFACTS, path="mlflow-proxy/m/1") for _ in range(2)]
    assert (one.outcome, one.ttl, two.outcome) == (STORED, None, HIT)
    assert two.ttl is not None
    assert two.ttl <= 60


@pytest.mark.parametrize(
    "answer", [b"{}", b"[]", b'{"signed_uri": 1}', b'{"signed_uri": "no url"}', b"not json"]
)
async def test_an_answer_that_names_no_place_is_502(
    workspace: EmulatedWorkspace, api: Api, answer: bytes
) -> None:
    workspace.fault = lambda _: Answer(200, answer)
    assert (await raw(api.url, "GET", f"{ROOT}/MLmodel")).status == 502


async def test_a_client_that_leaves_ends_the_download(workspace: EmulatedWorkspace, api: Api) -> None:
    workspace.models["m"].versions["3"] = ModelVersion({"huge": Pattern(2**30)})
    async with await RawClient.connect(api.url) as client:
        await client.send(request_bytes("GET", f"{ARTIFACTS}/mlflow-proxy/m/3/huge"))
        await client.reader.readexactly(100_000)
    await workspace.storage.until(lambda arrivals: arrivals[0].cancelled)


async def test_a_client_that_leaves_before_storage_answers(workspace: EmulatedWorkspace, api: Api) -> None:
    workspace.storage.fault = lambda _: Hang()
    call = asyncio.create_task(api.call("GET", f"{ROOT}/MLmodel"))
    await workspace.storage.until(lambda arrivals: len(arrivals) == 1)
    call.cancel()
    await workspace.storage.until(lambda arrivals: arrivals[0].cancelled)


async def test_listings_of_both_doors_share_their_calls(workspace: EmulatedWorkspace, api: Api) -> None:
    await api.get(ARTIFACTS, path="mlflow-proxy/m/1/data")
    reply = await api.get("model-versions/list-artifacts", name="m", version="1", path="data")
    assert reply.outcome == "hit"
    # Which directory a client of door A means is looked up in the one above.
    assert len(workspace.arrivals) == 2
