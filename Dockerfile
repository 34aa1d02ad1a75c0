# The proxy as a container: docker build -t mlflow-proxy . && docker run -p 127.0.0.1:8080:8080 \
#     -e MLFLOW_PROXY_UPSTREAM=https://my-workspace.cloud.databricks.com mlflow-proxy
ARG PYTHON=3.11

# Everything that is installed, tools of the build included, comes from a lock with hashes.
FROM python:${PYTHON}-slim AS build
WORKDIR /src
COPY tests/environments/dev.txt deploy/requirements.txt ./
RUN ["python", "-m", "venv", "--without-pip", "/opt/mlflow-proxy"]
RUN ["python", "-m", "pip", "--python", "/opt/mlflow-proxy/bin/python", "install", "--no-cache-dir", "--no-deps", "--require-hashes", "--requirement", "requirements.txt"]
RUN ["python", "-m", "pip", "install", "--no-cache-dir", "--no-deps", "--require-hashes", "--requirement", "dev.txt"]
COPY pyproject.toml README.md LICENSE ./
COPY proxy/ proxy/
RUN ["python", "-m", "pip", "wheel", "--no-cache-dir", "--no-deps", "--no-build-isolation", "--wheel-dir", "/dist", "."]
RUN ["python", "-m", "pip", "--python", "/opt/mlflow-proxy/bin/python", "install", "--no-cache-dir", "--no-deps", "--no-index", "--find-links", "/dist", "mlflow-proxy"]

FROM python:${PYTHON}-slim
COPY --from=build /opt/mlflow-proxy /opt/mlflow-proxy
ENV PATH=/opt/mlflow-proxy/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    MLFLOW_PROXY_HOST=0.0.0.0 \
    MLFLOW_PROXY_PORT=8080
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --start-interval=1s \
    CMD ["python", "-c", "import os, urllib.request as u; u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:' + os.environ['MLFLOW_PROXY_PORT'] + '/-/healthz', timeout=4)"]
ENTRYPOINT ["mlflow-proxy"]
CMD ["serve"]
