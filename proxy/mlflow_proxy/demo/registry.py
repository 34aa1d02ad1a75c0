"""The Workspace Model Registry: its endpoints as functions of parameters, without HTTP, limits or storage.

What belongs here: what each endpoint does to the models. The shape of what goes in and out is in `shapes`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from mlflow_proxy.demo.answers import ApiError
from mlflow_proxy.demo.models import Content, Entry, Model, ModelVersion
from mlflow_proxy.demo.shapes import (
    STAGES,
    Call,
    Json,
    invalid,
    latest_json,
    matcher,
    missing,
    model_json,
    paginate,
    stage_named,
    version_json,
    without_empty,
)
from mlflow_proxy.demo.signing import SignedUrl

Touchable = TypeVar("Touchable", Model, ModelVersion)


@dataclass(frozen=True)
class Registry:
    """The models by name, and what the endpoints do with them.

    `sources` tells what files a `source` URI holds when a version is created from it. `sign` makes the URL of
    a file of a version; `now_ms` is the time in milliseconds since 1970; `page_size` limits a listing's page.
    """

    models: dict[str, Model]
    sources: dict[str, Mapping[str, Content]]
    sign: Callable[[ModelVersion, str], SignedUrl]
    now_ms: Callable[[], int]
    page_size: int

    # Registered models

    def create_model(self, call: Call) -> Json:
        """Register a model without versions."""
        name = call.text("name")
        self._refuse_taken(name)
        now = self.now_ms()
        self.models[name] = model = Model(
            name,
            tags=call.tags(),
            description=call.text("description", ""),
            creation_timestamp=now,
            last_updated_timestamp=now,
        )
        return {"registered_model": model_json(model)}

    def get_model(self, call: Call) -> Json:
        """Return a model, with the newest version of each stage."""
        return {"registered_model": model_json(self._model(call))}

    def rename_model(self, call: Call) -> Json:
        """Rename a model; its versions move along."""
        model = self._model(call)
        new_name = call.text("new_name")
        self._refuse_taken(new_name)
        del self.models[model.name]
        model.name = new_name
        self.models[new_name] = self._touched(model)
        return {"registered_model": model_json(model)}

    def update_model(self, call: Call) -> Json:
        """Change the description."""
        model = self._touched(self._model(call))
        model.description = call.text("description", "")
        return {"registered_model": model_json(model)}

    def delete_model(self, call: Call) -> Json:
        """Delete a model and all its versions."""
        del self.models[self._model(call).name]
        return {}

    def search_models(self, call: Call) -> Json:
        """Return the models the caller may read, by name."""
        matches = matcher(call.text("filter", ""))
        readable = [model for _, model in sorted(self.models.items()) if _may_read(model, call.token)]
        found = [model for model in readable if matches(model.name, "")]
        page, token = paginate(found, call.number("max_results", 100), call.text("page_token", ""))
        return without_empty(registered_models=[model_json(model) for model in page], next_page_token=token)

    def set_model_tag(self, call: Call) -> Json:
        """Set a tag of a model."""
        self._model(call).tags[call.text("key")] = call.text("value", "")
        return {}

    def delete_model_tag(self, call: Call) -> Json:
        """Delete a tag of a model."""
        self._model(call).tags.pop(call.text("key"), None)
        return {}

    def get_by_alias(self, call: Call) -> Json:
        """Return the version an alias stands for."""
        model, alias = self._model(call), call.text("alias")
        if alias not in model.aliases:
            raise missing(f"Registered model alias {alias} not found.")
        return {"model_version": version_json(model, model.aliases[alias])}

    def set_alias(self, call: Call) -> Json:
        """Let an alias stand for a version."""
        model, number = self._version(call)
        model.aliases[call.text("alias")] = number
        return {}

    def delete_alias(self, call: Call) -> Json:
        """Delete an alias."""
        self._model(call).aliases.pop(call.text("alias"), None)
        return {}

    def latest_versions(self, call: Call) -> Json:
        """Return the newest version in each of the stages, by default in every one."""
        model = self._model(call)
        stages = {stage_named(stage) for stage in call.texts("stages")} or set(STAGES.values())
        return without_empty(model_versions=latest_json(model, stages))

    # Model versions

    def create_version(self, call: Call) -> Json:
        """Register the next version, READY at once, with the files of its source."""
        model = self._touched(self._model(call))
        source = call.text("source")
        number = str(max(map(int, model.versions), default=0) + 1)
        model.versions[number] = ModelVersion(
            files=self.sources.get(source, {}),
            source=source,
            run_id=call.text("run_id", ""),
            description=call.text("description", ""),
            tags=call.tags(),
            creation_timestamp=model.last_updated_timestamp,
            last_updated_timestamp=model.last_updated_timestamp,
        )
        return {"model_version": version_json(model, number)}

    def get_version(self, call: Call) -> Json:
        """Return a version."""
        return {"model_version": version_json(*self._version(call))}

    def update_version(self, call: Call) -> Json:
        """Change the description."""
        model, number = self._version(call)
        self._touched(model.versions[number]).description = call.text("description", "")
        return {"model_version": version_json(model, number)}

    def delete_version(self, call: Call) -> Json:
        """Delete a version and the aliases that stood for it."""
        model, number = self._version(call)
        del model.versions[number]
        model.aliases = {alias: target for alias, target in model.aliases.items() if target != number}
        return {}

    def search_versions(self, call: Call) -> Json:
        """Return the versions the caller may read, the newest of each model first."""
        matches = matcher(call.text("filter", ""))
        found = [
            version_json(model, number)
            for name, model in sorted(self.models.items())
            if _may_read(model, call.token)
            for number in sorted(model.versions, key=int, reverse=True)
            if matches(name, model.versions[number].run_id)
        ]
        page, token = paginate(found, call.number("max_results", 10_000), call.text("page_token", ""))
        return without_empty(model_versions=page, next_page_token=token)

    def transition_stage(self, call: Call) -> Json:
        """Move a version to a stage, archiving the ones there on request."""
        model, number = self._version(call)
        stage = stage_named(call.text("stage"))
        if call.flag("archive_existing_versions"):
            for version in model.versions.values():
                if version.stage == stage:
                    self._touched(version).stage = "Archived"
        self._touched(model.versions[number]).stage = stage
        return {"model_version": version_json(model, number)}

    def set_version_tag(self, call: Call) -> Json:
        """Set a tag of a version."""
        model, number = self._version(call)
        model.versions[number].tags[call.text("key")] = call.text("value", "")
        return {}

    def delete_version_tag(self, call: Call) -> Json:
        """Delete a tag of a version."""
        model, number = self._version(call)
        model.versions[number].tags.pop(call.text("key"), None)
        return {}

    # Files of a version

    def download_uri(self, call: Call) -> Json:
        """Return the URI of the registry's copy."""
        model, number = self._version(call)
        return {"artifact_uri": model.versions[number].uri}

    def list_artifacts(self, call: Call) -> Json:
        """List a directory; a file lists as itself."""
        version, _, entries = self._entries(call)
        page, token = paginate(entries, self.page_size, call.text("page_token", ""))
        files = [
            {"path": entry.path, "is_dir": True}
            if entry.size is None
            else {"path": entry.path, "is_dir": False, "file_size": entry.size}
            for entry in page
        ]
        return {"root_uri": version.uri, **without_empty(files=files, next_page_token=token)}

    def signed_download_uri(self, call: Call) -> Json:
        """Return the URL of a file and the headers it needs."""
        version, path, _ = self._entries(call)
        if path not in version.files:
            raise invalid(f"Path '{path}' is a directory.")
        signed = self.sign(version, path)
        headers = [{"name": name, "value": value} for name, value in signed.headers.items()]
        return {"signed_uri": signed.url, **without_empty(headers=headers)}

    # Finding things

    def _model(self, call: Call) -> Model:
        name = call.text("name")
        if name not in self.models:
            raise missing(f"RegisteredModel '{name}' does not exist.")
        if not _may_read(self.models[name], call.token):
            raise ApiError(403, "PERMISSION_DENIED", f"No permission to read registered model '{name}'.")
        return self.models[name]

    def _version(self, call: Call) -> tuple[Model, str]:
        model, number = self._model(call), call.text("version")
        if number not in model.versions:
            raise missing(f"ModelVersion (name={model.name}, version={number}) does not exist.")
        return model, number

    def _entries(self, call: Call) -> tuple[ModelVersion, str, list[Entry]]:
        model, number = self._version(call)
        # The workspace takes an absent path, an empty one and a trailing slash for the same.
        path = call.text("path", "").rstrip("/")
        if path.startswith("/") or ".." in path.split("/"):
            raise invalid(f"Invalid path: '{path}'.")
        entries = model.versions[number].entries(path)
        if entries is None:
            raise missing(f"Path '{path}' does not exist.")
        return model.versions[number], path, entries

    def _refuse_taken(self, name: str) -> None:
        if name in self.models:
            raise ApiError(400, "RESOURCE_ALREADY_EXISTS", f"RegisteredModel '{name}' already exists.")

    def _touched(self, item: Touchable) -> Touchable:
        item.last_updated_timestamp = self.now_ms()
        return item


Endpoint = Callable[[Registry, Call], Json]

ENDPOINTS: dict[tuple[str, str], Endpoint] = {
    ("POST", "registered-models/create"): Registry.create_model,
    ("GET", "registered-models/get"): Registry.get_model,
    ("POST", "registered-models/rename"): Registry.rename_model,
    ("PATCH", "registered-models/update"): Registry.update_model,
    ("DELETE", "registered-models/delete"): Registry.delete_model,
    ("GET", "registered-models/search"): Registry.search_models,
    ("GET", "registered-models/list"): Registry.search_models,
    ("POST", "registered-models/set-tag"): Registry.set_model_tag,
    ("DELETE", "registered-models/delete-tag"): Registry.delete_model_tag,
    ("GET", "registered-models/alias"): Registry.get_by_alias,
    ("POST", "registered-models/alias"): Registry.set_alias,
    ("DELETE", "registered-models/alias"): Registry.delete_alias,
    ("GET", "registered-models/get-latest-versions"): Registry.latest_versions,
    ("POST", "registered-models/get-latest-versions"): Registry.latest_versions,
    ("POST", "model-versions/create"): Registry.create_version,
    ("GET", "model-versions/get"): Registry.get_version,
    ("PATCH", "model-versions/update"): Registry.update_version,
    ("DELETE", "model-versions/delete"): Registry.delete_version,
    ("GET", "model-versions/search"): Registry.search_versions,
    ("POST", "model-versions/transition-stage"): Registry.transition_stage,
    ("POST", "model-versions/set-tag"): Registry.set_version_tag,
    ("DELETE", "model-versions/delete-tag"): Registry.delete_version_tag,
    ("GET", "model-versions/get-download-uri"): Registry.download_uri,
    ("GET", "model-versions/list-artifacts"): Registry.list_artifacts,
    ("GET", "model-versions/get-signed-download-uri"): Registry.signed_download_uri,
}
"""The endpoints by method and path below `/api/2.0/mlflow/`; together they are one rate-limit group."""


def _may_read(model: Model, token: str | None) -> bool:
    return model.readers is None or token in model.readers
