"""The storm: its light clients make the real client's calls, and see what is wrong with a file."""

import hashlib

import pytest
from aiohttp import web

from mlflow_proxy.demo.answers import Answer, Fault, Truncate
from mlflow_proxy.demo.light_client import Caller, differences, storm
from mlflow_proxy.demo.models import storm_model
from mlflow_proxy.demo.workspace import DISCOVERY, EmulatedWorkspace, WorkspaceOptions
from mlflow_proxy.serving import serving
from mlflow_proxy.settings import Settings
from tests.integration.support import OWN, QUIET

FILES, DIRECTORIES = 7, 3
DISTINCT = FILES + DIRECTORIES


def tiny_workspace() -> EmulatedWorkspace:
    model = storm_model(files=FILES, directories=DIRECTORIES, file_size=100)
    return EmulatedWorkspace([model], WorkspaceOptions(limit=1000, latency=0, page_size=2))


@pytest.mark.parametrize("discovery", [False, True])
async def test_calls_of_a_light_client(discovery: bool) -> None:
    async with tiny_workspace() as workspace:
        (download,) = await storm(workspace.url, [Caller()], workspace.models["storm"], discovery=discovery)
        arrivals = workspace.registry_arrivals
        listings, signings = (
            arrivals.to("model-versions/list-artifacts"),
            arrivals.to("model-versions/get-signed-download-uri"),
        )
        first_pages = [arrival for arrival in listings if "page_token" not in arrival.target]
        # The root twice, since it is first looked at and then walked; and for each file its directory again.
        assert len(first_pages) == 1 + DIRECTORIES + FILES
        assert len(signings) == FILES
        assert download.calls == len(arrivals)
        assert len(workspace.storage.arrivals) == FILES
        assert len(workspace.arrivals.in_group(DISCOVERY)) == (len(arrivals) if discovery else 0)
        assert (download.refusals, download.failures) == (0, ())
        assert download.began <= download.walked <= download.ended


async def test_storm_through_the_proxy() -> None:
    model = storm_model(files=FILES, directories=DIRECTORIES, file_size=100)
    async with (
        EmulatedWorkspace([model], WorkspaceOptions(latency=0)) as workspace,
        serving(Settings(upstream=workspace.url, port=0, access=OWN, connections=QUIET)) as url,
    ):
        downloads = await storm(url, [Caller()] * 2, model)
        arrivals = workspace.registry_arrivals
        assert [download.failures for download in downloads] == [(), ()]
        assert (len(arrivals), arrivals.distinct(), arrivals.statuses()) == (
            DISTINCT,
            DISTINCT,
            {200: DISTINCT},
        )
        assert len(workspace.storage.arrivals) == 2 * FILES


async def test_failures_are_told() -> None:
    async with tiny_workspace() as workspace:
        model = workspace.models["storm"]

        def refuse_a_signing(request: web.Request) -> Fault | None:
            return Answer(403) if "data-003" in request.query.get("path", "") else None

        def cut_a_file(request: web.Request) -> Fault | None:
            return Truncate(50) if "data-004" in request.path else None

        workspace.fault = refuse_a_signing
        workspace.storage.fault = cut_a_file
        (download,) = await storm(workspace.url, [Caller()], model)
        told = "\n".join(download.failures)
        assert "403" in told
        assert "IncompleteReadError" in told
        assert told.count(": missing") == 2


async def test_a_walk_that_fails_is_told() -> None:
    async with tiny_workspace() as workspace:
        workspace.fault = lambda request: Answer(403) if request.query.get("path") else None
        (download,) = await storm(workspace.url, [Caller()], workspace.models["storm"])
        assert "403" in download.failures[0]


def test_differences() -> None:
    digest = hashlib.sha256(b"").digest()
    expected = {"a": b"1", "b": digest}
    assert differences(expected, {"a": b"1", "b": digest}) == []
    assert sorted(differences(expected, {"a": b"2", "c": b""})) == [
        "a: other bytes",
        "b: missing",
        "c: unexpected",
    ]
