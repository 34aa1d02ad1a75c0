"""A stored answer, or one in the air, is for nobody with another credential."""

import asyncio

import pytest

from mlflow_proxy.demo.models import Model, ModelVersion
from mlflow_proxy.demo.workspace import EmulatedWorkspace
from tests.integration.support import HIT, LIST, MODEL, SIGN, STORED, Api, count, settle


async def test_each_credential_asks_for_itself(workspace: EmulatedWorkspace, api: Api) -> None:
    workspace.hold()
    tokens = ["a", "b"] * 3
    calls = [asyncio.create_task(api.get(MODEL, token=token, name="m")) for token in tokens]
    await workspace.until(count(2))
    await settle()
    workspace.release()
    await asyncio.gather(*calls)
    assert sorted(str(arrival.token) for arrival in workspace.arrivals) == ["a", "b"]
    assert [(await api.get(MODEL, token=token, name="m")).outcome for token in "abc"] == [HIT, HIT, STORED]


@pytest.mark.parametrize(
    "name", ["Cookie", "X-Databricks-Org-Id", "X-Unheard-Of", "X-Forwarded-Access-Token"]
)
async def test_any_field_that_may_be_a_credential_separates(
    workspace: EmulatedWorkspace, api: Api, name: str
) -> None:
    for value in ("1", "2"):
        reply = await api.call("GET", MODEL, {"name": "m"}, headers={name: value})
        assert reply.outcome == STORED
    assert [arrival.headers[name] for arrival in workspace.arrivals] == ["1", "2"]


@pytest.mark.parametrize(
    ("endpoint", "parameters"),
    [
        (MODEL, {"name": "secret"}),
        (LIST, {"name": "secret", "version": "1"}),
        (SIGN, {"name": "secret", "version": "1", "path": "f"}),
        ("model-versions/get-download-uri", {"name": "secret", "version": "1"}),
        ("/api/2.0/mlflow-artifacts/artifacts", {"path": "mlflow-proxy/secret/1"}),
        ("/api/2.0/mlflow-artifacts/artifacts/mlflow-proxy/secret/1/f", {}),
    ],
)
async def test_the_workspaces_refusal_stands_though_another_may(
    workspace: EmulatedWorkspace, api: Api, endpoint: str, parameters: dict[str, str]
) -> None:
    workspace.models["secret"] = Model(
        "secret", {"1": ModelVersion({"f": b"secret"})}, readers=frozenset({"insider"})
    )
    for _ in range(2):
        assert (await api.get(endpoint, token="insider", **parameters)).status == 200
        for token in ("outsider", ""):
            refused = await api.get(endpoint, token=token, **parameters)
            assert refused.status == 403
            assert b"secret" not in refused.body.replace(b"'secret'", b"")
