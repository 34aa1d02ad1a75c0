"""Each kind of answer is stored as long as it stays true, and not a moment longer."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Literal

import aiohttp
import pytest

from mlflow_proxy.demo.answers import Answer
from mlflow_proxy.demo.models import ModelVersion
from mlflow_proxy.demo.workspace import DISCOVERY, EmulatedWorkspace, WorkspaceOptions
from mlflow_proxy.settings import CacheSettings
from tests.integration.conftest import sample
from tests.integration.support import CONFIG, HIT, LIST, MISS, MODEL, MUCH, SIGN, STORED, Api, first, proxied


@pytest.mark.parametrize("status", [401, 403, 501])
async def test_errors_are_not_results(workspace: EmulatedWorkspace, api: Api, status: int) -> None:
    workspace.fault = first(1, Answer(status, b'{"error_code": "X"}', {"Retry-After": "0"}))
    reply = await api.get(MODEL, name="m")
    assert (reply.status, reply.body, reply.outcome) == (status, b'{"error_code": "X"}', MISS)
    assert (await api.get(MODEL, name="m")).status == 200


async def test_what_was_not_found_is_stored_until_it_is_written(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    async with proxied(workspace.url, cache=CacheSettings(not_found_ttl=3600)) as url:
        api = Api(session, url)
        assert [(await api.get(MODEL, name="new")).outcome for _ in range(2)] == [STORED, HIT]
        await api.call("POST", "registered-models/create", {"name": "new"})
        assert (await api.get(MODEL, name="new")).status == 200


@pytest.mark.parametrize("status", ["PENDING_REGISTRATION", "FAILED_REGISTRATION"])
async def test_files_of_a_version_that_is_not_ready_are_listed_anew(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession, status: Literal["PENDING_REGISTRATION"]
) -> None:
    model = workspace.models["m"]
    model.versions["3"] = ModelVersion({"early": b""}, status=status)
    cache = CacheSettings(listing_ttl=3600, unverified_ttl=0, pending_ttl=0, mutable_ttl=0)
    async with proxied(workspace.url, cache=cache) as url:
        api = Api(session, url)
        for _ in range(3):
            assert (await api.get(LIST, name="m", version="3")).outcome == MISS
        model.versions["3"] = ModelVersion({"early": b"", "late": b""})
        replies = [await api.get(LIST, name="m", version="3") for _ in range(2)]
        assert [reply.outcome for reply in replies] == [STORED, HIT]
        assert [file["path"] for file in replies[1].json()["files"]] == ["early", "late"]


@pytest.mark.parametrize("form", ["aws", "azure", "gcp"])
@pytest.mark.parametrize(("lifetime", "outcomes"), [(900, [STORED, HIT]), (100, [MISS, MISS])])
async def test_a_signed_url_is_stored_while_it_has_time(
    session: aiohttp.ClientSession,
    form: Literal["aws", "azure", "gcp"],
    lifetime: int,
    outcomes: list[str],
) -> None:
    options = WorkspaceOptions(limit=MUCH, latency=0, signed_url_form=form, signed_url_lifetime=lifetime)
    async with EmulatedWorkspace([sample()], options) as workspace, proxied(workspace.url) as url:
        api = Api(session, url)
        asked = {"name": "m", "version": "1", "path": "MLmodel"}
        assert [(await api.get(SIGN, **asked)).outcome for _ in range(2)] == outcomes


def signed(query: str, fields: Sequence[dict[str, str]] = ()) -> Answer:
    """Return an answer about a URL that was signed at noon, as its Date says."""
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    said = {"signed_uri": f"https://s.example/f?{query}", "headers": list(fields)}
    return Answer(200, json.dumps(said).encode(), {"Date": format_datetime(noon, usegmt=True)})


AWS_SIGNED = "X-Amz-Date=20260301T120000Z&X-Amz-Expires={}&X-Amz-Signature=a"
AZURE_SIGNED = "se=2026-03-01T13:00:00Z&sig=a"


@pytest.mark.parametrize(
    ("answer", "ttl"),
    [
        (signed(AWS_SIGNED.format(900)), 780),
        (signed(AWS_SIGNED.format(604800)), 900),
        (signed(AZURE_SIGNED), 900),
        (signed(f"{AZURE_SIGNED}&ske=2026-03-01T12:05:00Z"), 180),
        (signed(f"{AZURE_SIGNED}&ske=2026-03-02T12:05:00Z"), 900),
        (signed(f"{AWS_SIGNED.format(604800)}&X-Amz-Security-Token=IQo"), 180),
        (signed(AWS_SIGNED.format(900), [{"name": "x-amz-security-token", "value": "IQo"}]), 180),
        (signed(f"{AWS_SIGNED.format(200)}&X-Amz-Security-Token=IQo"), 80),
    ],
)
async def test_a_signed_url_is_stored_until_the_earliest_of_its_ends(
    workspace: EmulatedWorkspace, api: Api, answer: Answer, ttl: int
) -> None:
    workspace.fault = lambda _: answer
    asked = {"name": "m", "version": "1", "path": "f"}
    first, hit = [await api.get(SIGN, **asked) for _ in range(2)]
    assert (first.outcome, hit.outcome) == (STORED, HIT)
    assert hit.ttl is not None
    assert hit.ttl in range(ttl - 5, ttl + 1)


@pytest.mark.parametrize(
    "query",
    [
        f"{AZURE_SIGNED}&ske=garbage",
        f"{AZURE_SIGNED}&ske=",
        f"{AZURE_SIGNED}&ske=2026-03-01T12:02:00Z",
        "Expires=9999999999&X-Amz-Security-Token=IQo",
    ],
)
async def test_a_signed_url_that_may_end_at_any_time_is_not_stored(
    workspace: EmulatedWorkspace, api: Api, query: str
) -> None:
    workspace.fault = lambda _: signed(query)
    for _ in range(2):
        assert (await api.get(SIGN, name="m", version="1", path="f")).outcome == MISS


async def test_the_cap_of_signed_urls_is_a_setting(
    workspace: EmulatedWorkspace, session: aiohttp.ClientSession
) -> None:
    workspace.fault = lambda _: signed(AWS_SIGNED.format(900))
    for cap, outcomes in ((60, [STORED, HIT]), (0, [MISS, MISS])):
        async with proxied(workspace.url, cache=CacheSettings(signed_url_ttl=cap)) as url:
            api = Api(session, url)
            replies = [await api.get(SIGN, name="m", version="1", path="f") for _ in range(2)]
            assert [reply.outcome for reply in replies] == outcomes
            assert (replies[1].ttl or 0) <= cap


async def test_a_signed_url_of_unknown_expiry_is_not_stored(workspace: EmulatedWorkspace, api: Api) -> None:
    workspace.fault = lambda _: Answer(200, b'{"signed_uri": "https://s.example/f?sig=1&se=soon"}')
    for _ in range(2):
        assert (await api.get(SIGN, name="m", version="1", path="f")).outcome == MISS


async def test_discovery_is_asked_once_for_all_and_in_nobodys_name(
    workspace: EmulatedWorkspace, api: Api
) -> None:
    outcomes = [(await api.get(CONFIG, token=token)).outcome for token in ("a", "b", "")]
    assert outcomes == [STORED, HIT, HIT]
    [arrival] = workspace.arrivals.in_group(DISCOVERY)
    assert "Authorization" not in arrival.headers
