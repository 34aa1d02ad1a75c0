"""One workspace is one, however its URL is spelled."""

import random
import string

import pytest

from mlflow_proxy.fleet.workspace_name import workspace_name
from mlflow_proxy.settings import Settings

PLAIN = [
    "https://my-workspace.cloud.databricks.com",
    "https://adb-1234567890123456.7.azuredatabricks.net",
    "http://127.0.0.1:5000",
    "http://gateway.test:8443/workspaces/one",
    "https://[2001:db8::1]:8443",
    "http://under_score.test",
    "https://xn--bcher-kva.example",
]


@pytest.mark.parametrize("url", PLAIN)
def test_a_plain_url_is_its_own_name(url: str) -> None:
    """So that members of the version before, whose names were not normalised, stay in the same fleet."""
    assert workspace_name(url) == url


@pytest.mark.parametrize(
    ("plain", "others"),
    [
        (
            "https://example.test",
            [
                "https://Example.TEST",
                "HTTPS://example.test",
                "https://example.test:443",
                "https://example.test:0443/",
                "https://example.test.",
                "https://EXAMPLE.test.:443/",
                "https://example\u3002test",
                "https://\uff45xample.test",
            ],
        ),
        ("https://xn--bcher-kva.example", ["https://b\u00fccher.example", "https://B\u00dcCHER.example:443"]),
        ("http://[2001:db8::1]", ["http://[2001:DB8:0:0::1]:80", "http://[2001:0db8:0:0:0:0:0:1]/"]),
        (
            "http://127.0.0.1:8080",
            ["http://127.1:8080", "http://0x7f.0.0.1:8080", "http://[::ffff:127.0.0.1]:8080"],
        ),
        ("http://gateway.test/a~b", ["http://gateway.test:80/x/../a%7eb/", "http://Gateway.test/./a%7Eb"]),
    ],
)
def test_other_spellings_have_the_plain_one_as_their_name(plain: str, others: list[str]) -> None:
    assert {workspace_name(url) for url in others} == {plain}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://example.test", "https://example.test"),
        ("https://example.test", "https://example.test:80"),
        ("https://example.test", "https://example.test:8443"),
        ("https://example.test", "https://www.example.test"),
        ("https://example.test/one", "https://example.test/two"),
        ("https://example.test/one", "https://example.test/One"),
        ("https://example.test/a/b", "https://example.test/a%2Fb"),
        ("http://127.0.0.1", "http://127.0.0.2"),
    ],
)
def test_different_workspaces_keep_different_names(one: str, other: str) -> None:
    assert workspace_name(one) != workspace_name(other)


def test_any_spelling_of_any_url_has_one_name_that_is_its_own() -> None:
    chance = random.Random(11)
    for _ in range(2000):
        labels = ["".join(chance.choices(string.ascii_lowercase, k=chance.randint(1, 9))) for _ in range(3)]
        scheme, default = chance.choice([("http", 80), ("https", 443)])
        port = chance.choice([default, chance.randint(1, 65535)])
        path = "".join(f"/{label}" for label in labels[: chance.randint(0, 2)])
        host = ".".join(labels)
        plain = f"{scheme}://{host}{'' if port == default else f':{port}'}{path}"
        capitals = "".join(chance.choice([letter, letter.upper()]) for letter in host)
        said = "" if port == default and chance.random() < 0.5 else f":{port}"
        spelled = f"{scheme}://{capitals}{chance.choice(['', '.'])}{said}{path}{chance.choice(['', '/'])}"
        name = workspace_name(Settings(upstream=spelled).upstream)
        assert name == plain
        assert workspace_name(name) == name
