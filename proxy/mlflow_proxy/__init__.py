"""mlflow-proxy: one polite client of the MLflow Workspace Model Registry on behalf of many."""

__version__ = "0.1.0"
