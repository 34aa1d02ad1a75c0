"""JSON that nobody can read, or that answers another question, must be passed on once and not kept."""

import pytest
from structlog.testing import capture_logs

from tests.integration.hostile_answers import DEEP, all_is_well, exchange, file, files, saying
from tests.integration.support import (
    API,
    CONFIG,
    LIST,
    PLAIN,
    READ,
    SIGN,
    RawClient,
    Upstream,
    answering,
    raw,
)

pytestmark = pytest.mark.usefixtures("no_waiting")

ODD_JSON = [
    *(b'{"model_version": {"name": "m", "version": "1", "creation_timestamp": %b}}' % deep for deep in DEEP),
    *(b'{"artifact_uri": "s3://x", "more": %b}' % deep for deep in DEEP),
    b'{"registered_model": {"latest_versions": {"name": "m"}}}',
    b'{"model_versions": [{"name": "\\ud800", "version": "\\udfff", "status": "\\ud800"}]}',
    b'{"model_version": {"name": "m", "version": %b, "creation_timestamp": %b}}' % (b"9" * 4000, b"9" * 4000),
    b'{"model_version": {"name": "m", "version": "1", "creation_timestamp": 1e999}}',
    b'{"model_version": {"name": "m", "version": "1", "creation_timestamp": NaN}}',
    b"9" * 10_000,
    b'"\xff\xfe"',
    b"\xff\xfe{\0}\0",
    b"",
    b"null",
]


@pytest.mark.parametrize("endpoint", ["registered-models/get", "model-versions/get-download-uri", LIST, SIGN])
@pytest.mark.parametrize("body", ODD_JSON, ids=range(len(ODD_JSON)))
async def test_json_that_nobody_can_read_is_passed_on(
    upstream: Upstream, client: RawClient, endpoint: str, body: bytes
) -> None:
    upstream.respond = answering(saying(body))
    reply = await exchange(client, f"{API}{endpoint}?name=m&version=1&path=a")
    assert (reply.status, reply.body) == (200, body)
    await all_is_well(client, upstream, PLAIN)


@pytest.mark.parametrize("deep", DEEP[:-1])
async def test_a_download_uri_beside_what_nests_deep(
    upstream: Upstream, client: RawClient, deep: bytes
) -> None:
    upstream.respond = answering(saying(b'{"artifact_uri": "dbfs:/x", "more": %b}' % deep))
    reply = await exchange(client, f"{API}model-versions/get-download-uri?name=m&version=1")
    assert reply.status == 200
    assert reply.body.startswith((b'{"artifact_uri": "mlflow-artifacts:/', b'{"artifact_uri": "dbfs:/x"'))
    await all_is_well(client, upstream, PLAIN)


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"NaN", b"Infinity"])
async def test_numbers_that_cannot_be_written_again(
    upstream: Upstream, client: RawClient, number: bytes
) -> None:
    body = b'{"artifact_uri": "dbfs:/x", "more": %b}' % number
    upstream.respond = answering(saying(body))
    reply = await exchange(client, f"{API}model-versions/get-download-uri?name=m&version=1")
    assert (reply.status, reply.body) == (200, body)


ANSWERS = {
    READ: b'{"registered_model": {"name": "m"}}',
    f"{API}{LIST}?name=m&version=1": files(file("MLmodel")),
    CONFIG: b'{"oidc_endpoint": "https://w.test/oidc"}',
    "/oidc/.well-known/oauth-authorization-server": (
        b'{"authorization_endpoint": "https://w.test/a", "token_endpoint": "https://w.test/t"}'
    ),
}
NO_ANSWERS = {
    "html": b"<html>Sign in</html>",
    "error": b'{"error_code": "INTERNAL_ERROR", "message": "no"}',
    "another-api": b'{"status": "ok"}',
    "another-endpoint": b'{"experiment": {"name": "m"}}',
    "array": b"[]",
    "brackets": b"[" * 100_000,
    "closed-brackets": b"[" * 100_000 + b"]" * 100_000,
    "members": b'{"files":' * 100_000,
}


@pytest.mark.parametrize("wrong", NO_ANSWERS.values(), ids=NO_ANSWERS.keys())
@pytest.mark.parametrize("target", ANSWERS)
async def test_what_is_no_answer_of_its_endpoint_is_told_once_and_not_kept(
    upstream: Upstream, proxy_url: str, target: str, wrong: bytes
) -> None:
    with capture_logs() as logs:
        for body, outcomes in ((wrong, ["fwd=miss"]), (ANSWERS[target], ["fwd=miss; stored", "hit"])):
            upstream.respond = answering(saying(body))
            for outcome in outcomes:
                reply = await raw(proxy_url, "GET", target)
                assert (reply.status, reply.body, reply.outcome) == (200, body, outcome)
    assert not [line for line in logs if "exc_info" in line or line["log_level"] in {"error", "critical"}]


@pytest.mark.parametrize(
    "target", [f"{API}{LIST}?name=m&version=1", f"{API}registered-models/get-latest-versions?name=m"]
)
async def test_nothing_is_an_answer_where_all_may_be_missing(
    upstream: Upstream, proxy_url: str, target: str
) -> None:
    for outcome in ("fwd=miss; stored", "hit"):
        assert (await raw(proxy_url, "GET", target)).outcome == outcome
