"""The bearer tokens of a storm's clients.

What belongs here: which client has which, since jobs in real life seldom share one.
"""


def dealt(clients: int, tokens: int) -> list[str]:
    """Return a token for each of `clients`: `tokens` different ones, dealt in turn."""
    return [f"demo-token-{number % tokens + 1}" for number in range(clients)]


def proofs(tokens: int) -> int:
    """Return the calls by which `tokens` show that they may read one model.

    What a single token asked for is its own: it has nothing to prove.
    """
    return tokens if tokens > 1 else 0
