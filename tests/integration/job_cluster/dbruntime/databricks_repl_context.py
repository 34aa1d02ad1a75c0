"""Says where the interpreter runs: what MLflow asks first (`mlflow.utils.databricks_utils`)."""

import json
import os
from types import SimpleNamespace


def get_context() -> SimpleNamespace:
    """Return the context that the test gave, by MLflow's names for its attributes."""
    return SimpleNamespace(**json.loads(os.environ["REPL_CONTEXT"]))
