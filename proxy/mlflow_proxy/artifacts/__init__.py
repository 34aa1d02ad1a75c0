"""Door A: the mlflow-artifacts façade that serves model files to clients with a plain http tracking URI."""
