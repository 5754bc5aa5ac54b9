"""scripts/bench: the contenders do the same mathematics, and the statistics are right.

Bad input is one line.
"""

import importlib
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import ROOT, compose
from skiplab import build
from skiplab.config import rules
from skiplab.data.digits import read_digits
from skiplab.data.splits import Split

SCRIPTS = ROOT / "scripts/benchmarks"
CPU = torch.device("cpu")
TINY = (
    "model=resnet",
    "depth=1",
    "width=8",
    "batch_size=64",
    "val_fraction=0",
    "trainer.threads=1",
    "scheduler=constant",
)


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that imports a module of scripts/, as the scripts do themselves."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


def digits(count: int) -> Split:
    arrays = read_digits(Path(), "train")
    return Split(
        torch.from_numpy(arrays.images[:count]), torch.from_numpy(arrays.labels[:count]).long()
    )


# --------------------------------------------------------------------------------------------------
# The contenders


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_step_of_the_bare_loop_is_a_step_of_ours(scripts: Any, optimizer: str) -> None:
    config, split = compose(*TINY, f"optimizer={optimizer}", "epochs=2"), digits(256)
    with scripts("bench_setup").trainer_of(config, split, CPU) as trainer:
        model = build.network(config, CPU)
        model.load_state_dict(trainer.step.model.state_dict())
        bare = scripts("bench_overhead").bare_loop(config, split, model)
        trainer.step.model.train()
        trainer.step.batches.index(0)
        # Both take the same batches.
        bare.order = trainer.step.batches.order
        losses = []
        for step in range(4):
            trainer.step.update(step)
            losses.append(bare.step().detach())
        torch.testing.assert_close(torch.stack(losses), trainer.step.losses.losses[:4])
        for (name, ours), theirs in zip(
            trainer.step.model.state_dict().items(), model.state_dict().values(), strict=True
        ):
            torch.testing.assert_close(theirs, ours, msg=name)


def test_the_bare_loop_goes_through_all_images_in_a_new_order_each_epoch(scripts: Any) -> None:
    config, split = compose(*TINY, "epochs=1"), digits(128)
    bare = scripts("bench_overhead").bare_loop(config, split, build.network(config, CPU))
    orders = []
    for _ in range(2):
        bare.step()
        bare.step()
        orders.append(bare.order.tolist())
    assert all(sorted(order) == list(range(128)) for order in orders)
    assert orders[0] != orders[1]


def test_the_bare_loop_crops_from_a_black_border_and_mirrors(scripts: Any) -> None:
    """Every image is one of the nine crops with a border of 1, or its mirror image.

    All eighteen occur.
    """
    images = torch.randint(
        1, 256, (2, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    recipe = scripts("bare_loop").Recipe(
        mean=(0.0,) * 3,
        std=(1 / 255,) * 3,
        batch_size=2,
        shuffle=True,
        crop=1,
        flip=True,
        optimizer={
            "name": "sgd",
            "lr": 0.1,
            "weight_decay": 0.0,
            "decay_norm_and_bias": False,
        },
    )
    bare = scripts("bare_loop").BareLoop(torch.nn.Conv2d(3, 1, 1), images, torch.zeros(2), recipe)
    torch.manual_seed(0)
    fed = bare.batch(torch.ones(400, dtype=torch.int64)).permute(0, 2, 3, 1).round().byte()
    padded = torch.nn.functional.pad(images[1], (0, 0, 1, 1, 1, 1))
    crops = [padded[i : i + 4, j : j + 4] for i, j in itertools.product(range(3), repeat=2)]
    possible = [each for crop in crops for each in (crop, crop.flip(1))]
    found = [[torch.equal(image, each) for each in possible].index(True) for image in fed]
    assert set(found) == set(range(18))


def test_fitting_is_what_fit_does(scripts: Any) -> None:
    setup = scripts("bench_setup")
    config = compose(*TINY, "epochs=2", "trainer.log_every=3", "trainer.limit_steps=5")
    written = []
    for by_hand in (False, True):
        with setup.trainer_of(config, digits(256), CPU) as trainer:
            if by_hand:
                with setup.quiet_terminal(), setup.fitting(trainer) as advance:
                    setup.repeated(advance, 5)
                    # The bar is drawn, as on a terminal.
                    assert trainer.context.log.bar is not None
            else:
                trainer.fit()
            rows = (trainer.context.folder / "metrics.jsonl").read_text()
            written.append((rows, sorted(path.name for path in trainer.context.folder.iterdir())))
    assert written[0] == written[1]


def test_blocks_end_no_epoch(scripts: Any) -> None:
    """The end of an epoch is timed apart."""
    setup, overhead = scripts("bench_setup"), scripts("bench_overhead")
    config = compose(*TINY, "epochs=1000", "trainer.log_every=3")
    # There are 4 steps per epoch.
    with setup.trainer_of(config, digits(256), CPU) as trainer, setup.fitting(trainer) as advance:
        for _ in range(5):
            overhead.stay_within_epoch(trainer, 2)
            setup.repeated(advance, 2)
        trainer.context.log.metrics.flush()
        assert "train_accuracy" not in (trainer.context.folder / "metrics.jsonl").read_text()
        overhead.end_epoch(trainer)
        assert "train_accuracy" in (trainer.context.folder / "metrics.jsonl").read_text()
        assert (trainer.context.folder / "best.safetensors").exists()


@pytest.mark.parametrize("name", ["deepcnn", "resnet", "resnet20", "resnet18"])
def test_the_plain_networks_are_as_large_as_ours(scripts: Any, name: str) -> None:
    config = compose(*scripts("bench_setup").MODELS[name].overrides)
    ours, plain = build.network(config, CPU), scripts("plain_loops").MODELS[name]()
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in ours.parameters())
    image = torch.zeros(2, rules.channels(config), *rules.image_size(config))
    assert plain(image).shape == ours(image).shape == (2, 10)


# --------------------------------------------------------------------------------------------------
# The figures


def test_statistics_of_known_numbers(scripts: Any) -> None:
    table = scripts("bench_table")
    assert table.ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
    with pytest.raises(ValueError, match="shorter"):
        table.ratios([1.0, 2.0], [1.0])
    # By the sign test it is, of 10 values, the 2nd to the 9th (97.9 %), and of 6 the whole range
    # (96.9 %). With fewer values nothing reaches 95 %.
    assert table.median_interval([float(i) for i in range(10, 0, -1)]) == (2.0, 9.0)
    assert table.median_interval([float(i) for i in range(1, 41)]) == (14.0, 27.0)
    assert table.median_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == (1.0, 6.0)
    assert table.median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert table.median_interval([3.0]) == (3.0, 3.0)
    assert table.shown([3.0, 1000.0, 2.0], 1) == "3.0 (2.0 to 1,000.0)"
    assert table.shown([0.5], 1, scale=100, unit=" %") == "50.0 %"
    assert table.shown([], 1) == ""


def test_a_table_as_text_and_as_json(scripts: Any) -> None:
    module = scripts("bench_table")
    table = module.Table("part", "what it is", ("ours", "bare"))
    table.add("case", "img/s", [200.0, 220.0, 210.0], [100.0, 100.0, 100.0])
    table.add("case", "ms", [1.0], [4.0], percent=True, note="a note")
    table.add_peaks(
        "case",
        [{"peak_mib": 3.0, "cuda_peak_mib": None}],
        [{"peak_mib": 2.0, "cuda_peak_mib": None}],
    )
    table.note("once", "once", "")
    assert module.text(table).splitlines() == [
        "part: what it is",
        "                          ours              bare              ratio",
        "  case  img/s             210 (200 to 220)  100 (100 to 100)  2.10 (2.00 to 2.20)",
        "        ms                1                 4                 25.0 %  a note",
        "        MiB, peak memory  3                 2                 1.50",
        "  once",
    ]
    rows = json.loads(json.dumps(module.as_json(table)))["rows"]
    assert (rows[0]["ratio"], rows[0]["ratio_median"], rows[0]["a_median"]) == (
        [2.0, 2.2, 2.1],
        2.1,
        210.0,
    )


def test_runs_of_a_published_script_are_read_without_its_warm_up(scripts: Any) -> None:
    head = "|  run     |  epoch  |  tta_val_acc  |  {}  |\n"
    row = "|  {:>6}  |  {:>5}  |  {:>11}  |  {:>12}  |\n"

    def printed(names: list[str], seconds: str) -> str:
        runs = "".join(
            row.format(name, 0, "", 1.0) + row.format("", "eval", f"0.940{i}", 2.5 + i)
            for i, name in enumerate(names)
        )
        return "-----\n" + head.format(seconds) + runs + "Mean: 0.9401    Std: 0.0001\n"

    expected = [{"seconds": 3.5, "accuracy": 0.9401}, {"seconds": 4.5, "accuracy": 0.9402}]
    counted = scripts("bench_speedrun").counted_runs
    assert counted(printed(["warmup", "0", "1"], "time_seconds")) == expected
    assert counted(printed(["0", "1", "2"], "total_time_seconds")) == expected
    assert counted("") == []


def test_the_moments_of_the_steps_are_noted(
    scripts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop's module is wrapped when `train` imports it, not before."""
    (tmp_path / "loop.py").write_text(
        "class Step:\n"
        "    device = type('Device', (), {'type': 'cpu'})\n"
        "    def update(self, step): return step\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    module = scripts("first_step")
    monkeypatch.setattr(module, "WATCHED", "loop")
    monkeypatch.setattr(sys, "meta_path", [module.Watcher(), *sys.meta_path])
    step = importlib.import_module("loop").Step()
    assert module.MOMENTS == {}
    assert [step.update(number) for number in range(3)] == [0, 1, 2]
    (first, first_cpu), (last, last_cpu) = module.MOMENTS["first"], module.MOMENTS["last"]
    assert first < last
    assert first_cpu <= last_cpu


# --------------------------------------------------------------------------------------------------
# Bad input


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("overhed",), "overhed: no such part; did you mean overhead?"),
        (("overhead", "--models", "resnet19"), "resnet19: no such model; did you mean resnet18?"),
        (("--device", "gpu"), "gpu: no such device; did you mean cuda? choices: auto, cpu, cuda"),
        (("--repeats", "0"), "--repeats: 0: a whole number above 0 is expected"),
        (("--threads", "two"), "--threads: two: a whole number above 0 is expected"),
        (("--root", "nowhere"), "--root nowhere: no such folder"),
        (("--airbench", "nowhere.py"), "--airbench nowhere.py: no such file"),
        (("--repeat",), "--repeat"),
        (("speedrun", "--device", "cpu"), "speedrun: needs a CUDA device"),
    ],
)
def test_bad_input_is_one_line(
    scripts: Any, arguments: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = scripts("bench_command").main(arguments)
    except SystemExit as error:
        code = error.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert expected in err
    assert len(err.splitlines()) == 1


def test_the_command_itself_says_so_at_once() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/bench"), "batchs"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "did you mean batches?" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_every_part_has_its_module(scripts: Any) -> None:
    for name in scripts("bench_command").PARTS:
        assert callable(scripts(f"bench_{name}").tables)


def test_the_command_needs_nothing_installed_to_set_everything_up() -> None:
    done = subprocess.run(
        [sys.executable, "-S", str(ROOT / "scripts/bench"), "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "contention" in done.stdout
