"""Comparisons of run folders made by hand: groups, statistics by formula, refusals, files, page."""

import csv
import itertools
import json
import math
import re
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finished import IMAGES, Make, answers, found, maker
from helpers import Cli
from skiplab.errors import UsageError
from skiplab.runs import folders, layers, plots
from skiplab.study import record, sweep
from skiplab.study.compare import (
    colours,
    comparison,
    drawing,
    layer_plots,
    page,
    pictures,
    results,
    search_picture,
    statistics as verdict,
    tables,
)
from skiplab.study.compare.groups import main_axis


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a finished run folder."""
    return maker(tmp_path)


def study(make: Make, shares: dict[str, float], *, seeds: Sequence[int] = (0, 1, 2)) -> None:
    """A group for each block, whose accuracy differs a little from seed to seed."""
    for block, share in shares.items():
        for seed in seeds:
            make(
                f"block={block}", right=answers(share + 0.005 * seed, seed=seed, flips=4), seed=seed
            )


def looks(made: comparison.Comparison) -> drawing.Styles:
    return drawing.Styles(made.groups, made.keys, main_axis(made.groups, made.keys))


# ---------------------------------------------------------------------------------------------
# groups


def test_groups_differ_in_the_fewest_keys_and_average_over_seeds(make: Make) -> None:
    # Their projections also differ in their bias.
    study(make, {"conv": 0.5, "residual_down": 0.7})
    made = found()
    assert made.keys == ["block.name"]
    assert [group.label for group in made.groups] == ["block=conv", "block=residual_down"]
    group = made.groups[0]
    values = [result.metric("test.accuracy") for result in group.results]
    assert [result.seed for result in group.results] == [0, 1, 2]
    assert group.mean == pytest.approx(statistics.fmean(values))
    assert group.deviation == pytest.approx(statistics.stdev(values))
    assert group.interval is not None
    # Student's t of 2 degrees of freedom, 97.5 %
    half = 4.302652729911275 * statistics.stdev(values) / math.sqrt(3)
    assert group.interval == pytest.approx((group.mean - half, group.mean + half))


def test_a_value_that_follows_from_the_others_is_no_key_of_a_group(make: Make) -> None:
    for depth, width in ((2, 32), (4, 16), (8, 8)):
        # A budget has chosen the width.
        make(f"depth={depth}", f"width={width}", "match=params", "target=30k")
    assert found().keys == ["depth"]
    assert found(by=["width"]).keys == ["width"]


def test_one_seed_has_no_interval_and_says_so(make: Make) -> None:
    study(make, {"conv": 0.5, "skip": 0.9}, seeds=[0])
    made = found()
    assert all(group.deviation is None and group.interval is None for group in made.groups)
    assert made.lines() == [
        "block=skip ahead of block=conv by 38.50 points on these images; "
        "one seed each, so no claim",
        "more seeds: the commands of these runs with seed=0,1,2",
    ]
    (each,) = made.differences
    assert (each.p, each.corrected, each.is_real) == (None, None, False)
    assert each.mcnemar is not None


def test_equal_runs_are_counted_once(make: Make) -> None:
    make("block=conv", folder="a")
    make("block=conv", folder="b")
    make("block=skip", folder="c")
    made = found()
    assert [group.n for group in made.groups] == [1, 1]
    assert "1 of 3 runs repeat another with the same seed; each is counted once" in made.notes


def test_one_identity_on_other_data_is_no_repeat(make: Make) -> None:
    make("block=conv", folder="a")
    make("block=conv", folder="b", data_sha256="1" * 64)
    with pytest.raises(
        UsageError, match=r"the files of digits differ between study/a and study/b \(data_sha256\)"
    ):
        found()
    make("block=conv", "evaluator.split=val", folder="c", data_sha256="1" * 64, test=None)
    # The paths b and c lead to one folder.
    assert len(results.read([Path("study")]).results) == 2


def test_files_must_not_differ_within_a_data_set_either(make: Make) -> None:
    make("dataset=digits", folder="a")
    make("dataset=mnist", "epochs=20", "batch_size=64", folder="b", data_sha256="1" * 64)
    assert len(found(by=["dataset"]).groups) == 2
    make("dataset=digits", folder="c", seed=1, data_sha256="2" * 64)
    with pytest.raises(UsageError, match="the files of digits differ between study/a and study/c"):
        found(by=["dataset"])


# ---------------------------------------------------------------------------------------------
# statistics


def test_mcnemar_is_the_exact_binomial_test() -> None:
    a, b = np.zeros(50, bool), np.zeros(50, bool)
    # Only a predicted nine of them rightly, only b two.
    a[:9], b[9:11] = True, True
    expected = 2 * sum(math.comb(11, k) for k in range(3)) / 2**11
    assert verdict.mcnemar_test([(a, b)]) == pytest.approx(expected)
    assert verdict.mcnemar_test([(a, b), (a, a), (a, b)]) == pytest.approx(min(1, 2 * expected))
    assert verdict.mcnemar_test([(a, a)]) == 1.0


def test_the_bootstrap_over_images_is_near_the_normal_interval() -> None:
    chance = np.random.default_rng(0)
    a, b = chance.random(4000) < 0.8, chance.random(4000) < 0.7
    low, high = verdict.Answers([a], [b], [(a, b)]).interval()
    difference = a.astype(float) - b.astype(float)
    half = 1.96 * difference.std() / math.sqrt(4000)
    assert (low, high) == pytest.approx(
        (difference.mean() - half, difference.mean() + half), abs=0.15 * half
    )
    assert verdict.Answers([a], [a], [(a, a)]).interval() == (0.0, 0.0)


def test_the_paired_test_over_seeds_is_students() -> None:
    a, b = [0.71, 0.74, 0.78], [0.70, 0.72, 0.75]
    differences = [x - y for x, y in zip(a, b, strict=True)]
    half = 4.302652729911275 * statistics.stdev(differences) / math.sqrt(3)
    interval, p = verdict.seed_test(a, b, is_paired=True)
    assert interval == pytest.approx((0.02 - half, 0.02 + half))
    assert p is not None
    # Here t is 3.46 at 2 degrees of freedom.
    assert 0.05 < p < 0.1
    assert verdict.seed_test(a[:1], b[:1], is_paired=False) == (None, None)
    # One seed against several takes their spread for both.
    interval, p = verdict.seed_test(a, [0.70], is_paired=False)
    half = 4.302652729911275 * statistics.stdev(a) * math.sqrt(1 / 3 + 1)
    assert interval == pytest.approx(
        (statistics.mean(a) - 0.7 - half, statistics.mean(a) - 0.7 + half)
    )
    # Without any spread there is no p.
    assert verdict.seed_test([0.5, 0.6], [0.4, 0.5], is_paired=True) == (
        pytest.approx((0.1, 0.1)),
        None,
    )


def test_a_difference_stands_against_seeds_and_images_after_correction(make: Make) -> None:
    study(make, {"conv": 0.5, "skip": 0.51, "residual": 0.9})
    made = found()
    real = {(each.a.label, each.b.label): each.is_real for each in made.differences}
    assert real == {
        ("block=conv", "block=residual"): True,
        ("block=conv", "block=skip"): False,
        ("block=residual", "block=skip"): True,
    }
    ps = sorted(each.p for each in made.differences if each.p is not None)
    # Benjamini and Hochberg
    adjusted = [
        min(p * len(ps) / rank for rank, p in list(enumerate(ps, 1))[i:]) for i, _ in enumerate(ps)
    ]
    assert sorted(
        each.corrected for each in made.differences if each.corrected is not None
    ) == pytest.approx(adjusted)
    lines = made.lines()
    assert any(
        re.match(
            r"block=residual beats block=conv by 3\d\.\d\d points, 95 % interval .* n = 3, p = ",
            line,
        )
        for line in lines
    )
    assert any(
        re.fullmatch(
            r"too close to call: block=skip 51\.\d\d, block=conv 50\.\d\d "
            r"\(difference 0\.67, 95 % interval -\S+ to \S+\)",
            line,
        )
        for line in lines
    )
    assert any(
        line.startswith("beware: picking the best of 3 by its test accuracy")
        and line.endswith("validation picks it too")
        for line in lines
    )


def test_validation_may_pick_another_winner(make: Make) -> None:
    for block, accuracy in (("conv", 0.99), ("skip", 0.1), ("residual", 0.1)):
        make(
            f"block={block}",
            right=answers(0.9 if block == "skip" else 0.5, seed=0),
            best_val_accuracy=accuracy,
        )
    assert any(line.endswith("validation picks block=conv") for line in found().lines())


def test_seeds_that_do_not_match_are_compared_unpaired(make: Make) -> None:
    for seed in (0, 1, 2):
        make("block=conv", right=answers(0.5 + 0.01 * seed, seed=seed), seed=seed)
        make("block=skip", right=answers(0.8 + 0.01 * seed, seed=seed), seed=seed + 10)
    (each,) = found().differences
    assert (each.is_paired, each.seeds) == (False, 3)
    assert each.over_images is not None
    assert each.over_images[0] < each.mean < each.over_images[1]
    assert each.mcnemar is not None
    assert each.is_real
    assert any("n = 3 unpaired" in line for line in found().lines())


def test_partly_matching_seeds_never_turn_a_verdict_round(make: Make) -> None:
    """The one common seed says the contrary of the means."""
    for seed, share in enumerate((0.8, 0.95, 0.96, 0.94, 0.95)):
        make("block=conv", right=answers(share, seed=seed), seed=seed)
    make("block=skip", right=answers(0.9, seed=0))
    (each,) = found().differences
    assert (each.is_paired, each.is_real) == (False, False)
    assert each.mean == pytest.approx(0.02, abs=1e-9)
    assert found().lines() == [
        "block=conv is ahead of block=skip by 2.00 points, but five seeds against one cannot "
        "exclude chance (p = 0.8); the same seeds in both would show more",
        "one seed only in block=skip: the other groups' spread is taken for its own",
        "more seeds: the commands of these runs with seed=0,1,2,3,4",
    ]


@pytest.mark.parametrize(
    "seeds", [(0, 1, 2), (0, 1, 2, 3), (7, 8, 9)], ids=["the same", "one more", "others"]
)
def test_a_difference_of_two_images_is_none_whatever_the_seeds(
    make: Make, seeds: tuple[int, ...]
) -> None:
    """It stands against the seeds, which hardly differ, and not against the images."""
    for seed in (0, 1, 2):
        make("block=conv", right=np.arange(IMAGES) >= 40 + seed, seed=seed)
    for seed in seeds:
        make("block=skip", right=np.arange(IMAGES) >= 37 + seed % 2, seed=seed)
    (each,) = found().differences
    assert each.mcnemar is not None
    assert each.mcnemar > 0.05
    assert not each.is_real


def test_every_pair_of_a_few_groups_is_told(make: Make) -> None:
    study(make, {"conv": 0.5, "residual": 0.7, "skip": 0.9})
    lines = found().lines()
    assert [line.partition(" by ")[0] for line in lines[:3]] == [
        "block=skip beats block=residual",
        "block=skip beats block=conv",
        "block=residual beats block=conv",
    ]


def test_beside_the_best_only_pairs_with_all_else_equal_are_told(make: Make) -> None:
    for (block, depth), share in {
        ("conv", 2): 0.6,
        ("conv", 6): 0.4,
        ("skip", 2): 0.95,
        ("skip", 6): 0.8,
    }.items():
        for seed in (0, 1, 2):
            make(
                f"block={block}",
                f"depth={depth}",
                right=answers(share + 0.005 * seed, seed=seed, flips=4),
                seed=seed,
            )
    told = [line.partition(" by ")[0] for line in found().lines() if "beats" in line]
    assert told == [
        # Of a grid, matched pairs stand for single ones.
        "block=skip beats block=conv in 6 of 6 matched pairs, mean 36.67 points, 95 % interval "
        "33.00 to 40.46, n = 3 seeds, p = 6.7e-05",
        *(
            f"block=skip depth=2 beats block={other}"
            for other in ("skip depth=6", "conv depth=2", "conv depth=6")
        ),
    ]


def test_runs_that_differ_in_more_than_the_seed_are_no_group(make: Make, call: Cli) -> None:
    """Whatever their seeds, and also where a budget has chosen the width."""
    make("block=conv", "depth=2")
    make("block=conv", "depth=3", seed=1)
    code, _, err = call("compare", "study", "--by", "block", command="skiplab")
    assert (code, err) == (
        2,
        "error: --by block: runs of one group differ in depth; add it: --by block,depth\n",
    )
    for seed, target, width in ((0, 2_000, 8), (1, 2_000, 8), (2, 8_000, 16), (3, 8_000, 16)):
        for block, more in (("conv", 0), ("skip", 2)):
            budget = ("match=params", f"target={target}")
            make(
                f"block={block}",
                f"width={width + more}",
                *budget,
                seed=seed,
                folder=f"../budgets/{block}-{seed}",
            )
    made = found(Path("budgets"))
    assert made.keys == ["block.name", "width"]
    assert [group.n for group in made.groups] == [2, 2, 2, 2]
    shutil.rmtree("budgets/conv-2")
    for folder in Path("budgets").glob("*-[23]"):
        shutil.rmtree(folder)
    assert found(Path("budgets")).keys == ["block.name"]


def test_what_an_option_does_not_set_is_told_though_it_differs_with_it(make: Make) -> None:
    """Fewer epochs of one block are no part of the block.

    A data set's epochs follow from the data set, a block's bias from the block.
    """
    make("block=conv")
    make("block=skip", "epochs=3")
    assert found().keys == ["block.name", "epochs"]
    make("dataset=mnist", folder="../sets/a")
    make("dataset=fashion_mnist", folder="../sets/b")
    assert found(Path("sets"), by=["dataset"]).keys == ["dataset.name"]


def test_an_interval_of_shares_stays_within_what_shares_can_be(make: Make) -> None:
    for seed, (low, high) in enumerate(((0.1, 0.7), (0.1, 0.99))):
        make("block=conv", right=answers(low, seed=0), seed=seed)
        make("block=skip", right=answers(high, seed=0), seed=seed)
    (each,) = found().differences
    assert each.over_seeds is not None
    assert each.over_seeds[0] == -1.0


def test_sealed_runs_stand_beside_tested_ones(make: Make) -> None:
    """They count by validation, once where the same run is there with its test.

    By the test set they are left out.
    """
    for seed in (0, 1):
        make("block=conv", seed=seed)
        make("block=skip", seed=seed)
    make("block=conv", "evaluator.split=val", test=None)
    make("block=skip", "evaluator.split=val", seed=2, test=None)
    assert [group.n for group in found(metric="val.accuracy").groups] == [2, 3]
    made = found()
    assert [group.n for group in made.groups] == [2, 2]
    assert any("left out, since the test set stays sealed in them" in line for line in made.lines())


def test_a_run_that_got_its_probe_on_the_way_has_no_first_step(make: Make) -> None:
    for seed, steps in ((0, (1, 101)), (1, (101, 201))):
        path = make("block=conv", seed=seed)
        with (path / "metrics.jsonl").open("a") as file:
            file.writelines(
                json.dumps({"step": step, "gradient_norm": {"a": float(step), "b": 1.0}}) + "\n"
                for step in steps
            )
    made = found()
    picture = layer_plots.flow(made.groups, made.keys, looks(made), "gradient_norm")
    assert picture is not None
    drawn = {
        line.get_label(): np.asarray(line.get_ydata()).tolist()
        for line in picture.figure.axes[0].lines
    }
    assert drawn == {"step 101": pytest.approx([101, 1])}


def test_keys_that_some_runs_lack_or_that_are_null_are_compared_too(make: Make, call: Cli) -> None:
    make("trainer.clip=null")
    make("trainer.clip=1")
    make("optimizer=adam")
    make("optimizer.momentum=0.8")
    assert len(found().groups) == 4
    assert call("compare", "study", command="skiplab")[0] == 0
    code, _, err = call("compare", "study", "--x", "optimizer.momentum", command="skiplab")
    assert (code, err) == (
        2,
        "error: --x optimizer.momentum: holds no numbers; choices: params, macs, seconds\n",
    )


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off"])
def test_damaged_predictions_only_cost_the_tests_over_images(make: Make, content: bytes) -> None:
    study(make, {"conv": 0.5, "skip": 0.9})
    Path("study/run-0/predictions.npz").write_bytes(content)
    (each,) = found().differences
    assert (each.mcnemar, each.over_images) == (None, None)
    assert each.over_seeds is not None


def test_many_groups_are_compared_with_the_best_alone(make: Make) -> None:
    for depth in range(1, verdict.MOST_IN_ALL_PAIRS + 3):
        make(f"depth={depth}", right=answers(0.5 + 0.01 * depth, seed=0))
    made = found()
    assert len(made.differences) == len(made.groups) - 1
    assert all(made.groups[-1] in (each.a, each.b) for each in made.differences)


def test_what_happens_along_depth(make: Make) -> None:
    for block, shares in (("conv", (0.9, 0.92, 0.5)), ("residual", (0.9, 0.92, 0.9))):
        for (depth, share), seed in itertools.product(
            zip((2, 6, 18), shares, strict=True), (0, 1, 2)
        ):
            make(
                f"block={block}",
                f"depth={depth}",
                right=answers(share + 0.004 * (seed - depth % 5), seed=seed, flips=4),
                seed=seed,
            )
    told = [line for line in found().lines() if "from depth=2 to 18" in line]
    assert re.match(
        r"block=conv: from depth=2 to 18 test accuracy falls "
        r"\(.* to .* %, by .* points, 95 % interval .*\); its best is .* at depth=6",
        told[0],
    )
    assert re.search(
        r"test accuracy hardly changes \(88\.83 to 88\.50 %, difference 0\.33, 95 % .*\): "
        "too close to call; its best is .* at depth=6",
        told[1],
    )


# ---------------------------------------------------------------------------------------------
# refusals


def test_runs_of_different_questions_are_not_mixed(make: Make) -> None:
    make("block=conv")
    make("block=skip", "val_fraction=0.2")
    with pytest.raises(
        UsageError,
        match=r"val_fraction differs \(0\.1 in study/run-0, 0\.2 in study/run-1\): "
        r".* --by val_fraction",
    ):
        found()
    assert len(found(by=["block", "val_fraction"]).groups) == 2
    shutil.rmtree("study/run-1")
    make("block=skip", data_sha256="1" * 64)
    with pytest.raises(
        UsageError,
        match=r"the files of digits differ between study/run-0 and study/run-2 \(data_sha256\)",
    ):
        found()


def test_bad_folders_and_choices_get_one_line(make: Make, call: Cli, tmp_path: Path) -> None:
    def refusal(*arguments: str) -> str:
        code, out, err = call("compare", *arguments, command="skiplab")
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert len(err.splitlines()) == 1, err
        return err

    (tmp_path / "empty").mkdir()
    assert "empty: holds no run of ours" in refusal("empty")
    assert "nowhere: no such folder" in refusal("nowhere")
    make("block=conv", "depth=2")
    run = make("block=skip", "depth=3", folder="old")
    assert "--by blok: no such key; did you mean block?" in refusal("study", "--by", "blok")
    assert "--by seed: the groups are averaged over seeds" in refusal("study", "--by", "seed")
    make("block=residual", "depth=3")
    assert "--by depth: runs of one group differ in block; add it: --by depth,block" in refusal(
        "study", "--by", "depth"
    )
    assert (
        "--x width: the groups do not differ in it; choices: depth, params, macs, seconds"
        in refusal("study", "--x", "width")
    )
    assert "did you mean test.accuracy?" in refusal("study", "--metric", "accuracy")
    (run / folders.RESULT).write_text('{"identity": "x"}')
    assert (
        "study/old: its result.json is damaged or of another version of the format; run it anew"
        in refusal("study")
    )
    (run / folders.RESULT).unlink()
    assert (
        "left out, since not finished: study/old" in call("compare", "study", command="skiplab")[1]
    )


def test_a_config_changed_by_hand_is_noticed(make: Make) -> None:
    run = make("block=conv", "width=8")
    text = (run / folders.CONFIG).read_text()
    (run / folders.CONFIG).write_text(text.replace("width: 8", "width: 16"))
    with pytest.raises(UsageError, match="edited by hand"):
        found()


# ---------------------------------------------------------------------------------------------
# files and page


def test_parts_of_the_training_images_are_groups_that_compare(make: Make) -> None:
    """They share the test set and the validation images, so they answer one question."""
    for seed in (0, 1):
        for fraction in ("0.5", "1"):
            make(f"dataset.fraction={fraction}", seed=seed)
    assert [group.label for group in found().groups] == [
        "dataset.fraction=0.5",
        "dataset.fraction=1",
    ]


def test_the_training_loss_is_compared_without_label_smoothing(make: Make) -> None:
    make()
    path = make("trainer.label_smoothing=0.3")
    rows = (path / "metrics.jsonl").read_text()
    row = {
        "step": 20,
        "epoch": 4.0,
        "train_loss": 0.9,
        "train_accuracy": 0.5,
        "train_plain_loss": 0.2,
    }
    (path / "metrics.jsonl").write_text(rows + json.dumps(row) + "\n")
    made = found(metric="train.loss")
    assert sorted(group.mean for group in made.groups) == pytest.approx([0.2, 1 / 3])
    assert not any("label-smoothed" in note for note in made.notes)
    # An earlier version recorded only the smoothed loss.
    (path / "metrics.jsonl").write_text(rows)
    note = (
        "train.loss is label-smoothed in 1 run, as an earlier version recorded it: "
        "study/run-1 the first"
    )
    assert note in found(metric="train.loss").notes


def test_the_files_hold_what_the_table_shows(make: Make, call: Cli) -> None:
    study(make, {"conv": 0.5, "residual": 0.9})
    code, out, err = call("compare", "study", command="skiplab")
    assert (code, err) == (0, "")
    assert re.search(
        r"^block=residual +3 +\d\d\.\d\d +0\.\d\d +\d\d\.\d\d to \d\d\.\d\d ", out, re.MULTILINE
    )
    rows = list(csv.DictReader(Path("study/compare.csv").read_text().splitlines()))
    assert [row["block.name"] for row in rows] == ["conv", "residual"]
    stored = json.loads(Path("study/compare.json").read_text())
    assert float(rows[1]["mean"]) == stored["groups"][1]["mean"]
    assert [run["seed"] for run in stored["groups"][1]["runs"]] == [0, 1, 2]
    assert stored["verdict"][0].startswith("block=residual beats block=conv")
    text = Path("study/compare.md").read_text()
    assert text.startswith("| group | n | test.accuracy, % |")
    assert "* block=residual beats block=conv" in text
    for name in ("compare", "compare_curves", "compare_cost"):
        assert Path(f"study/{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert f"]({name}.png)" in text


def test_a_picture_that_fails_is_a_warning_and_hides_nothing(make: Make, call: Cli) -> None:
    study(make, {"conv": 0.5, "residual": 0.9})
    Path("study/compare.png").mkdir()
    code, out, err = call("compare", "study", command="skiplab")
    assert code == 0
    assert "block=residual beats block=conv" in out
    assert "compare.png" not in out.partition("written: ")[2]
    assert (
        err == "warning: compare.png not drawn (study: cannot write compare.png (Is a directory)); "
        "skiplab compare draws it again\n"
    )
    text = Path("study/compare.md").read_text()
    assert "](compare_cost.png)" in text
    assert "](compare.png)" not in text
    # The page holds its pictures itself.
    assert Path("study/compare.html").read_text().count("<svg") == 3
    assert json.loads(Path("study/compare.json").read_text())["verdict"]


def test_a_comparison_is_made_without_matplotlib_too(
    make: Make, call: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    study(make, {"conv": 0.5, "residual": 0.9})
    for name in ("pictures", "layer_plots"):
        monkeypatch.delattr(f"skiplab.study.compare.{name}", raising=False)
        # An import of None fails.
        monkeypatch.setitem(sys.modules, f"skiplab.study.compare.{name}", None)
    code, out, err = call("compare", "study", command="skiplab")
    assert code == 0
    assert out.endswith("written: study/compare.html and 5 more\n")
    assert err.startswith("warning: no picture drawn (")
    assert err.count("\n") == 1


def test_what_is_unforeseen_in_a_studys_comparison_is_told_and_no_success(
    make: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study(make, {"conv": 0.5, "residual": 0.9})
    assert sweep.print_comparison(Path("study"), missing=0, of=6) == 0
    Path("study/compare.csv").unlink()
    Path("study/compare.csv").mkdir()
    assert sweep.print_comparison(Path("study"), missing=0, of=6) == 4
    assert capsys.readouterr().err == "error: study: cannot write compare.csv (Is a directory)\n"
    monkeypatch.setattr(tables, "text", lambda made, **_: made.nothing)
    assert sweep.print_comparison(Path("study"), missing=0, of=6) == 1
    assert (
        "error: the cells are done, but not their comparison: AttributeError"
        in capsys.readouterr().err
    )


def test_the_page_needs_nothing_else_and_links_to_the_runs(make: Make, call: Cli) -> None:
    study(make, {"conv": 0.5, "residual": 0.9})
    assert call("compare", "study", command="skiplab")[0] == 0
    text = Path("study/compare.html").read_text()
    # Names of XML's namespaces are no requests; nothing else may name a host.
    without_names = re.sub(r'xmlns(?::\w+)?="[^"]*"', "", text)
    assert not re.search(r"https?:|(?:src|href|url\()=?[\"'(]*//|@import|<link", without_names)
    assert text.index("<table>") < text.index('id="verdict"') < text.index("<figure")
    told = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", text))
    assert told["runs"] == "6 runs in 2 groups"
    assert told["data"] == "digits: 1,437 training and 360 test images"
    assert told["hardware"] == "not recorded"
    assert re.match(r"\d{4}-\d\d-\d\dT", told["compared"])
    tips = json.loads(re.search(r'id="tips">(.*?)</script>', text, re.DOTALL)[1])  # pyright: ignore[reportOptionalSubscript]
    assert all(f'id="{name}"' in text for name in tips)
    assert any("block=residual: " in tip and "n = 3" in tip for tip in tips.values())
    for link in re.findall(r'<td class="runs">(.*?)</td>', text):
        assert all(
            (Path("study") / target).is_dir() for target in re.findall(r'href="([^"]+)"', link)
        )


def test_the_page_names_command_and_hardware(make: Make) -> None:
    for seed, threads in ((0, 1), (1, 2)):
        make(
            "block=conv",
            seed=seed,
            hardware="AMD EPYC",
            threads=threads,
            versions={"torch": "2.14.1"},
            finished=f"2026-11-2{seed}T10:00:00+0000",
        )
    record.write(Path("study"), command="train -m seed=0,1 'name=<b>'")
    made = found()
    told = dict(page.facts(Path("study"), made.groups))
    assert told["command"] == "train -m seed=0,1 'name=<b>'"
    assert told["hardware"] == (
        "AMD EPYC, 1 thread, torch 2.14.1; AMD EPYC, 2 threads, torch 2.14.1"
    )
    assert told["trained"] == "2026-11-20 to 2026-11-21"
    text = page.as_html(Path("study"), made.groups, [["a"], ["b"]], [["b"]], [], [], {})
    assert "name=&lt;b&gt;" in text


def test_the_figures_of_the_page_have_its_colours_and_the_width_of_their_place(make: Make) -> None:
    """Every colour is a variable of the page, which has another value on a dark ground."""
    for block, depth, seed in itertools.product(("conv", "residual"), (2, 6), (0, 1)):
        make(f"block={block}", f"depth={depth}", seed=seed)
    made = found()
    options: Any = {"metric": "test.accuracy", "x": None}
    for make_one, again in zip(
        *(pictures.makers(made.groups, made.keys, **options) for _ in range(2)), strict=True
    ):
        if (picture := make_one()) is None:
            continue
        svg, repeated = picture.svg(), again()
        assert repeated is not None
        assert repeated.svg() == svg
        head = svg[: svg.index(">")]
        assert "viewBox=" in head
        assert not re.search(r"\s(width|height)=", head)
        assert not re.search(r"(?:fill|stroke): (?:#|white|black)", svg)
        assert "<metadata" not in svg
        named = set(re.findall(r"var\((--[\w]+)\)", svg))
        assert {"--ink", "--grid", "--group0", "--group1"} <= named
        assert all(page.STYLE.count(f"{name}:") == 2 for name in named)
    assert "prefers-color-scheme: dark" in page.STYLE


def test_colours_can_be_seen_on_their_ground() -> None:
    """Lines and marks by WCAG 2.2 1.4.11, and what is written in them by 1.4.3."""
    assert plots.contrast("#ffffff", "#000000") == pytest.approx(21)
    assert plots.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)
    for dark, groups in ((False, colours.COLOURS), (True, colours.ON_DARK)):
        for colour in (*groups, colours.TEXT[dark]):
            assert plots.contrast(colour, colours.GROUND[dark]) >= 4.5, colour
    for colour in (plots.BLUE, plots.ORANGE, plots.INK):
        assert plots.contrast(colour, "#ffffff") >= 4.5


def test_a_group_has_one_colour_in_all_pictures_and_lines_differ_in_more(make: Make) -> None:
    for block, depth, seed in itertools.product(("conv", "residual"), (2, 6), (0, 1)):
        path = make(f"block={block}", f"depth={depth}", seed=seed)
        with (path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": 1, "gradient_norm": {"a": 1.0, "b": 2.0}}) + "\n")
    made = found()
    seen: dict[str, set[str]] = {}
    for make_one in pictures.makers(made.groups, made.keys, metric="test.accuracy", x=None):
        picture = make_one()
        if picture is None:
            continue
        # Each mark with a tip is a group's.
        for axes in picture.figure.axes:
            for line in axes.lines:
                if (tip := picture.tips.get(line.get_gid() or "")) is not None:
                    label = re.split("[:,]", tip)[0]
                    seen.setdefault(label, set()).add(str(line.get_color()))
    assert {label: len(found_) for label, found_ in seen.items()} == {
        group.label: 1 for group in made.groups
    }
    styles = [drawing.style_of(number, number, number) for number in range(12)]
    assert len({(style["color"], style["linestyle"]) for style in styles}) == 12
    for one, other in itertools.pairwise(styles):
        assert one["linestyle"] != other["linestyle"]
        assert one["marker"] != other["marker"]


def test_marks_have_values_seeds_are_dots_and_bars_do_not_overlap(make: Make) -> None:
    for block, depth, seed in itertools.product(("conv", "residual"), (2, 6), (0, 1, 2)):
        make(
            f"block={block}",
            f"depth={depth}",
            seed=seed,
            right=answers(0.9 + 0.004 * seed, seed=seed),
        )
    made = found()
    picture = pictures.against_x(
        made.groups, made.keys, looks(made), metric="test.accuracy", x="depth"
    )
    (axes,) = picture.figure.axes
    picture.figure.draw_without_rendering()
    assert "test accuracy against depth" in axes.get_title(loc="left")
    assert "n = 3; dots: seeds" in axes.get_title(loc="left")
    assert [text.get_text() for text in axes.texts] == 4 * [f"{100 * made.groups[0].mean:.2f}"]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    dots = [line for line in axes.lines if line.get_markersize() == pictures.DOT["markersize"]]
    assert len(dots) == 4
    assert all(len(np.asarray(line.get_ydata())) == 3 for line in dots)
    bars = [line.get_window_extent() for line in axes.lines if line.get_marker() == "_"]
    assert len(bars) == 4
    assert not any(one.overlaps(other) for one, other in itertools.combinations(bars, 2))
    (legend,) = picture.figure.legends
    box = legend.get_window_extent()
    assert box.width < picture.figure.bbox.width / 3
    assert box.x0 >= axes.get_window_extent().x1


@pytest.mark.slow
def test_a_legend_of_long_names_leaves_two_thirds_to_the_data(make: Make) -> None:
    for block, norm, optimizer in itertools.product(
        ("residual_down", "airbench_residual"), ("batch", "none"), ("sgd", "adamw")
    ):
        for depth in (2, 6):
            make(f"block={block}", f"norm={norm}", f"optimizer={optimizer}", f"depth={depth}")
    made = found()
    for make_one in pictures.makers(made.groups, made.keys, metric="test.accuracy", x=None):
        if (picture := make_one()) is not None:
            picture.figure.draw_without_rendering()
            (legend,) = picture.figure.legends
            box = legend.get_window_extent()
            assert box.width <= picture.figure.bbox.width / 3
            assert box.y0 >= 0
            assert not any(box.overlaps(axes.bbox) for axes in picture.figure.axes)


def test_one_evaluation_is_no_curve(make: Make) -> None:
    for block in ("conv", "residual"):
        path = make(f"block={block}")
        text = (path / "metrics.jsonl").read_text()
        (path / "metrics.jsonl").write_text(text.splitlines()[0] + "\n")
    made = found()
    assert pictures.learning_curves(made.groups, looks(made)) is None


def test_a_search_is_drawn_over_each_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = [
        search_picture.Trial(
            i, 0.5 + 0.01 * i, i != 9, {"optimizer.lr": 10.0 ** -(i % 4), "block": "ab"[i % 2]}
        )
        for i in range(10)
    ]
    figures: list[Any] = []
    monkeypatch.setattr(plots, "save", lambda figure, *_, **__: figures.append(figure))
    search_picture.draw(tmp_path / "a.png", trials, {"block": 0.75})
    order, block, lr = figures[0].axes
    assert [each.get_title(loc="left") for each in (order, block, lr)] == [
        "trials, in order",
        "block, importance 0.75",
        "optimizer.lr",
    ]
    assert lr.get_xscale() == "log"
    assert [tick.get_text() for tick in block.get_xticklabels()] == ["a", "b"]
    # Trial 9 was pruned, so trial 8 is best.
    for axes, place in ((order, 8), (block, 0), (lr, 1.0)):
        (star,) = (line for line in axes.lines if line.get_marker() == "*")
        assert (star.get_xdata()[0], star.get_ydata()[0]) == (place, pytest.approx(58))
    assert figures[0].get_suptitle() == "best: trial 8, 58.00 %, optimizer.lr=1, block=a"


def test_the_pareto_front() -> None:
    points = [(1.0, 0.5), (2.0, 0.4), (2.0, 0.7), (3.0, 0.7), (4.0, 0.9)]
    assert pictures.pareto(points, more_is_better=True) == [(1.0, 0.5), (2.0, 0.7), (4.0, 0.9)]
    assert pictures.pareto([(1.0, 0.5), (2.0, 0.6), (3.0, 0.4)], more_is_better=False) == [
        (1.0, 0.5),
        (3.0, 0.4),
    ]


def test_axes_are_logarithmic_where_it_helps(make: Make) -> None:
    for depth, seed in itertools.product((2, 6, 18), (0, 1)):
        make(f"depth={depth}", seed=seed)
    made = found()
    picture = pictures.against_x(
        made.groups, made.keys, looks(made), metric="test.accuracy", x="depth"
    )
    (axes,) = picture.figure.axes
    assert axes.get_xscale() == "log"
    assert list(axes.get_xticks()) == [2, 6, 18]
    costs = pictures.against_x(
        made.groups, made.keys, looks(made), metric="test.accuracy", x="params"
    )
    assert costs.figure.axes[0].get_xlabel() == "parameters"


@pytest.mark.parametrize("kind", list(layers.FLOWS))
def test_what_a_probe_records_is_drawn(make: Make, kind: str) -> None:
    """Without what is exactly 0, for which a logarithmic axis has no place."""
    for block, factor in (("conv", 0.1), ("residual", 1.0)):
        path = make(f"block={block}")
        row = {
            "step": 1,
            kind: {"first": 0.0 if block == "residual" else 1.0}
            | {f"layer{i}": factor**i for i in range(1, 4)},
        }
        with (path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
    made = found()
    picture = layer_plots.flow(made.groups, made.keys, looks(made), kind)
    assert picture is not None
    assert [
        each.name
        for make_one in layer_plots.makers(made.groups, made.keys, looks(made))
        if (each := make_one())
    ] == [picture.name]
    (axes,) = picture.figure.axes
    assert axes.get_yscale() == "log"
    drawn = {line.get_label(): np.asarray(line.get_ydata()).tolist() for line in axes.lines}
    assert drawn["conv"] == pytest.approx([1, 0.1, 0.01, 0.001])
    assert drawn["residual"] == pytest.approx([math.nan, 1, 1, 1], nan_ok=True)
    assert [tip.partition(", first step: ")[2] for tip in picture.tips.values()] == [
        "1 in the first layer, 0.001 in the last",
        "0 in the first layer, 1 in the last",
    ]


@pytest.mark.browser
@pytest.mark.parametrize("size", [(1280, 900), (390, 844)], ids=["wide", "phone"])
def test_the_page_in_a_browser(
    make: Make, call: Cli, tmp_path: Path, size: tuple[int, int]
) -> None:
    """It sorts, tells values under the pointer, and does not stick out of a phone."""
    selenium = pytest.importorskip("selenium.webdriver")
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        pytest.skip("browser: no chromium and chromedriver")
    study(make, {"conv": 0.5, "residual": 0.9, "skip": 0.7})
    assert call("compare", "study", command="skiplab")[0] == 0
    options = selenium.ChromeOptions()
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        f"--user-data-dir={tmp_path}/profile",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = selenium.Chrome(
        options=options, service=selenium.ChromeService(shutil.which("chromedriver"))
    )
    try:
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 500},
        )
        driver.get((tmp_path / "study/compare.html").as_uri())

        def first_cells() -> list[str]:
            return [
                row.text for row in driver.find_elements("css selector", "tbody td:first-child")
            ]

        assert first_cells() == ["block=conv", "block=residual", "block=skip"]
        mean = driver.find_elements("css selector", "th button")[2]
        mean.click()
        assert first_cells() == ["block=conv", "block=skip", "block=residual"]
        mean.click()
        assert first_cells() == ["block=residual", "block=skip", "block=conv"]
        mark = driver.find_element("id", "compare-0")
        driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", mark)
        selenium.ActionChains(driver).move_to_element(mark).perform()
        tip = driver.find_element("id", "tip")
        assert tip.is_displayed()
        assert "block=" in tip.text
        assert "n = 3" in tip.text
        assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        assert driver.save_screenshot(str(tmp_path / "page.png"))
        assert driver.get_log("browser") == []
    finally:
        driver.quit()
