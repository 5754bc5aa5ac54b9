"""Equal budgets: the nearest width, by trying them all; what cannot be met is refused."""

import json
from pathlib import Path

import pytest

from helpers import Cli, compose
from skiplab import budget, build
from skiplab.config import rules
from skiplab.errors import UsageError
from skiplab.runs import folders


@pytest.mark.parametrize(
    ("block", "kind"),
    [
        pytest.param("conv", "macs", marks=pytest.mark.slow),
        pytest.param("residual_down", "params", marks=pytest.mark.slow),
        ("skip", "params"),
    ],
)
def test_the_nearest_width_of_all(block: str, kind: str) -> None:
    config = compose(
        f"block={block}",
        f"match={kind}",
        "target=50k" if kind == "params" else "target=300k",
        "depth=4",
    )
    step = rules.width_divisor(config)
    costs = {width: budget.cost(config, width) for width in range(step, 64, step)}
    assert config.target is not None
    best = min(costs, key=lambda width: abs(costs[width] - (config.target or 0)))
    assert budget.solve_width(config).width == best
    assert budget.solve_width(budget.solve_width(config)) == budget.solve_width(config)


def test_its_cost_is_that_of_the_real_network() -> None:
    config = compose("model=resnet20", "dataset=cifar10")
    import torch

    summary = build.summary_of(config, build.network(config, torch.device("cpu")))
    assert (
        budget.cost(config, 16)
        == summary.macs
        == budget.cost(compose("model=resnet20", "dataset=cifar10", "match=macs", "target=41M"), 16)
    )
    assert (
        budget.cost(compose("model=resnet20", "dataset=cifar10", "match=params", "target=270k"), 16)
        == summary.parameters
        == 269_722
    )


def test_what_cannot_be_met_is_refused() -> None:
    with pytest.raises(
        UsageError,
        match=r"target=10: no width of deepcnn .* comes within 10 % \(params: .* at width=2",
    ):
        budget.solve_width(compose("match=params", "target=10"))


def test_a_run_says_what_it_chose_and_goes_on_with_it(call: Cli) -> None:
    code, out, err = call(
        "match=params", "target=30k", "depth=2", "batch_size=256", "epochs=1", "out=run"
    )
    assert (code, err) == (0, "")
    line = out.splitlines()[0]
    result = json.loads(Path("run", folders.RESULT).read_text())
    found = result["summary"]["parameters"]
    off = f"{100 * (found / 30_000 - 1):+.1f} %"
    assert line == f"width={result['width']}: {found:,} params, {off} of the target"
    assert call("resume=run", "epochs=2")[0] == 0
    assert json.loads(Path("run", folders.RESULT).read_text())["width"] == result["width"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("match=params", "match=params: a budget takes both"),
        ("target=80k", "target=80000: a budget takes both"),
    ],
)
def test_half_a_budget_is_none(call: Cli, text: str, words: str) -> None:
    code, _, err = call(text)
    assert code == 2
    assert err.startswith(f"error: {words}")
