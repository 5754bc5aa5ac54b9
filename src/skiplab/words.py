"""How numbers, times and names are written wherever they are shown. Imports nothing of Skiplab."""

import time
from datetime import timedelta


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 core`, `2 cores`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def percent(share: float | None) -> str:
    """Return a share of 1 as a percentage, or a dash for None."""
    return "-" if share is None else f"{100 * share:.2f} %"


def duration(seconds: float) -> str:
    """Return seconds as `12.3 s`, from a minute on as `1:02:03`."""
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def now() -> str:
    """Return the local time to the second, ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def printable(text: object) -> str:
    """Return a text that any terminal takes: bytes of a path that are no UTF-8 become escapes."""
    return str(text).encode(errors="backslashreplace").decode()


def in_bytes(size: int) -> str:
    """Return a number of bytes as `1.4 GiB`; smaller sizes in MiB and KiB."""
    if size < 2**20:
        return f"{size / 2**10:,.0f} KiB"
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.0f} MiB"
