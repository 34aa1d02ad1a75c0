"""When something ends: signed URLs, and the times that fields tell."""

import calendar
import math
import re
from random import Random
from urllib.parse import unquote

from mlflow_proxy.mlflow_api import headers
from mlflow_proxy.mlflow_api.signed_urls import expires_at
from mlflow_proxy.upstream.retry import retry_after_seconds
from tests.fuzz.properties.drawing import Arguments, Property, some_text

_DATES = (
    *(
        "20260301T120000Z",
        "20260301T1200Z",
        "2026111T120000Z",
        "20260231T000000Z",
        "99991231T235959Z",
        "00010101T000000Z",
    ),
    *(
        "2026-03-01T12:05:00Z",
        "2026-03-01",
        "20260301",
        "2026-W10-7",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59",
    ),
    *(
        "\u0662\u0660260301T120000Z",
        "2026-03-01T12:05:00.5Z",
        "900",
        "0",
        "-1",
        "1e3",
        "999999999999",
        "9" * 13,
        "\u0661",
    ),
    *(
        "2026-03-01T12%3A05%3A00%2B02%3A00",
        "2026-03-01T24:00:00Z",
        "2026-03-01 12:05:00",
        "+900",
        " 900",
        "1_0",
        "",
    ),
)
_TIMED = (
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Goog-Date",
    "X-Goog-Expires",
    "se",
    "sig",
    "ske",
    "Expires",
    "x-amz-date",
    "X-Amz-Security-Token",
    "SE",
    "a",
)


def _signed(chance: Random) -> Arguments:
    usual = chance.choice(
        (("X-Amz-Date", "X-Amz-Expires"), ("se", "sig"), ("Expires",), ("X-Goog-Date", "X-Goog-Expires"))
    )
    named = [(name, chance.choice(_DATES)) for name in usual]
    named += [(chance.choice(_TIMED), chance.choice(_DATES)) for _ in range(chance.choice((0, 0, 0, 1, 2)))]
    return ("https://s.test/f?" + "&".join(f"{name}={value}" for name, value in named),)


def _expiry(url: str) -> str:
    found = expires_at(url)
    if found is not None and not math.isfinite(found):
        return f"{found}"
    pairs = [pair.partition("=") for pair in url.partition("?")[2].split("&")]
    query = {name.lower(): unquote(value).replace("+", " ") for name, _, value in pairs}
    names = {*query}
    moments: list[float | None] = []
    for date, seconds in (("x-amz-date", "x-amz-expires"), ("x-goog-date", "x-goog-expires")):
        if {date, seconds} <= names:
            began = _basic(query[date])
            lasts = re.fullmatch("[0-9]{1,12}", query[seconds])
            moments.append(began + int(lasts[0]) if began is not None and lasts else None)
    if "expires" in names:
        epoch = re.fullmatch("[0-9]{1,12}", query["expires"])
        moments.append(float(epoch[0]) if epoch else None)
    if {"se", "sig"} <= names:
        for end in {"se", "ske"} & names:
            extended = re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)Z", query[end], re.ASCII)
            if extended is None:
                return ""  # several spellings of ISO 8601 are read; this oracle knows one
            moments.append(
                _basic("".join(extended.groups()[:3]) + "T" + "".join(extended.groups()[3:]) + "Z")
            )
    if moments and "x-amz-security-token" in names:
        signed = _basic(query.get("x-amz-date", ""))
        moments.append(None if signed is None else signed + 300)
    known = [moment for moment in moments if moment is not None]
    meant = min(known) if known and len(known) == len(moments) and len(names) == len(pairs) else None
    return "" if found == meant else f"{found} is not {meant}"


def _basic(text: str) -> float | None:
    parts = re.fullmatch(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z", text, re.ASCII)
    if parts is None:
        return None
    year, month, day, hour, minute, second = (int(part) for part in parts.groups())
    if year < 1 or not 1 <= month <= 12 or hour > 23 or minute > 59 or second > 59:
        return None
    if not 1 <= day <= calendar.monthrange(year, month)[1]:
        return None
    return float(calendar.timegm((year, month, day, hour, minute, second)))


_FIELD_DATES = (
    *(
        "Sun, 01 Mar 2026 12:00:00 GMT",
        "Sunday, 01-Mar-26 12:00:00 GMT",
        "Sun Mar  1 12:00:00 2026",
        "GMT",
        "+9999",
        "-2359",
    ),
    *(
        "Sun,",
        "01",
        "Mar",
        "9999",
        "0000",
        "12:00:00",
        "99:99:99",
        "-",
        "+",
        "1",
        " ",
        ",",
        "0",
        "\u0661",
        "9" * 400,
        "inf",
    ),
    *(
        "01 Jan 0001 00:00:00 +2359",
        "31 Dec 9999 23:59:59 -2359",
        "nan",
        "1e5",
        "\0",
        "(x",
        "Sun, 01 Mar 2026 12:00:00 +0200",
    ),
)


def _times(chance: Random) -> Arguments:
    return some_text(chance, _FIELD_DATES, 4), some_text(chance, _FIELD_DATES, 3)


def _field_times(value: str, date: str) -> str:
    old = headers.age(value)
    digits = re.fullmatch(r"\s*([0-9]{1,20})\s*", value)
    if old != (min(int(digits[1]), 2**31) if digits else 0):
        return f"age {old}"
    after = retry_after_seconds(value, 1e9, date)
    if after is not None and not 0 <= after <= 1e12:
        return f"retry after {after}"
    moment = headers.unix_time(value)
    if moment is not None and not math.isfinite(moment):
        return f"time {moment}"
    if value == _FIELD_DATES[0] and moment != calendar.timegm((2026, 3, 1, 12, 0, 0)):
        return f"time {moment}"
    return ""


PROPERTIES: dict[str, Property] = {
    "a signed URL's expiry": Property(_signed, _expiry),
    "times in fields": Property(_times, _field_times),
}
