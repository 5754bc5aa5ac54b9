"""How numbers, times and names are written wherever they are shown. Imports nothing of Skiplab."""

import re
import textwrap
import time

# With this variable in the environment a run prints more: `train -v` sets it.
WANTS_MORE = "SKIPLAB_VERBOSE"
# What is never broken: a percentage, and a command, since it is there to be copied. A command is in
# backticks, or `train` or `skiplab VERB` with what looks like its arguments: flags, KEY=VALUE,
# paths, words in quotes, and placeholders in capitals.
ARGUMENT = r"""(?:'[^']*'|-[^\s;,]+|[\w.]+=(?:'[^']*'|[^\s;])+|[^\s;']*/[^\s;']*|[A-Z]+\b)"""
WHOLE = re.compile(rf"\b(?:train|skiplab [a-z]+)(?: {ARGUMENT})+|`[^`]*`|(?<=\d) %")
# Stands for a space within them while lines are broken.
TIED = "\0"
INDENT = "  "


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 core`, `2 cores`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def percent(share: float | None) -> str:
    """Return a share of 1 as a percentage, or a dash for None."""
    return "-" if share is None else f"{100 * share:.2f} %"


def duration(seconds: float) -> str:
    """Return seconds as people say them: `0.8 s`, `41 s`, `3 min 20 s`, `2 h 05 min`, `3 d 4 h`.

    The smaller of two units is left out where it is zero.
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return joined(whole // 60, "min", whole % 60, "s")
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return joined(minutes // 60, "h", minutes % 60, "min")
    hours = round(seconds / 3600)
    return joined(hours // 24, "d", hours % 24, "h")


def joined(whole: int, unit: str, rest: int, small: str) -> str:
    """Return two units of time, the smaller one in two digits under an hour or a minute."""
    digits = "" if small == "h" else "02"
    return f"{whole:,} {unit}" + (f" {rest:{digits}} {small}" if rest else "")


def estimated(seconds: float) -> str:
    """Return an estimated time as `duration` does, no finer than an estimate can be.

    Steps are five minutes from an hour on, a minute from a minute and a half on, else five seconds,
    of which there are ten at least.
    """
    step = 300 if seconds >= 3570 else 60 if seconds >= 90 else 5
    return duration(max(10, step * round(seconds / step)))


def with_millions(number: int, noun: str) -> str:
    """Return a number with its noun, and in millions: `75,050 parameters (about 0.08 million)`.

    Below ten thousand the full count is easy to read by itself.
    """
    if number < 10_000:
        return counted(number, noun)
    millions = number / 1e6
    return f"{counted(number, noun)} (about {millions:,.{2 if millions < 10 else 1}f} million)"


def wrapped(text: str, width: int) -> str:
    """Break lines longer than `width` between words, and indent what goes on.

    A path and a command stay whole: one that is too long has a line of its own, over the edge if it
    must. Lines with columns, which have two spaces in a row, stay as they are.
    """
    return "\n".join(_wrapped_line(line, width) for line in text.split("\n"))


def _wrapped_line(line: str, width: int) -> str:
    """Break one line."""
    if len(line) <= width or "  " in line:
        return line
    tied = WHOLE.sub(lambda found: found[0].replace(" ", TIED), line)
    parts = textwrap.wrap(
        tied, width, subsequent_indent=INDENT, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(parts).replace(TIED, " ")


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
