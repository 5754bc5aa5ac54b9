"""What a comparison says: words that agree with the table, single keys, more seeds, plain files."""

import csv
import itertools
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from finished import Make, answers, found, maker
from helpers import Cli
from skiplab import api
from skiplab.errors import UsageError
from skiplab.runs import folders
from skiplab.study import record
from skiplab.study.compare import documents, more_seeds, texts


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a finished run folder."""
    return maker(tmp_path)


def pair_of(make: Make, first: Sequence[float], second: Sequence[float]) -> list[str]:
    """Compare conv and skip with these shares of right answers, a seed each."""
    for seed, (one, other) in enumerate(zip(first, second, strict=True)):
        make("block=conv", right=answers(one, seed=seed), seed=seed)
        make("block=skip", right=answers(other, seed=seed), seed=seed)
    return found().lines()


def grid(make: Make, *, seeds: Sequence[int] = (0, 1, 2)) -> None:
    """Make conv and skip at two depths and widths: skip is better, the more so where it is deep."""
    for block, depth, width, seed in itertools.product(("conv", "skip"), (2, 6), (8, 16), seeds):
        share = 0.5 + 0.02 * (width == 16) + 0.01 * (seed * depth % 5)
        share += (block == "skip") * (0.1 + 0.2 * (depth == 6) + 0.01 * seed)
        make(
            f"block={block}",
            f"depth={depth}",
            f"width={width}",
            right=answers(share, seed=seed, flips=4),
            seed=seed,
            folder=f"{block}-{depth}-{width}-{seed}",
        )


# ---------------------------------------------------------------------------------------------
# words and what the eye sees


def test_far_apart_is_ahead_and_told_which_seeds_would_decide(make: Make) -> None:
    study = Path("study")
    study.mkdir()
    command = "train -m block=conv,skip 'seed=range(0,3)' epochs=3 --config-dir c"
    record.write(study, command=command)
    lines = pair_of(make, (0.5, 0.71, 0.80), (0.985, 0.99, 0.99))
    told = re.fullmatch(
        r"block=skip is ahead of block=conv by 31\.83 points, but three seeds cannot exclude "
        r"chance \(p = 0\.068\): three seeds prove it only if their differences deviate by less "
        r"than (\S+), and they do by (\S+); seeds 3 (?:and|to) (\d) would probably decide it "
        r"\(8\d %\)",
        lines[0],
    )
    assert told is not None, lines[0]
    deviation = np.std([0.985 - 0.5, 0.28, 0.19], ddof=1)
    assert float(told[2]) == pytest.approx(100 * deviation, abs=0.2)
    # Student's t of 2 degrees of freedom at 97.5 %
    assert float(told[1]) == pytest.approx(31.83 * np.sqrt(3) / 4.3027, abs=0.01)
    seeds = ",".join(map(str, range(int(told[3]) + 1)))
    assert lines[1:] == [
        f"more seeds: train -m block=conv,skip seed={seeds} epochs=3 --config-dir c"
    ]


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        # One of three seeds fails to train: its mean is far below, whatever the interval.
        ((0.98, 0.97, 0.14), (0.99, 0.98, 0.98), "block=skip is ahead of block=conv by "),
        ((0.98, 0.975, 0.985), (0.985, 0.985, 0.97), "too close to call: "),
        ((0.9, 0.9), (0.9, 0.9), "too close to call: block=conv 90.00, block=skip 90.00 (differ"),
        (
            (0.5, 0.7),
            (0.9, 0.91),
            "block=skip is ahead of block=conv by 30.50 points, but two seed",
        ),
        ((0.9,), (0.9,), "block=conv level with block=skip on these images; one seed each, so no"),
    ],
)
def test_words_agree_with_the_table(
    make: Make, first: Sequence[float], second: Sequence[float], told: str
) -> None:
    lines = pair_of(make, first, second)
    assert lines[0].startswith(told)
    assert not any("distinguishable" in line or "not shown" in line for line in lines)


def test_a_loss_is_ahead_where_it_is_lower(make: Make) -> None:
    for block, loss in (("conv", 0.3), ("skip", 0.2)):
        test = {"accuracy": 0.9, "loss": loss, "f1_macro": 0.5, "expected_calibration_error": 0.1}
        make(f"block={block}", test=test)
    assert found(metric="test.loss").lines()[0] == (
        "block=skip ahead of block=conv by 0.1 on these images; one seed each, so no claim"
    )


def test_images_that_cannot_exclude_chance_are_named_and_more_seeds_are_not_asked_for(
    make: Make,
) -> None:
    for seed in (0, 1, 2):
        make("block=conv", right=np.arange(400) >= 46 + seed, seed=seed)
        make("block=skip", right=np.arange(400) >= 40 + seed, seed=seed)
    for seed in (0, 1, 2):
        right = np.roll(np.arange(400), 200) >= 41 + (seed == 1)
        make("block=residual", right=right, seed=seed)
    lines = found().lines()
    assert any("but these test images cannot exclude chance (p = " in line for line in lines)
    assert not any(line.startswith("more seeds") for line in lines)


def test_the_command_for_more_seeds_finds_the_same_study(tmp_path: Path) -> None:
    """A study without study= is named by its keys, and by a seed that is fixed."""
    study = tmp_path / "outputs/studies/block-1a2b"
    study.mkdir(parents=True)
    for command, expected in {
        "train -m block=a,b seed=3": "train -m block=a,b seed=3,4 study=block-1a2b",
        "train -m block=a,b study=x": "train -m block=a,b study=x seed=3,4",
        "train -m sweep=blocks --config-dir 'a b'": "train -m sweep=blocks seed=3,4 "
        "study=block-1a2b --config-dir 'a b'",
        "skiplab search lr=1 --trials 3": None,
        "train -m 'block": None,
    }.items():
        record.write(study, command=command)
        assert more_seeds.with_seeds(study, "seed=3,4") == expected
        if expected:
            assert shlex.split(expected)[0] == "train"
    assert more_seeds.with_seeds(tmp_path, "seed=3,4") is None


# ---------------------------------------------------------------------------------------------
# single keys


def test_by_pools_pairs_with_all_else_equal(make: Make) -> None:
    grid(make)
    made = found(by=["block"])
    assert [group.label for group in made.groups] == ["block=conv", "block=skip"]
    assert [(group.n, len(group.replicates)) for group in made.groups] == [(12, 3), (12, 3)]
    (each,) = made.differences
    gaps = [
        np.mean(
            [
                result.metric("test.accuracy")
                for result in made.groups[1].results
                if result.seed == seed
            ]
        )
        - np.mean(
            [
                result.metric("test.accuracy")
                for result in made.groups[0].results
                if result.seed == seed
            ]
        )
        for seed in (0, 1, 2)
    ]
    assert each.mean == pytest.approx(-np.mean(gaps))
    assert vars(each.matched)["pairs"] == 12
    lines = made.lines()
    assert re.fullmatch(
        r"block=skip beats block=conv in 12 of 12 matched pairs, mean 2\d\.\d\d points, "
        r"95 % interval \S+ to \S+, n = 3 seeds, p = \S+",
        lines[0],
    )
    assert (
        "matched pairs: 4 settings of depth, width, each with 3 seeds; the seeds are the "
        "replicates" in lines
    )
    assert any(
        line.startswith("block x depth: what block does depends on depth (") for line in lines
    )
    # The same rows, whether or not a key is asked for.
    rows = made.effects and made.effects.rows
    assert rows == found().effects.rows  # pyright: ignore[reportOptionalMemberAccess]


def test_what_has_no_partner_is_left_out_and_told(make: Make) -> None:
    grid(make)
    make("block=skip", "depth=18", "width=8", seed=9, folder="alone")
    make("block=skip", "depth=2", "width=8", seed=3, folder="seed")
    made = found(by=["block"])
    assert [group.n for group in made.groups] == [12, 12]
    assert any(
        line.startswith(
            "not pooled, since a partner with all else equal is missing: 2 runs of 26, "
        )
        for line in made.lines()
    )
    assert made.effects is not None
    assert made.effects.note == (
        "a grid of 2 block x 2 depth x 2 width, each cell with 3 seeds; 2 runs of 26 left out, "
        "since others are missing: depth=18, seed=3,9"
    )
    # Seed 3 now misses one setting of five: the setting goes, since it misses a larger share.
    for block, depth, width in itertools.product(("conv", "skip"), (2, 6), (8, 16)):
        if (block, depth, width) != ("skip", 2, 8):
            make(f"block={block}", f"depth={depth}", f"width={width}", seed=3)
    for seed in (0, 1, 2):
        make("block=conv", "depth=18", "width=8", seed=seed, folder=f"conv-{seed}")
        make("block=skip", "depth=18", "width=8", seed=seed, folder=f"skip-{seed}")
    assert [len(group.replicates) for group in found(by=["block"]).groups] == [4, 4]
    # A run with another value of a third key has no partner.
    make("optimizer=adam", "depth=2", "width=8", "block=conv", folder="adam")
    assert len(found(by=["block"]).groups) == 2


def test_a_grid_of_one_seed_has_sizes_and_makes_no_claim(make: Make) -> None:
    grid(make, seeds=[0])
    made = found(by=["block"])
    assert made.lines()[0].startswith(
        "block=skip ahead of block=conv in 4 of 4 matched pairs, mean "
    )
    assert made.lines()[0].endswith(" points on these images; one seed each, so no claim")
    assert made.effects is not None
    assert [row.p for row in made.effects.rows] == [None] * 7


def test_runs_that_are_no_grid_have_no_effects(make: Make) -> None:
    make("block=conv", "depth=2")
    make("block=skip", "depth=3")
    made = found()
    assert made.effects is not None
    assert made.effects.rows == []
    assert made.effects.note.startswith("no effects of single keys: the runs hold no complete grid")


# ---------------------------------------------------------------------------------------------
# files


@pytest.fixture
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw none, which takes a second."""
    monkeypatch.setattr("skiplab.study.compare.tables.draw", lambda *_, **__: ([], []))


@pytest.mark.usefixtures("_no_pictures")
def test_a_row_for_each_run_in_plain_numbers(make: Make, call: Cli) -> None:
    grid(make, seeds=[0, 1])
    (Path("study/conv-2-8-0") / folders.RESULT).unlink()
    code, out, err = call("compare", "study", "--csv", "runs", command="skiplab")
    assert code == 0
    assert out == Path("study/runs.csv").read_text()
    rows = list(csv.DictReader(out.splitlines()))
    assert len(rows) == 16
    assert rows[0] | {"folder": "study/conv-2-8-0", "status": "stopped"} == rows[0]
    assert (rows[0]["compared"], rows[0]["test.accuracy"]) == ("False", "")
    assert rows[1]["compared"] == "True"
    for row in rows[1:]:
        stored = json.loads((Path(row["folder"]) / folders.RESULT).read_text())
        assert float(row["test.accuracy"]) == stored["test"]["accuracy"]
        assert float(row["val.loss"]) == 0.4
        assert float(row["train.loss"]) == pytest.approx(1 / 3)
        assert (row["block.name"], row["depth"], row["width"], row["seed"]) == tuple(
            Path(row["folder"]).name.split("-")
        )
        for name, value in row.items():
            if name not in ("folder", "status", "compared", "block.name"):
                float(value)
    assert "left out, since not finished: study/conv-2-8-0" in err


@pytest.mark.usefixtures("_no_pictures")
def test_what_a_pipe_gets_is_the_table_alone(make: Make, call: Cli) -> None:
    grid(make, seeds=[0, 1])
    code, out, err = call("compare", "study", "--by", "block", "--csv", "-", command="skiplab")
    assert (code, out) == (0, Path("study/compare.csv").read_text())
    rows = list(csv.DictReader(out.splitlines()))
    assert [(row["block.name"], row["n"], row["seeds"]) for row in rows] == [
        ("conv", "8", "2"),
        ("skip", "8", "2"),
    ]
    assert "written: " in err
    code, out, _ = call("compare", "study", "--latex", command="skiplab")
    assert (code, out) == (0, Path("study/compare.tex").read_text())
    assert out.count(r"\toprule") == out.count(r"\bottomrule") == 2
    assert r"block x depth & " in out
    assert call("compare", "study", "--latex", "--csv", "-", command="skiplab")[0] == 2
    assert "--csv x: " in call("compare", "study", "--csv", "x", command="skiplab")[2]
    made = api.compare("study", by="block")
    assert made.latex() != out
    assert len(made.runs) == 16
    assert [row["keys"] for row in made.effects][:2] == [["block.name"], ["depth"]]
    assert "block x depth" in made._repr_html_()
    with pytest.raises(UsageError, match="runs of one group differ"):
        api.compare("study/conv-2-8-0", "study/skip-6-8-1", by="width")


def test_latex_escapes_all_that_it_would_take_for_commands() -> None:
    assert documents.escaped("a_b & 5 % of {x} <~^|\\> #1 $2") == (
        r"a\_b \& 5 \% of \{x\} \textless{}\textasciitilde{}\textasciicircum{}\textbar{}"
        r"\textbackslash{}\textgreater{} \#1 \$2"
    )


def test_many_groups_of_one_seed_are_one_sentence(make: Make) -> None:
    for depth in range(1, 13):
        make(f"depth={depth}", right=answers(0.5 + 0.02 * depth, seed=0))
    first = found().lines()[0]
    assert first.startswith("depth=12 ahead of depth=11 by 2.00 points, of depth=10 by 4.00 points")
    assert first.endswith("by 16.00 points, and 3 more on these images; one seed each, so no claim")


def test_a_narrow_terminal_gets_whole_words_and_a_whole_command(make: Make) -> None:
    grid(make)
    made = found(by=["block"])
    for columns in (80, 120):
        lines = texts.text(made, columns=columns).split("\n")
        assert max(len(line) for line in lines if not line.startswith("more seeds")) <= columns
        assert not any(line.rstrip().endswith(" 95") or line.endswith(" =") for line in lines)
    assert any(
        line.startswith("not shown for want of width: seconds")
        for line in texts.text(made, columns=80).split("\n")
    )
    assert "seconds" in texts.text(made).split("\n")[0]
