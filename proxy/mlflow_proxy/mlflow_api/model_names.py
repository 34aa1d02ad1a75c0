"""Which names of registered models a workspace may take for one and the same. Pure."""

import unicodedata
from functools import lru_cache


@lru_cache(maxsize=1024)  # names are some hundred characters by now, and usually the same few
def folded(name: str) -> str:
    """Return what all names have in common that a server may take for this one.

    Databases compare names as their collation says: regardless of case, accents and width (MySQL 8's default,
    utf8mb4_0900_ai_ci), of blanks at the end (those that pad). Which one a workspace has is not known; a
    write that drops too much is safe.
    """
    apart = unicodedata.normalize("NFKD", name.casefold())
    bare = "".join(each for each in apart if not unicodedata.combining(each) and each.isprintable())
    return bare.casefold().strip()


def folded_or_none(name: str | None) -> str | None:
    """Return the same for what is about a model, None for what is about none in particular."""
    return None if name is None else folded(name)
