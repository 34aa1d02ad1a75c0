"""The registry's endpoints over HTTP."""

from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from mlflow_proxy.demo.models import Model, ModelVersion
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from tests.demo.api import call
from tests.demo.conftest import FILES

Ask = Callable[..., Awaitable[tuple[int, Any]]]


@pytest.fixture
def ask(workspace: EmulatedWorkspace, client: aiohttp.ClientSession) -> Ask:
    async def ask(method: str, endpoint: str, **parameters: Any) -> tuple[int, Any]:
        return await call(client, workspace.url, method, endpoint, **parameters)

    return ask


@pytest.mark.parametrize("prefix", ["/api/2.0/mlflow", "/api/2.0/preview/mlflow", "/ajax-api/2.0/mlflow"])
async def test_every_prefix_is_the_same_endpoint(ask: Ask, workspace: EmulatedWorkspace, prefix: str) -> None:
    status, answer = await ask("GET", f"{prefix}/registered-models/get", name="m")
    assert (status, answer["registered_model"]["name"]) == (200, "m")
    assert workspace.registry_arrivals.to("registered-models/get")


async def test_a_model_has_the_fields_of_the_api(ask: Ask) -> None:
    _, answer = await ask("GET", "registered-models/get", name="m")
    model = answer["registered_model"]
    assert model["aliases"] == [{"alias": "champion", "version": "1"}]
    assert isinstance(model["creation_timestamp"], int)
    assert {(v["version"], v["current_stage"]) for v in model["latest_versions"]} == {
        ("1", "Production"),
        ("2", "None"),
    }
    assert "tags" not in model


async def test_life_of_a_model(ask: Ask, workspace: EmulatedWorkspace) -> None:
    workspace.sources["dbfs:/run/model"] = {"MLmodel": b"new"}
    await ask("POST", "registered-models/create", name="n", tags=[{"key": "k", "value": "v"}])
    assert (await ask("POST", "registered-models/create", name="n"))[0] == 400
    _, created = await ask("POST", "model-versions/create", name="n", source="dbfs:/run/model", run_id="r")
    assert created["model_version"]["version"] == "1"
    assert created["model_version"]["status"] == "READY"
    assert workspace.models["n"].versions["1"].files == {"MLmodel": b"new"}
    await ask("POST", "registered-models/rename", name="n", new_name="o")
    assert (await ask("GET", "registered-models/get", name="n"))[1]["error_code"] == "RESOURCE_DOES_NOT_EXIST"
    await ask("PATCH", "registered-models/update", name="o", description="d")
    await ask("POST", "registered-models/set-tag", name="o", key="t", value="1")
    await ask("DELETE", "registered-models/delete-tag", name="o", key="k")
    _, answer = await ask("GET", "registered-models/get", name="o")
    assert answer["registered_model"]["description"] == "d"
    assert answer["registered_model"]["tags"] == [{"key": "t", "value": "1"}]
    assert (await ask("DELETE", "registered-models/delete", name="o")) == (200, {})
    assert "o" not in workspace.models


async def test_life_of_a_version(ask: Ask, workspace: EmulatedWorkspace) -> None:
    version = {"name": "m", "version": "2"}
    await ask("PATCH", "model-versions/update", **version, description="d")
    await ask("POST", "model-versions/set-tag", **version, key="a", value="1")
    await ask("POST", "model-versions/set-tag", **version, key="b", value="2")
    await ask("DELETE", "model-versions/delete-tag", **version, key="a")
    _, answer = await ask("GET", "model-versions/get", **version)
    assert answer["model_version"]["description"] == "d"
    assert answer["model_version"]["tags"] == [{"key": "b", "value": "2"}]
    assert (await ask("DELETE", "model-versions/delete", **version)) == (200, {})
    assert (await ask("GET", "model-versions/get", **version))[0] == 404
    assert (await ask("POST", "model-versions/create", name="m", source="s"))[1]["model_version"]["version"]


async def test_a_transition_may_archive_the_others(ask: Ask, workspace: EmulatedWorkspace) -> None:
    await ask(
        "POST",
        "model-versions/transition-stage",
        name="m",
        version="2",
        stage="production",
        archive_existing_versions=True,
    )
    assert {n: v.stage for n, v in workspace.models["m"].versions.items()} == {
        "1": "Archived",
        "2": "Production",
    }


async def test_latest_versions_by_both_methods(ask: Ask) -> None:
    _, posted = await ask("POST", "registered-models/get-latest-versions", name="m", stages=["Production"])
    _, got = await ask("GET", "registered-models/get-latest-versions", name="m", stages="Production")
    assert posted == got
    assert [version["version"] for version in got["model_versions"]] == ["1"]
    _, every = await ask("POST", "registered-models/get-latest-versions", name="m")
    assert {version["version"] for version in every["model_versions"]} == {"1", "2"}
    assert (await ask("POST", "registered-models/get-latest-versions", name="m", stages=["X"]))[0] == 400
    assert (await ask("POST", "registered-models/get-latest-versions", name="m", stages=["Staging"]))[1] == {}


async def test_aliases(ask: Ask) -> None:
    await ask("POST", "registered-models/alias", name="m", alias="x", version="2")
    _, answer = await ask("GET", "registered-models/alias", name="m", alias="x")
    assert (answer["model_version"]["version"], answer["model_version"]["aliases"]) == ("2", ["x"])
    await ask("DELETE", "registered-models/alias", name="m", alias="x")
    assert (await ask("GET", "registered-models/alias", name="m", alias="x"))[0] == 404
    await ask("DELETE", "model-versions/delete", name="m", version="1")
    assert (await ask("GET", "registered-models/alias", name="m", alias="champion"))[0] == 404


async def test_search(ask: Ask, workspace: EmulatedWorkspace) -> None:
    workspace.models["other"] = Model("other", {"1": ModelVersion(run_id="r")})
    _, all_models = await ask("GET", "registered-models/search")
    assert [model["name"] for model in all_models["registered_models"]] == ["m", "other"]
    _, liked = await ask("GET", "registered-models/search", filter="name ILIKE 'OTH%'")
    assert [model["name"] for model in liked["registered_models"]] == ["other"]
    _, first = await ask("GET", "registered-models/search", max_results=1)
    following = first["next_page_token"]
    _, second = await ask("GET", "registered-models/search", max_results=1, page_token=following)
    assert [model["name"] for model in second["registered_models"]] == ["other"]
    assert "next_page_token" not in second
    _, versions = await ask("GET", "model-versions/search", filter="name='m'")
    assert [version["version"] for version in versions["model_versions"]] == ["2", "1"]
    _, of_run = await ask("GET", "model-versions/search", filter="run_id='r'")
    assert [version["name"] for version in of_run["model_versions"]] == ["other"]
    assert (await ask("GET", "model-versions/search", filter="tag.x > 1"))[0] == 400


async def test_listing(ask: Ask) -> None:
    endpoint, version = "model-versions/list-artifacts", {"name": "m", "version": "1"}
    _, uri = await ask("GET", "model-versions/get-download-uri", **version)
    root = (await ask("GET", endpoint, **version))[1]
    assert uri["artifact_uri"].startswith("dbfs:/databricks/mlflow-registry/")
    assert root["root_uri"] == uri["artifact_uri"]
    assert {"path": "void", "is_dir": True} in root["files"]
    assert {"path": "MLmodel", "is_dir": False, "file_size": 12} in root["files"]
    assert (await ask("GET", endpoint, **version, path=""))[1] == root
    _, data = await ask("GET", endpoint, **version, path="data")
    assert (await ask("GET", endpoint, **version, path="data/"))[1] == data
    assert {file["path"] for file in data["files"]} == {path for path in FILES if "/" in path}
    _, file = await ask("GET", endpoint, **version, path="MLmodel")
    assert file["files"] == [{"path": "MLmodel", "is_dir": False, "file_size": 12}]
    assert "files" not in (await ask("GET", endpoint, **version, path="void"))[1]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("nothing", 404, "RESOURCE_DOES_NOT_EXIST"),
        ("../m", 400, "INVALID_PARAMETER_VALUE"),
        ("/etc", 400, "INVALID_PARAMETER_VALUE"),
    ],
)
async def test_listing_of_no_path(ask: Ask, path: str, status: int, code: str) -> None:
    got, answer = await ask("GET", "model-versions/list-artifacts", name="m", version="1", path=path)
    assert (got, answer["error_code"]) == (status, code)


async def test_a_directory_cannot_be_signed(ask: Ask) -> None:
    endpoint = "model-versions/get-signed-download-uri"
    assert (await ask("GET", endpoint, name="m", version="1", path="data"))[0] == 400
    assert (await ask("GET", endpoint, name="m", version="9", path="MLmodel"))[0] == 404


async def test_listing_in_pages(client: aiohttp.ClientSession) -> None:
    model = Model("m", {"1": ModelVersion({f"{n}": b"" for n in range(5)})})
    options = WorkspaceOptions(limit=100, latency=0, page_size=2)
    async with EmulatedWorkspace([model], options) as workspace:

        async def page(**token: str) -> tuple[int, Any]:
            endpoint = "model-versions/list-artifacts"
            return await call(client, workspace.url, "GET", endpoint, name="m", version="1", **token)

        _, first = await page()
        _, second = await page(page_token=first["next_page_token"])
        _, third = await page(page_token=second["next_page_token"])
        bad, _ = await page(page_token="#")
    assert "next_page_token" not in third
    paths = [file["path"] for answer in (first, second, third) for file in answer["files"]]
    assert paths == ["0", "1", "2", "3", "4"]
    assert bad == 400


@pytest.mark.parametrize(
    ("endpoint", "parameters"),
    [
        ("registered-models/get", {}),
        ("registered-models/search", {"max_results": "none"}),
        ("model-versions/get", {"name": "m"}),
    ],
)
async def test_bad_parameters(ask: Ask, endpoint: str, parameters: dict[str, str]) -> None:
    status, answer = await ask("GET", endpoint, **parameters)
    assert (status, answer["error_code"]) == (400, "INVALID_PARAMETER_VALUE")


@pytest.mark.parametrize("body", [b"{", b"[]"])
async def test_a_body_has_to_be_a_json_object(
    workspace: EmulatedWorkspace, client: aiohttp.ClientSession, body: bytes
) -> None:
    async with client.post(f"{workspace.url}/api/2.0/mlflow/registered-models/create", data=body) as response:
        assert response.status == 400
        assert (await response.json())["error_code"] == "MALFORMED_REQUEST"
