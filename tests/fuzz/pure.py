"""Pure functions against oracles that were written apart from them.

A property makes its arguments by chance and says what is wrong with them, empty if nothing is. An exception
that it does not expect is a finding too.
"""

from tests.fuzz.properties import identities, paths, questions, times
from tests.fuzz.properties.drawing import Arguments, Property

PROPERTIES: dict[str, Property] = {
    **questions.PROPERTIES,
    **paths.PROPERTIES,
    **times.PROPERTIES,
    **identities.PROPERTIES,
}


def wrong(name: str, arguments: Arguments) -> str:
    """Say what is wrong with a property for these arguments, empty if nothing is."""
    try:
        return PROPERTIES[name].wrong(*arguments)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what was looked for
        return f"raised {error!r}"
