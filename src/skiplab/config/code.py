"""Code of a user's own as a value: FILE.py:NAME, where a group of conf/ has the name of an option.

A command's config names each such piece (`Code`) by its file and the SHA-256 of its content. The
file is read and parsed here, and never run. Imports no torch, no Hydra.
"""

import ast
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from skiplab import locations, own_code, regular
from skiplab.config import signatures
from skiplab.config.schema import Code
from skiplab.config.values import nearest
from skiplab.errors import UsageError

# The groups whose options may be code of a user's own, each with the option of conf/ whose keys and
# values such code has.
BASES = {"block": "residual", "model": "deepcnn", "augment": "none", "optimizer": "adam"}
# The values of an identity, and of a run's history, that say which code of one's own a run has.
DIGESTS = tuple(f"{group}.sha256" for group in BASES)
# A base's keys that are of its own code alone.
NOT_OF_OWN_CODE = ("betas", "eps")
SPEC = re.compile(r"(?P<file>.+\.py):(?P<name>[^:/\\]*)", re.DOTALL)
# The name that a config has for it, FILE.NAME. No option of conf/ has a dot in its name.
NO_LETTER = re.compile(r"[^\w-]")
OWN_NAME = re.compile(r"[\w-]+\.[^\W\d]\w*")


def is_spec(value: object) -> bool:
    """Return whether a value is written as FILE.py:NAME."""
    return isinstance(value, str) and SPEC.fullmatch(value) is not None


def is_own(name: object) -> bool:
    """Return whether a name in a config is that of code of a user's own."""
    return isinstance(name, str) and OWN_NAME.fullmatch(name) is not None


def short_name(spec: str) -> str:
    """Return FILE.NAME for FILE.py:NAME: what a config, a folder and a table call it."""
    found = SPEC.fullmatch(spec)
    assert found is not None
    stem = os.path.basename(found["file"]).removesuffix(".py")
    return f"{NO_LETTER.sub('_', stem) or '_'}.{found['name']}"


def as_typed(text: str) -> str:
    """Return FILE.py:NAME without the signs that Hydra's grammar adds; another text as it is."""
    bare = text.strip("'").replace("\\:", ":").replace("\\'", "'")
    return bare if is_spec(bare) else text


def spec_without_name(value: str) -> bool:
    """Return whether a value is a file's name, FILE.py, without what is meant in it."""
    return value.endswith(".py")


def problem_of(group: str, value: str) -> str | None:
    """Return what is wrong with code that an override names, in one line; None if nothing is.

    A value that is no code at all is not wrong here.
    """
    if not is_spec(value) and not spec_without_name(value):
        return None
    if group not in BASES:
        return f"{group}={value}: code of your own can be a {', '.join(BASES)}; {group} takes none"
    try:
        read(group, value)
    except UsageError as error:
        return str(error)
    return None


def read(group: str, spec: str) -> Code:
    """Read and parse the code that a command names, and allow it to be run by this process.

    Raises UsageError, in one line, if there is no such file, class or function, or its signature
    does not fit the group.
    """
    given = f"{group}={spec}"
    found = SPEC.fullmatch(spec)
    file = found["file"] if found is not None else spec
    path = locations.absolute(file, key=group)
    try:
        content = own_code.read(path)
    except OSError as error:
        raise UsageError(f"{given}: cannot be read ({regular.why(path, error)})") from None
    tree = parsed(path, content)
    name = found["name"] if found is not None else ""
    names = signatures.names_of(tree)
    own = [each for each, node in names.items() if not signatures.is_import(node)]
    if not name:
        raise UsageError(
            f"{given}: a name is missing; write {group}={file}:NAME, "
            f"the file has {', '.join(own) or 'none'}"
        )
    if name not in names:
        raise UsageError(f"{given}: the file has no {name}; {nearest(name, own)}")
    if (problem := signatures.problem_of(group, tree, name)) is not None:
        raise UsageError(f"{own_code.shown(path)}:{problem}")
    own_code.allow(path, content)
    return Code(group, short_name(f"{file}:{name}"), path, own_code.digest(content))


def parsed(path: str, content: bytes) -> ast.Module:
    """Parse a file. Raises UsageError with its line if it is not Python."""
    try:
        return ast.parse(content, path)
    except SyntaxError as error:
        raise own_code.syntax_problem(error, path) from None
    # It holds a null byte, or brackets nested too deeply.
    except (ValueError, RecursionError, MemoryError) as error:
        raise UsageError(f"{own_code.shown(path)}: not Python ({error})") from None


def pinned(tree: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """Return a composed tree whose names FILE.py:NAME are short names, with `code` for each.

    What is wrong with a file goes to `problems`.
    """
    result, found = dict(tree), []
    for group in BASES:
        section = tree.get(group)
        spec = section.get("name") if isinstance(section, Mapping) else None
        if not is_spec(spec) or not isinstance(section, Mapping):
            continue
        try:
            code = read(group, str(spec))
        except UsageError as error:
            problems += str(error).split("\n")
            continue
        found.append(code)
        # An augmentation's keys are those of the built-in ones, which have no name.
        names = {} if group == "augment" else {"name": code.name}
        result[group] = {key: each for key, each in section.items() if key != "name"} | names
    return result | ({"code": [code.as_dict() for code in found]} if found else {})


def across(code: Sequence[Code], names: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong between a config's `code` and the names of its options, by group."""
    by_group = {each.group: each.name for each in code}
    if len(by_group) < len(code):
        yield "code: a group is given twice; Skiplab writes this key itself"
    for group, name in names.items():
        if is_own(name) and by_group.get(group) != name:
            yield (
                f"{group}.name={name}: the config does not say which code that is; "
                f"write {group}=FILE.py:NAME"
            )
    for group, name in by_group.items():
        if group in names and names[group] != name:
            yield f"code: {group} is {name}, and {group}.name is {names[group]}"
