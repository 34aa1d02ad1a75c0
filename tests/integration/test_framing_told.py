"""What is refused is told to its client and to the log without what it said."""

import aiohttp
import pytest
from structlog.testing import capture_logs

from tests.integration.framing import exchange, get, head
from tests.integration.support import PLAIN, Api, Upstream

SECRET = "dapi0123456789abcdef"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (get(PLAIN, f"Authorization: Bearer {SECRET}", "X A: b"), "400"),
        (get(PLAIN, f"Authorization : Bearer {SECRET}"), "400"),
        (get(PLAIN, f"Authorization: Bearer {SECRET}\x01"), "400"),
        (get(f"/{SECRET}\x01"), "400"),
        (get(PLAIN, f"Authorization: {SECRET * 4000}"), "431"),
        (head(f"Content-Length: {SECRET}"), "400"),
        (head(f"Expect: {SECRET}"), "417"),
    ],
)
async def test_what_is_refused_is_counted_and_logged_without_what_it_said(
    upstream: Upstream,
    proxy_url: str,
    session: aiohttp.ClientSession,
    caplog: pytest.LogCaptureFixture,
    sent: bytes,
    status: str,
) -> None:
    with capture_logs() as logs:
        reply = await exchange(proxy_url, [sent])
    [entry] = [each for each in logs if each["event"] != "serving"]
    assert (entry["log_level"], entry["event"], entry["status"]) == ("info", "request failed", int(status))
    assert entry["reason"] == reply.json()["message"]
    assert SECRET[:8] not in str(logs) + caplog.text + str(reply)
    assert not caplog.records, "aiohttp says nothing of its own"
    api = Api(session, proxy_url)
    assert await api.metric("mlflow_proxy_requests_total", route="unknown", status=status) == 1


@pytest.mark.parametrize(
    "line",
    [
        "CONNECT w.cloud.databricks.com:443 HTTP/1.1",
        "GET http://w.example/api/2.0/mlflow/runs/get HTTP/1.1",
        "GET HTTPS://w.example/ HTTP/1.1",
    ],
)
async def test_a_client_that_takes_it_for_a_forward_proxy_is_told_what_to_set(
    proxy_url: str, upstream: Upstream, line: str
) -> None:
    reply = await exchange(proxy_url, [head(line=line, host="Host: w.example")])
    message = reply.json()["message"]
    assert reply.status == 400
    assert "no HTTP_PROXY or HTTPS_PROXY" in message
    assert "MLFLOW_TRACKING_URI or DATABRICKS_HOST" in message
    assert "w.example" not in message
    assert not upstream.seen
