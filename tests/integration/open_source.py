"""A day in the life of an open-source server: run by a client's own interpreter, every write read at once.

Ends with status 0 and "done" if every read saw the write before it.
"""

import sys
import tempfile
from pathlib import Path

import mlflow  # type: ignore[import-not-found, unused-ignore]
from mlflow.exceptions import MlflowException  # type: ignore[import-not-found, unused-ignore]

client = mlflow.MlflowClient()


def missing(name: str) -> bool:
    try:
        client.get_registered_model(name)
    except MlflowException as error:
        return bool(error.error_code == "RESOURCE_DOES_NOT_EXIST")
    return False


def main() -> None:
    here = Path(tempfile.mkdtemp())
    (here / "model" / "data").mkdir(parents=True)
    (here / "model" / "MLmodel").write_bytes(b"flavors: {}\n")
    (here / "model" / "data" / "a b \u00fc.bin").write_bytes(bytes(range(256)) * 4000)
    run_id, uri = track(here / "model")
    register("m")
    make_versions("m", run_id, uri, here / "model")
    reorganise("m", "n")
    client.delete_run(run_id)
    assert client.search_runs(["1"]) == []
    sys.stdout.write("done\n")


def track(model: Path) -> tuple[str, str]:
    experiment = client.create_experiment("exp \u00fc/1")
    assert client.get_experiment(experiment).name == "exp \u00fc/1"
    run = client.create_run(experiment)
    run_id, uri = run.info.run_id, run.info.artifact_uri
    assert uri.startswith("mlflow-artifacts:/"), uri
    assert "mlflow-proxy" not in uri, uri
    client.log_param(run_id, "p", "1")
    client.log_batch(run_id, metrics=[mlflow.entities.Metric("loss", 0.5, 0, 0)])
    for step in range(3):
        client.log_metric(run_id, "m", step * 1.5, step=step)
    client.set_tag(run_id, "t", "v")
    seen = client.get_run(run_id).data
    assert (seen.params, seen.metrics) == ({"p": "1"}, {"m": 3.0, "loss": 0.5}), seen
    assert seen.tags["t"] == "v"
    assert [metric.value for metric in client.get_metric_history(run_id, "m")] == [0.0, 1.5, 3.0]
    assert [found.info.run_id for found in client.search_runs([experiment])] == [run_id]
    client.log_artifacts(run_id, str(model), "model")
    assert [file.path for file in client.list_artifacts(run_id)] == ["model"]
    got = Path(client.download_artifacts(run_id, "model", tempfile.mkdtemp()))
    compare(got, model)
    client.set_terminated(run_id)
    assert client.get_run(run_id).info.status == "FINISHED"
    return run_id, uri


def register(name: str) -> None:
    assert missing(name)
    client.create_registered_model(name, description="first")
    assert client.get_registered_model(name).description == "first"
    client.update_registered_model(name, "second")
    assert client.get_registered_model(name).description == "second"
    client.set_registered_model_tag(name, "k", "v")
    assert client.get_registered_model(name).tags == {"k": "v"}
    client.delete_registered_model_tag(name, "k")
    assert client.get_registered_model(name).tags == {}
    assert client.get_latest_versions(name) == []


def make_versions(name: str, run_id: str, uri: str, model: Path) -> None:
    for version in ("1", "2"):
        made = client.create_model_version(name, f"{uri}/model", run_id)
        assert made.version == version or int(made.version) == int(version)
        assert int(client.get_latest_versions(name)[0].version) == int(version)
        assert len(client.search_model_versions(f"name='{name}'")) == int(version)
    assert client.get_model_version_download_uri(name, "1") == f"{uri}/model"
    compare(
        Path(mlflow.artifacts.download_artifacts(f"models:/{name}/1", dst_path=tempfile.mkdtemp())), model
    )
    for version in ("1", "2"):
        client.set_registered_model_alias(name, "champion", version)
        assert int(client.get_model_version_by_alias(name, "champion").version) == int(version)
        client.update_model_version(name, version, f"d{version}")
        assert client.get_model_version(name, version).description == f"d{version}"
        client.set_model_version_tag(name, version, "k", version)
        assert client.get_model_version(name, version).tags == {"k": version}
        client.transition_model_version_stage(name, version, "Production", archive_existing_versions=True)
        assert [int(v.version) for v in client.get_latest_versions(name, ["Production"])] == [int(version)]
    assert client.get_model_version(name, "1").current_stage == "Archived"
    compare(
        Path(mlflow.artifacts.download_artifacts(f"models:/{name}@champion", dst_path=tempfile.mkdtemp())),
        model,
    )


def reorganise(old: str, new: str) -> None:
    client.delete_registered_model_alias(old, "champion")
    assert "champion" not in client.get_registered_model(old).aliases
    assert not missing(old)
    assert missing(new)
    client.rename_registered_model(old, new)
    assert missing(old)
    assert client.get_registered_model(new).description == "second"
    assert len(client.search_model_versions(f"name='{new}'")) == 2
    client.delete_model_version(new, "1")
    assert [int(v.version) for v in client.search_model_versions(f"name='{new}'")] == [2]
    client.delete_registered_model(new)
    assert missing(new)
    client.create_registered_model(new, description="anew")
    assert client.get_registered_model(new).description == "anew"
    assert client.get_latest_versions(new) == []


def compare(got: Path, expected: Path) -> None:
    ignored = "registered_model_meta"
    files = {path.relative_to(got): path.read_bytes() for path in got.rglob("*") if path.is_file()}
    files = {path: data for path, data in files.items() if path.name != ignored}
    wanted = {path.relative_to(expected): path.read_bytes() for path in expected.rglob("*") if path.is_file()}
    assert files == wanted, (sorted(files), sorted(wanted))


main()
