"""The endpoints beside the registry that clients ask a workspace for on their way to a model.

What belongs here: answers that are the same whatever is registered, namely tracking, DBFS and discovery.
"""

from collections.abc import Callable

from mlflow_proxy.demo.models import EPOCH_MS
from mlflow_proxy.demo.shapes import Call, Json, missing

_EXPERIMENT = {
    "experiment_id": "0",
    "name": "/Shared/emulated",
    "artifact_location": "dbfs:/databricks/mlflow-tracking/0",
    "lifecycle_stage": "active",
    "creation_time": EPOCH_MS,
    "last_update_time": EPOCH_MS,
}
_WORKSPACE_ID = "1000000000000000"


def _experiment(call: Call) -> Json:
    if call.text("experiment_id") != _EXPERIMENT["experiment_id"]:
        raise missing(f"Experiment '{call.text('experiment_id')}' does not exist.")
    return {"experiment": _EXPERIMENT}


def _experiment_by_name(call: Call) -> Json:
    if call.text("experiment_name") != _EXPERIMENT["name"]:
        raise missing(f"Node {call.text('experiment_name')} does not exist.")
    return {"experiment": _EXPERIMENT}


def _run(call: Call) -> Json:
    raise missing(f"Run '{call.text('run_id')}' not found.")


def _no_runs(_: Call) -> Json:
    return {}


def _dbfs_list(_: Call) -> Json:
    # The registry's storage is not readable through DBFS. An empty listing is the dangerous answer: a client
    # that trusts it reports success with no file downloaded.
    return {}


def _dbfs_status(call: Call) -> Json:
    raise missing(f"No file or directory exists on path {call.text('path')}.")


ENDPOINTS: dict[tuple[str, str], Callable[[Call], Json]] = {
    ("GET", "experiments/get"): _experiment,
    ("GET", "experiments/get-by-name"): _experiment_by_name,
    ("GET", "runs/get"): _run,
    ("POST", "runs/search"): _no_runs,
    ("GET", "/api/2.0/dbfs/list"): _dbfs_list,
    ("GET", "/api/2.0/dbfs/get-status"): _dbfs_status,
}
"""By method and path, that of tracking endpoints below `/api/2.0/mlflow/`."""


def discovery_documents(url: str) -> dict[str, Json]:
    """Return the documents about authentication of the workspace at `url`, by path; anyone may read them."""
    return {
        "/.well-known/databricks-config": {
            "oidc_endpoint": f"{url}/oidc",
            "workspace_id": _WORKSPACE_ID,
            "cloud": "AWS",
        },
        "/oidc/.well-known/oauth-authorization-server": {
            "issuer": f"{url}/oidc",
            "authorization_endpoint": f"{url}/oidc/v1/authorize",
            "token_endpoint": f"{url}/oidc/v1/token",
            "jwks_uri": f"{url}/oidc/jwks.json",
            "response_types_supported": ["code", "id_token"],
            "grant_types_supported": ["client_credentials", "authorization_code", "refresh_token"],
        },
    }
