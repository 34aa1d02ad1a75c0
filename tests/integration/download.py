"""A job as others have them: run by a client's own interpreter, downloads what standard input names.

Each line of input is a JSON object of destination directories and artifact URIs (a URI as a list is a model
version, name and number, whose URI the registry is asked for). Each line of output tells of the errors.
"""

import json
import os
import sys

import mlflow  # type: ignore[import-not-found, unused-ignore]


def resolve(uri: "str | list[str]") -> str:
    if isinstance(uri, str):
        return uri
    name, version = uri
    return str(mlflow.MlflowClient().get_model_version_download_uri(name, version))


def main() -> None:
    for line in sys.stdin:
        errors = {}
        for destination, uri in json.loads(line).items():
            os.makedirs(destination)
            try:
                mlflow.artifacts.download_artifacts(artifact_uri=resolve(uri), dst_path=destination)
            except Exception as error:  # noqa: BLE001 - whatever it is, the test wants to see it
                errors[destination] = f"{type(error).__name__}: {error}"
        print(json.dumps(errors), flush=True)


main()
