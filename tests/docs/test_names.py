"""Every name in the documents exists, and every metric, module and setting is where it is looked for."""

import ast
import re
import tomllib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from mlflow_proxy import settings
from mlflow_proxy.demo.workspace import EmulatedWorkspace, WorkspaceOptions
from tests.docs.documents import ALL, DOCUMENTS, blocks_of, text_of
from tests.docs.harness import PACKAGE, ROOT, Bench, until_it_answers
from tests.docs.markdown import spans, without_blocks
from tests.docs.rehearsal import commands, help_of, options, rehearse
from tests.fleet.redis_server import NetworkRedisServer

SETTINGS = {".".join(path) for path, _ in settings.names(settings.Settings)}
SECTIONS = {name.partition(".")[0] for name in SETTINGS if "." in name}
PROGRAMS = ("mlflow-proxy serve", "mlflow-proxy demo", "mlflow-proxy purge", "python -m tests.bench.fleet")
"""Whose options the documents name by themselves, as `--option`."""
OTHERS = ("deploy/.env.example", "deploy/databricks-init.sh", "deploy/compose.yaml", "Dockerfile")
COMMANDS = re.compile(r"(make|mlflow-proxy|(\.venv/bin/)?python -m) [a-zA-Z_.-]+(?!\S)")


def named_in(file: str, pattern: str) -> set[str]:
    """Return what matches in a document or another file of the repository."""
    return set(re.findall(pattern, text_of(file)))


# -- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", [*ALL, *OTHERS])
def test_settings_that_are_named_exist(file: str) -> None:
    """As MLFLOW_PROXY_SECTION__NAME anywhere, as `section.name` in a code span."""
    variables = {settings.PREFIX + name.upper().replace(".", "__") for name in SETTINGS}
    assert not named_in(file, rf"\b{settings.PREFIX}[A-Z_]*[A-Z]\b") - variables
    if file.endswith(".md"):
        dotted = re.compile(rf"({'|'.join(SECTIONS)})\.(?!py$)[a-z_]+")
        names = {span.partition(" ")[0] for span in spans(text_of(file))}
        assert not {name for name in names if dotted.fullmatch(name)} - SETTINGS


def test_variables_of_the_init_script_exist() -> None:
    variable = r"\bSIDECAR_[A-Z_]+\b"
    assert not {name for file in ALL for name in named_in(file, variable)} - named_in(OTHERS[1], variable)


def test_settings_in_toml_exist() -> None:
    blocks = [block for file in DOCUMENTS for block in blocks_of(file) if block.language == "toml"]
    of_settings = [block for block in blocks if "[clients]" not in block.text]
    assert of_settings
    for block in of_settings:
        assert not set(_flat(block.text)) - SETTINGS, block


def test_settings_of_the_example_exist() -> None:
    """Those that are commented out as well."""
    text = (ROOT / "config.example.toml").read_text()
    assert set(_flat(re.sub(r"^# (?=[a-z_]+ = )", "", text, flags=re.MULTILINE))) == SETTINGS - {"config"}


def _flat(toml: str) -> list[str]:
    sections = tomllib.loads(toml).items()
    return [
        f"{name}.{each}" if isinstance(value, dict) else name
        for name, value in sections
        for each in (value if isinstance(value, dict) else [name])
    ]


# -- commands, options, messages ----------------------------------------------------------------------------


def test_commands_in_the_text_exist() -> None:
    found = {span for file in ALL for span in spans(text_of(file)) if COMMANDS.match(span)}
    assert len(found) > 20
    for span in sorted(found):
        for words in commands(span):
            rehearse(words)


def test_options_in_the_text_exist() -> None:
    known = {option for program in PROGRAMS for option in options(help_of(tuple(program.split())))}
    words = [word for file in ALL for span in spans(text_of(file)) for word in span.split()[:1]]
    named = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert named
    assert not named - known


# Of other programs, or made of parts that stand apart in the code.
NOT_OURS = {
    "Connection refused",
    "Tunnel connection failed: 400",
    "WARNING: ... cannot reach ... yet",
    "mlflow-proxy sidecar: FAILED:",
    "port: 8080 is already in use",
    "too many 429 error responses",
    "... no such setting",
    "is no HTTP_PROXY",
}


def test_messages_in_the_tables_of_troubles_are_those_of_the_code() -> None:
    """The first column quotes what users see: they search for it."""
    said = _texts_of_the_code()
    quoted = set()
    for file in ("docs/operations.md", "deploy/databricks-cluster.md"):
        title = r"^## (?:Troubleshooting|When it does not work)\n"
        section = re.split(title, text_of(file), flags=re.MULTILINE)[1].partition("\n## ")[0]
        for line in section.splitlines():
            if line.startswith("| "):
                quoted |= {span for span in spans(line.split(" | ")[0]) if " " in span and "=" not in span}
    assert len(quoted - NOT_OURS) > 10
    assert not {text for text in quoted - NOT_OURS if not any(text in each for each in said)}


def _texts_of_the_code() -> set[str]:
    """Return the texts of the package; what is formatted into one is left out of it."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Constant(value=str(text)):
                    found.add(text)
                case ast.JoinedStr(values=values):
                    parts = (each.value for each in values if isinstance(each, ast.Constant))
                    found.add("".join(map(str, parts)))
    return found


# -- what a proxy shows ------------------------------------------------------------------------------------


async def test_metrics_and_endpoints_that_are_named_exist(tmp_path: Path) -> None:
    """Of a proxy that has every part; and docs/operations.md explains each of its metrics."""
    async with a_proxy_with_every_part(tmp_path) as url, aiohttp.ClientSession() as session:
        for name in {name for file in ALL for name in named_in(file, r"(?<=/-/)[a-z]+(?:\.json)?\b")}:
            async with session.get(f"{url}/-/{name}") as response:
                assert response.status in {200, 405}, name
        async with session.get(f"{url}/-/metrics") as response:
            metrics = await response.text()
    types = re.findall(r"^# TYPE (mlflow_proxy_\w+) \w+$", metrics, re.MULTILINE)
    existing = {name for name in types if not name.endswith("_created")}
    metric = r"\bmlflow_proxy_[a-z0-9_]*[a-z0-9]\b(?![-/])"
    assert not {name for file in ALL for name in named_in(file, metric)} - existing
    undocumented = existing - named_in("docs/operations.md", metric)
    assert not undocumented, "docs/operations.md does not explain them"


@asynccontextmanager
async def a_proxy_with_every_part(directory: Path) -> AsyncIterator[str]:
    """Serve workers of a fleet with a secret; yields their URL."""
    async with AsyncExitStack() as stack:
        workspace = await stack.enter_async_context(EmulatedWorkspace([], WorkspaceOptions(latency=0)))
        redis = NetworkRedisServer(directory / "redis")
        await redis.start()
        stack.push_async_callback(redis.kill)
        (directory / "bench").mkdir()
        bench = Bench(directory / "bench", {})
        serve = f"mlflow-proxy serve --upstream {workspace.url} --redis {redis.url} --workers 2"
        secret = {"MLFLOW_PROXY_FLEET__SECRET": "of-these-tests-alone"}
        process = await stack.enter_async_context(bench.started(serve, secret))
        url = f"http://127.0.0.1:{bench.port}"
        await until_it_answers(process, url, "/-/readyz")
        yield url


# -- the code that documents name --------------------------------------------------------------------------


def test_the_structure_names_every_folder_and_module() -> None:
    named = set(spans(text_of("CONTRIBUTING.md")))
    inside = {path.name + "/" for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    inside |= {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}
    folders = [path.name for path in (ROOT / "tests").iterdir() if path.is_dir()]
    around = {f"tests/{name}/" for name in folders if name != "__pycache__"}
    unexplained = (inside | around) - named
    assert not unexplained, "CONTRIBUTING.md does not say what these hold"
    code = {name for name in named if re.fullmatch(r"(tests/)?[a-z_]+/|[a-z_]+\.py", name)}
    gone = code - inside - around - {"docs/", "deploy/"}
    assert not gone, "CONTRIBUTING.md names them"


@pytest.mark.parametrize("file", ALL)
def test_files_that_are_named_exist(file: str) -> None:
    """Files of the repository, and modules by their path in the package."""
    path = re.compile(r"[\w./-]+/[\w.-]+\.(py|toml|md|sh|yaml|txt)")
    for name in {span for span in spans(text_of(file)) if path.fullmatch(span)}:
        assert (ROOT / name).exists() or (PACKAGE / name).exists(), name


def test_comments_cite_documents_that_are_here() -> None:
    """A comment that cites a file that its reader does not have explains nothing."""
    here = {path.name for pattern in ("*.md", "docs/*.md", "deploy/*.md") for path in ROOT.glob(pattern)}
    files = [ROOT / name for name in ("config.example.toml", "Makefile", "Dockerfile", *OTHERS)]
    for path in (*files, *(ROOT / "tests").rglob("*.py")):
        assert not set(re.findall(r"\b[\w-]+\.md\b", path.read_text())) - here, path


@pytest.mark.parametrize("file", DOCUMENTS)
def test_documents_name_no_package(file: str) -> None:
    """The place of the package may change; modules are named by their path in it."""
    assert not re.search(r"\bproxy/(mlflow_proxy/)?[a-z_]+(/|\.py)", without_blocks(text_of(file)))
