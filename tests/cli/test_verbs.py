"""The table of `skiplab`'s verbs, and the recipe that adds one."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from helpers import ROOT, SMALL, Cli
from skiplab.cli import skiplab


@pytest.mark.parametrize("name", skiplab.VERBS)
def test_a_verb_is_a_module_with_options_and_a_command(name: str) -> None:
    module = skiplab.import_verb(name)
    assert callable(module.add_options)
    assert callable(module.command)


def test_add_a_verb(call: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """CONTRIBUTING.md's recipe works."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    found = re.search(r"^## Add a verb\n.*?^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert found is not None
    module = ModuleType("skiplab.cli.log")
    exec(compile(found[1], "CONTRIBUTING.md", "exec"), vars(module))
    monkeypatch.setitem(sys.modules, "skiplab.cli.log", module)
    monkeypatch.setitem(skiplab.VERBS, "log", skiplab.Verb("the end of a run's log"))
    assert call(*SMALL, "out=run")[0] == 0
    code, out, err = call("log", "run", "--lines", "2", command="skiplab")
    assert (code, err) == (0, "")
    assert out.splitlines() == Path("run/run.log").read_text().splitlines()[-2:]
    assert "the end of a run's log" in skiplab.make_parsers()[0].format_help()
