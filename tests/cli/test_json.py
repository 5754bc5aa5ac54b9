"""`skiplab VERB --json`: one document, with the keys and types that docs/json.md states."""

import argparse
import itertools
import json
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState

from helpers import ROOT, SMALL, Cli
from skiplab.cli import answer, verify
from skiplab.cli.skiplab import VERBS
from skiplab.config import stored
from skiplab.errors import NotDrawn, UsageError
from skiplab.runs import folders, report
from skiplab.study import record, search

FORMAT_1 = ROOT / "tests/fixtures/format1"
PAGE = (ROOT / "docs/json.md").read_text(encoding="utf-8")
TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
    "any": (object,),
}
Spec = dict[str, str]


def specs() -> dict[str, Spec]:
    """The tables of docs/json.md: for each verb the types of its keys, by path."""
    found: dict[str, Spec] = {}
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        rows = re.findall(r"^\| `([^`]+)` \| ([a-z ]+) \| .*\|$", section, re.MULTILINE)
        assert len(rows) == section.count("\n| `"), section.split("\n")[0]
        assert len(rows) == len(dict(rows))
        # An array of objects has rows for their keys alone.
        items = [
            path[: match.end() - 1] for path, _ in rows for match in re.finditer(r"\[\]\.", path)
        ]
        found[section.split("\n")[0]] = dict.fromkeys(items, "object") | dict(rows)
    return found


SPECS = specs()


def pattern(path: str) -> str:
    """The path of a table as an expression: a word in capitals stands for any key."""
    return re.sub(r"\\\.[A-Z]+(?=\\\.|\\\[|$)", r"\\.[^\\n]+", re.escape(path))


def is_of(value: object, kinds: str) -> bool:
    found = [kind for word in kinds.split(" or ") for kind in TYPES[word]]
    is_number = "boolean" not in kinds and "any" not in kinds and isinstance(value, bool)
    return isinstance(value, tuple(found)) and not is_number


def paths_of(value: object, path: str = "") -> list[tuple[str, object]]:
    """Every value of a document with its path."""
    here: list[tuple[str, object]] = [(path, value)] if path else []
    if isinstance(value, dict):
        for key, each in value.items():
            here += paths_of(each, f"{path}.{key}" if path else key)
    if isinstance(value, list):
        for each in value:
            here += paths_of(each, f"{path}[]")
    return here


def assert_documented(document: Mapping[str, object], spec: Spec) -> set[str]:
    """Every value is in the table and of its type, every key of it is there; returns its rows."""
    used: set[str] = set()
    for path, value in paths_of(document):
        rows = [row for row in spec if re.fullmatch(pattern(row), path)]
        assert rows, f"{path} is not in docs/json.md"
        row = path if path in rows else max(rows, key=len)
        assert is_of(value, spec[row]), (path, value, spec[row])
        used.add(row)
        if isinstance(value, dict):
            below = re.compile(rf"{re.escape(row)}\.([a-z]\w*)")
            keys = {match[1] for each in spec if (match := below.fullmatch(each))}
            assert keys <= value.keys(), (path, keys - value.keys())
    at_the_root = {row for row in spec if re.fullmatch(r"\w+", row)}
    assert at_the_root <= document.keys()
    return used


def read(answered: tuple[int, str, str], *, code: int = 0) -> dict[str, Any]:
    """The document of a verb that ends with this exit code."""
    assert answered[0] == code, answered
    document = json.loads(answered[1])
    assert answered[1].isascii()
    return document


def make_run(folder: Path, *, block: str = "residual", seed: int = 0, decay: float = 0.0) -> Path:
    """A finished run: the one of format 1, as if it were of another block, decay and seed."""
    shutil.copytree(FORMAT_1, folder)
    config = stored.load(folder / folders.CONFIG)
    config = replace(config, seed=seed, block=replace(config.block, name=block))
    config = replace(config, optimizer=replace(config.optimizer, weight_decay=decay))
    (folder / folders.CONFIG).write_text(stored.dump(config))
    result = json.loads((folder / folders.RESULT).read_text())
    result["identity"] = stored.identity(config)
    result["test"]["accuracy"] -= 0.01 * seed * (1 + (block == "conv"))
    (folder / folders.RESULT).write_text(json.dumps(result))
    return folder


def test_the_page_has_a_table_for_every_verb_that_answers() -> None:
    """JSON Schema states what `skiplab schema` prints."""
    answering = {name for name, verb in VERBS.items() if verb.answers}
    # `predict` writes its document image by image, so it has an option of its own.
    assert set(SPECS) == answering - {"schema"} | {"predict"}


def test_the_reader_of_the_page_sees_what_it_must() -> None:
    """The tests below are worth something only if this holds."""
    spec = {"a": "integer", "b": "array", "b[].KEY": "any", "c": "object or null", "c.d": "number"}
    good: dict[str, object] = {"a": 1, "b": [{"x.y": "text"}], "c": {"d": 1.5}}
    assert assert_documented(good, spec | {"b[]": "object"}) == {*spec, "b[]"}
    for wrong in ({"a": True}, {"a": None}, {"c": {}}, {"c": {"d": None}}, {"e": 1}, {"c": "x"}):
        with pytest.raises(AssertionError):
            assert_documented(good | wrong, spec | {"b[]": "object"})
    with pytest.raises(AssertionError):
        assert_documented({"b": [], "c": None}, spec)


def test_a_document_holds_plain_json_alone() -> None:
    odd = {"a": float("nan"), "b": (float("inf"), 1.5), "c": Path("x"), "d": "\udcff", 3: True}
    assert answer.plain(odd) == {"a": None, "b": [None, 1.5], "c": "x", "d": "\\udcff", "3": True}


def test_without_json_a_verb_prints_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    def verb(_options: argparse.Namespace) -> answer.Answer:
        print("on the way")
        return answer.Answer({"a": 1}, "the end", 7)

    assert answer.give(verb, argparse.Namespace(json=False)) == 7
    assert capsys.readouterr() == ("on the way\nthe end\n", "")
    assert answer.give(verb, argparse.Namespace(json=True)) == 7
    assert capsys.readouterr() == ('{\n "a": 1\n}\n', "on the way\n")
    assert answer.give(lambda _: None, argparse.Namespace()) == 0
    assert answer.give(lambda _: 3, argparse.Namespace(json=False)) == 3


def test_predict_and_export(call: Cli, tmp_path: Path) -> None:
    run = shutil.copytree(ROOT / "tests/fixtures/format2", tmp_path / "run")
    np.save("some.npy", np.zeros((3, 8, 8), np.uint8))
    document = read(
        call("predict", str(run), "some.npy", "--json", "--top", "2", command="skiplab")
    )
    assert assert_documented(document, SPECS["predict"]) == set(SPECS["predict"])
    to_tensors = ("export", str(run), "--to", "safetensors", "--json")
    document = read(call(*to_tensors, command="skiplab"))
    used = assert_documented(document, SPECS["export"])
    # This network needs no note, and torchvision has none like it.
    assert set(SPECS["export"]) - used <= {"notes[]"}
    assert json.loads(Path(f"{document['path']}.json").read_text()).items() <= document.items()


def test_list(call: Cli) -> None:
    run = make_run(Path("outputs/a b"))
    stopped = make_run(Path("outputs/studies/s/stopped"), seed=1)
    (stopped / folders.RESULT).unlink()
    broken = make_run(Path("outputs/broken"), seed=2)
    text = (broken / folders.CONFIG).read_text()
    (broken / folders.CONFIG).write_text(text.replace("depth: 1", "depth: one"))
    edited = make_run(Path("outputs/edited"), seed=3)
    text = (edited / folders.CONFIG).read_text()
    (edited / folders.CONFIG).write_text(text.replace("lr: 0.05", "lr: 0.06"))
    changed = make_run(Path("outputs/changed"), seed=4)
    change = "changed:\n- step: 6\n  key: optimizer.lr\n  from: 0.05\n  to: 0.01\n"
    with (changed / folders.CONFIG).open("a") as file:
        file.write(change)
    record.write(Path("outputs/studies/s"), command="train -m x", cells=[stopped, Path("none")])
    Path("outputs/studies/t").mkdir()
    Path("outputs/studies/t", record.RECORD).write_text("{")

    document = read(call("list", "--json", command="skiplab"))
    assert assert_documented(document, SPECS["list"]) == set(SPECS["list"])
    runs = {each["folder"]: each for each in document["runs"]}
    assert runs[str(run)] | {"step": 12} == runs[str(run)] | {
        "state": "finished",
        "dataset": "digits",
        "lr": 0.05,
        "epochs": 2,
        "step": 12,
        "num_steps": 12,
        "command": None,
    }
    result = json.loads((run / folders.RESULT).read_text())
    assert runs[str(run)]["test_accuracy"] == result["test"]["accuracy"]
    assert runs[str(stopped)]["command"] == f"train resume={stopped}"
    assert runs[str(broken)]["problem"].startswith("its config.yaml does not pass the check")
    assert runs[str(broken)]["depth"] is None
    assert runs[str(edited)]["is_edited"]
    assert runs[str(changed)]["changed"][0]["to"] == 0.01
    study, damaged = document["studies"]
    assert (study["command"], study["states"]["stopped"]) == ("train -m x", 1)
    assert study["states"]["not_begun"] == 1
    assert damaged["problem"].startswith("outputs/studies/t/study.json")
    code, out, err = call("list", "nowhere", "--json", command="skiplab")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert read(call("--json", "list", command="skiplab")) == document


def test_evaluate(call: Cli) -> None:
    run = make_run(Path("run"))
    before = call("evaluate", "run", "--split", "val", command="skiplab")[1]
    document = read(call("evaluate", "run", "--split", "val", "--json", command="skiplab"))
    assert assert_documented(document, SPECS["evaluate"]) == set(SPECS["evaluate"])
    assert f"loss {document['loss']:.4f}, " in before
    assert report.table(document) in before
    answered = call("evaluate", str(run), "--json", command="skiplab")
    assert read(answered)["accuracy"] > 0
    for path in run.glob("best*"):
        path.unlink()
    code, out, err = call("evaluate", "run", "--json", command="skiplab")
    assert (code, out, err.count("\n")) == (3, "", 1)


def test_compare(call: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skiplab.study.compare.tables.draw", lambda *_, **__: ([], ["no font"]))
    for block, seed, decay in itertools.product(("residual", "conv"), (0, 1), (0.0, 0.1)):
        make_run(Path(f"study/{block}{seed}{decay}"), block=block, seed=seed, decay=decay)
    answered = call("compare", "study", "--by", "block", "--json", command="skiplab")
    document = read(answered)
    assert assert_documented(document, SPECS["compare"]) == set(SPECS["compare"])
    written = json.loads(Path("study/compare.json").read_text())
    told = {key: value for key, value in document.items() if key not in ("written", "warnings")}
    assert told | {"made": written["made"]} == written
    assert all(Path(path).is_file() for path in document["written"])
    assert document["warnings"] == ["no font"]
    assert answered[2].startswith("group")
    code, out, err = call("compare", "study", "--by", "seed", "--json", command="skiplab")
    assert (code, out, err.count("\n")) == (2, "", 1)
    code, out, err = call("compare", "study", "--latex", "--json", command="skiplab")
    assert (code, out) == (2, "")
    assert err == "error: --json, --latex: one of them at a time\n"


def test_draw(call: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(folder: Path, *, trust_code: bool) -> list[Path]:
        assert not trust_code
        if folder.name == "b":
            raise NotDrawn("curves.png not drawn (no font)")
        return [folder / "curves.png"]

    monkeypatch.setattr("skiplab.pictures.draw_run", draw)
    for name in "ab":
        make_run(Path(name))
    answered = call("draw", "a", "b", "--json", command="skiplab")
    document = read(answered, code=1)
    assert assert_documented(document, SPECS["draw"]) == set(SPECS["draw"])
    drawn, failed = document["runs"]
    assert drawn["pictures"][0] == "a/curves.png"
    assert (failed["pictures"], failed["problem"]) == ([], "curves.png not drawn (no font)")
    assert "error: b: curves.png not drawn (no font)\n" in answered[2]


def test_search(call: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: search.Search, _base: object) -> int:
        for number, value in enumerate((0.5, 0.75, 0.625)):
            trial = self.study.ask(self.space)
            trial.set_user_attr("folder", str(self.folder / f"trial-{number}"))
            self.study.tell(trial, value)
        trial = self.study.ask(self.space)
        trial.set_user_attr("reason", "width=7: must be even")
        self.study.tell(trial, state=TrialState.FAIL)
        return 0

    monkeypatch.setattr(search.Search, "run", run)
    monkeypatch.setattr(
        "skiplab.study.search_report.importances_of", lambda _: {"optimizer.lr": 1.0}
    )
    monkeypatch.setattr("skiplab.study.search_report.draw", lambda *_: "s/search.png")
    words = ("epochs=1", "optimizer.lr=interval(0.1,1)", "study=s", "--trials", "4")
    answered = call("search", *words, "--json", command="skiplab")
    document = read(answered)
    assert assert_documented(document, SPECS["search"]) == set(SPECS["search"])
    assert document["states"] == {"complete": 3, "pruned": 0, "failed": 1, "broken_off": 0}
    best = document["best"]
    assert (best["number"], best["val_accuracy"]) == (1, 0.75)
    assert best["command"].startswith("train epochs=1 optimizer.lr=0.")
    assert document["picture"] == "s/search.png"
    assert "search: 3 complete, 1 failed\n" in answered[2]
    code, out, err = call("search", "depth=3", "--json", command="skiplab")
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_verify(call: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = verify.Killed([3, -1], 1, 2.5)
    expected = {"report.txt": "0", "last.safetensors: x": "1", "last.safetensors: facts": "2"}
    for different in ([], ["last.safetensors: x"]):
        verdict = verify.Verdict(killed, 1, 1.5, expected, different)
        monkeypatch.setattr(verify, "verify", lambda *_, verdict=verdict, **__: verdict)
        answered = call("verify", *SMALL, "--kills", "2", "--json", command="skiplab")
        document = read(answered, code=int(bool(different)))
        used = assert_documented(document, SPECS["verify"])
        assert used | {"different[]"} == set(SPECS["verify"])
        assert document["is_equal"] is not bool(different)
        assert document["different"] == different
        assert document["kills_at_step"] == [3, None]
        file = next(each for each in document["files"] if each["name"] == "last.safetensors")
        assert (file["parts"], file["is_equal"]) == (2, not different)
        assert answered[2].startswith("60 steps straight")


@pytest.mark.slow
def test_verify_and_search_keep_what_their_runs_print_off_the_output(call: Cli) -> None:
    small = (*SMALL, "epochs=1")
    words = (*small, "--kills", "1", "--steps", "6", "--json")
    assert read(call("verify", *words, command="skiplab"))["is_equal"]
    words = (*small, "optimizer.lr=interval(0.1,1)", "study=s", "--trials", "2", "--json")
    document = read(call("search", *words, command="skiplab"))
    assert_documented(document, SPECS["search"])
    assert document["states"]["complete"] == 2


def test_info(call: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPLAB_OUTPUTS", "")
    document = read(call("info", "--json", command="skiplab"))
    used = assert_documented(document, SPECS["info"])
    assert {row for row in SPECS["info"] if row not in used} <= {
        "gpus[]",
        "gpus[].device",
        "gpus[].name",
        "gpus[].memory",
    }
    assert document["python"] == ".".join(map(str, sys.version_info[:3]))
    assert (document["outputs"], document["data_root_problem"]) == (None, None)
    assert document["outputs_problem"].startswith("$SKIPLAB_OUTPUTS is empty")


@pytest.mark.parametrize("name", [name for name, verb in VERBS.items() if verb.answers])
def test_an_error_leaves_the_output_empty(
    name: str, call: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_options: argparse.Namespace) -> None:
        print("on the way")
        raise UsageError("no")

    monkeypatch.setattr(f"skiplab.cli.{name}.command", refuse)
    needed = {
        **dict.fromkeys(("evaluate", "compare", "draw"), ("x",)),
        "search": ("depth=1,2",),
        "export": ("x", "--to", "onnx"),
    }
    answered = call(name, *needed.get(name, ()), "--json", command="skiplab")
    assert answered == (2, "", "on the way\nerror: no\n")
