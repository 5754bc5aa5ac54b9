"""$SKIPLAB_OUTPUTS: the folder of runs and studies, for every command that writes or lists them."""

import json
import re
from pathlib import Path

import pytest

from helpers import SMALL, Cli
from skiplab import locations
from skiplab.errors import UsageError
from skiplab.runs import folders

ONE_STEP = (*SMALL, "trainer.limit_steps=1")


def test_without_the_variable_it_is_outputs() -> None:
    assert locations.outputs() == Path("outputs")
    assert locations.studies() == Path("outputs/studies")
    assert locations.outputs_in_words().startswith("outputs/ under the folder")


def test_a_home_folder_is_expanded_and_a_relative_path_stays_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SKIPLAB_OUTPUTS", "~/runs")
    assert locations.outputs() == tmp_path / "runs"
    monkeypatch.setenv("SKIPLAB_OUTPUTS", "some/runs")
    assert locations.studies() == Path("some/runs/studies")
    assert locations.outputs_in_words() == "$SKIPLAB_OUTPUTS=some/runs"


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("", "$SKIPLAB_OUTPUTS is empty; a folder is expected"),
        ("  ", "$SKIPLAB_OUTPUTS is empty; a folder is expected"),
        ("~nobody-at-all/x", "no home folder is known for ~nobody-at-all"),
        ("a\nb", "a path without line breaks"),
        ("x" * 300, "cannot be a path"),
    ],
)
def test_what_can_be_no_folder_is_refused_by_every_command_that_needs_it(
    text: str, fragment: str, call: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKIPLAB_OUTPUTS", text)
    with pytest.raises(UsageError, match="SKIPLAB_OUTPUTS"):
        locations.outputs()
    commands = (
        ("train", *ONE_STEP),
        ("train", "-m", *ONE_STEP, "seed=0,1"),
        ("train", "-m", *ONE_STEP, "seed=0,1", "--cfg", "job"),
        ("skiplab", "list"),
        ("skiplab", "search", *ONE_STEP, "width=4,8"),
    )
    for command, *arguments in commands:
        code, out, err = call(*arguments, command=command)
        assert (code, out) == (2, ""), (command, arguments)
        assert err.count("\n") == 1
        assert fragment in err
    # What names its folder needs no other, and help is always there.
    Path("there").mkdir()
    assert call("list", "there", command="skiplab")[0] == 0
    assert call("list", "--help", command="skiplab")[0] == 0
    assert call("--cfg", "job")[0] == 0


@pytest.mark.parametrize("place", ["file", "file/below", "/dev/null/runs", "/proc/runs"])
def test_where_no_folder_can_be_made_it_is_exit_code_4(
    place: str, call: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").touch()
    monkeypatch.setenv("SKIPLAB_OUTPUTS", place)
    for command, *arguments in (
        ("train", *ONE_STEP),
        ("train", "-m", *ONE_STEP, "seed=0,1"),
        ("skiplab", "search", *ONE_STEP, "width=4,8"),
    ):
        code, out, err = call(*arguments, command=command)
        assert (code, out) == (4, ""), (command, arguments, err)
        assert err.count("\n") == 1
        assert err.startswith(f"error: {place}")
    code, out, err = call("list", command="skiplab")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.endswith(f"; runs go to $SKIPLAB_OUTPUTS={place}\n")
    assert call(*ONE_STEP, "out=elsewhere")[0] == 0


def test_runs_lists_previews_and_comparisons_follow(
    call: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skiplab.study.compare.tables.draw", lambda *_, **__: ([], []))
    monkeypatch.setenv("SKIPLAB_OUTPUTS", "elsewhere")
    assert call(*SMALL, "trainer.max_time=1e-9")[0] == 7
    (run,) = folders.runs_under(Path("elsewhere"))
    assert run.parent.parent == Path("elsewhere")
    assert str(run) in call("list", command="skiplab")[1]
    # The same command finds its unfinished run there.
    code, out, _ = call(*SMALL)
    assert (code, f"going on with {run}" in out) == (0, True)
    out = call("-m", *SMALL, "seed=1,2", "study=s", "--cfg", "job")[1]
    assert re.search(r"^not begun .* elsewhere/studies/s/seed-1_[0-9a-f]{8}$", out, re.MULTILINE)
    assert call("compare", str(run), command="skiplab")[0] == 0
    groups = json.loads(Path("elsewhere/compare/compare.json").read_text())["groups"]
    assert [each["folder"] for each in groups[0]["runs"]] == [str(run)]
    code, _, err = call("compare", "nowhere", command="skiplab")
    assert (code, "a study lies under elsewhere/studies" in err) == (2, True)
    assert not Path("outputs").exists()


@pytest.mark.slow
def test_a_study_is_run_there(call: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPLAB_OUTPUTS", "elsewhere")
    assert call("-m", *ONE_STEP, "seed=1,2", "study=s")[0] == 0
    study = Path("elsewhere/studies/s")
    assert len(folders.runs_under(study)) == 2
    assert (study / "compare.json").is_file()
    assert not Path("outputs").exists()
