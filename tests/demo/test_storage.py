"""The storage origin's rules."""

import aiohttp
import pytest
from yarl import URL

from mlflow_proxy.demo.models import Pattern, chunks
from mlflow_proxy.demo.signing import SignedUrlForm
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from tests.demo.api import signed
from tests.demo.conftest import FILES, sample

NOW = 1_800_000_000.5
FORMS: list[SignedUrlForm] = ["aws", "azure", "gcp"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", FILES)
async def test_a_signed_url_fetches_the_file(
    client: aiohttp.ClientSession, form: SignedUrlForm, path: str
) -> None:
    options = WorkspaceOptions(latency=0, signed_url_form=form)
    async with EmulatedWorkspace([sample()], options) as workspace:
        url, headers = await signed(client, workspace, path)
        assert workspace.storage_url == str(url.origin())
        async with client.get(url, headers=headers) as response:
            assert response.status == 200
            body = await response.read()
            assert response.headers["Content-Length"] == str(len(body))
        assert body == b"".join(chunks(FILES[path]))
        assert workspace.storage.arrivals.statuses() == {200: 1}


@pytest.mark.parametrize(
    ("form", "names"),
    [
        ("aws", {"X-Amz-Date", "X-Amz-Expires", "X-Amz-Signature"}),
        ("azure", {"se", "sig"}),
        ("gcp", {"X-Goog-Date", "X-Goog-Expires", "X-Goog-Signature"}),
    ],
)
async def test_a_signed_url_expires(
    client: aiohttp.ClientSession, form: SignedUrlForm, names: set[str]
) -> None:
    now = NOW
    options = WorkspaceOptions(latency=0, signed_url_form=form, signed_url_lifetime=60)
    async with EmulatedWorkspace([sample()], options, clock=lambda: now) as workspace:
        url, headers = await signed(client, workspace, "MLmodel")
        assert names <= set(url.query)
        now = NOW + 59
        async with client.get(url, headers=headers) as response:
            assert response.status == 200
        now = NOW + 60
        async with client.get(url, headers=headers) as response:
            assert response.status == 403
            assert "expired" in await response.text()


async def test_the_signature_covers_path_and_query(
    workspace: EmulatedWorkspace, client: aiohttp.ClientSession
) -> None:
    url, _ = await signed(client, workspace, "MLmodel")
    text = str(url)
    spoilt = [
        text.replace("MLmodel", "empty.txt"),
        text.replace("X-Amz-Expires=900", "X-Amz-Expires=901"),
        text + "0",
        text.partition("&X-Amz-Signature")[0],
        text.partition("?")[0],
    ]
    for bad in spoilt:
        async with client.get(URL(bad, encoded=True)) as response:
            assert response.status == 403
            assert response.content_type == "application/xml"


async def test_azure_wants_its_headers(client: aiohttp.ClientSession) -> None:
    async with EmulatedWorkspace(
        [sample()], WorkspaceOptions(latency=0, signed_url_form="azure")
    ) as workspace:
        url, headers = await signed(client, workspace, "MLmodel")
        assert headers
        async with client.get(url) as response:
            assert response.status == 403


async def test_authorization_is_refused_and_on_record(
    workspace: EmulatedWorkspace, client: aiohttp.ClientSession
) -> None:
    url, _ = await signed(client, workspace, "MLmodel")
    async with client.get(url, headers={"Authorization": "Bearer t"}) as response:
        assert response.status == 400
    assert "Authorization" in workspace.storage.arrivals[0].headers


async def test_only_get_is_signed(workspace: EmulatedWorkspace, client: aiohttp.ClientSession) -> None:
    url, _ = await signed(client, workspace, "MLmodel")
    async with client.put(url, data=b"x") as response:
        assert response.status == 405


async def test_a_deleted_version_is_gone(workspace: EmulatedWorkspace, client: aiohttp.ClientSession) -> None:
    url, _ = await signed(client, workspace, "MLmodel")
    workspace.models.clear()
    async with client.get(url) as response:
        assert response.status == 404


BIG = b"".join(chunks(Pattern(1_000_000, seed=1)))


@pytest.mark.parametrize(
    ("asked", "content_range", "body"),
    [
        ("bytes=0-9", "bytes 0-9/1000000", BIG[:10]),
        ("bytes=300000-699999", "bytes 300000-699999/1000000", BIG[300_000:700_000]),
        ("bytes=999990-", "bytes 999990-999999/1000000", BIG[-10:]),
        ("bytes=-5", "bytes 999995-999999/1000000", BIG[-5:]),
        ("bytes=999999-2000000", "bytes 999999-999999/1000000", BIG[-1:]),
    ],
)
async def test_range(
    workspace: EmulatedWorkspace,
    client: aiohttp.ClientSession,
    asked: str,
    content_range: str,
    body: bytes,
) -> None:
    url, _ = await signed(client, workspace, "data/big.bin")
    async with client.get(url, headers={"Range": asked}) as response:
        assert (response.status, response.headers["Content-Range"]) == (206, content_range)
        assert await response.read() == body


async def test_unsatisfiable_range(workspace: EmulatedWorkspace, client: aiohttp.ClientSession) -> None:
    url, _ = await signed(client, workspace, "data/big.bin")
    async with client.get(url, headers={"Range": "bytes=1000000-"}) as response:
        assert (response.status, response.headers["Content-Range"]) == (416, "bytes */1000000")


@pytest.mark.parametrize("asked", ["bytes=0-1,3-4", "lines=1-2", "bytes=5-2"])
async def test_a_range_it_does_not_know_gets_the_whole(
    workspace: EmulatedWorkspace, client: aiohttp.ClientSession, asked: str
) -> None:
    url, _ = await signed(client, workspace, "data/big.bin")
    async with client.get(url, headers={"Range": asked}) as response:
        assert response.status == 200
        assert await response.read() == BIG


async def test_if_range(workspace: EmulatedWorkspace, client: aiohttp.ClientSession) -> None:
    url, _ = await signed(client, workspace, "data/big.bin")
    async with client.get(url) as response:
        etag = response.headers["ETag"]
    for validator, status in [(etag, 206), ('"other"', 200)]:
        async with client.get(url, headers={"Range": "bytes=0-0", "If-Range": validator}) as response:
            assert response.status == status
