"""The functions of the command line. Each gives what its words mean, as Python does, or refuses."""

import itertools
from decimal import Decimal
from pathlib import Path

import pytest
from hydra import compose
from hypothesis import given, settings, strategies as st
from omegaconf import OmegaConf

from helpers import Cli
from skiplab.config import compose as composition, grammar, grid, overrides, stored
from skiplab.errors import UsageError

SMALL = st.integers(-30, 30)


def values(text: str) -> list[object]:
    """Return each value of a sweep, as Hydra reads the text that is handed to it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    override = OverridesParser.create().parse_override(grammar.evaluated(text))
    return list(override.sweep_iterator()) if override.is_sweep_override() else [override.value()]


@settings(deadline=None, max_examples=60)
@given(SMALL, SMALL, SMALL, st.sampled_from(["", "sort", "reverse"]))
def test_a_range_of_whole_numbers_is_pythons(start: int, stop: int, step: int, order: str) -> None:
    text = f"range({start},{stop},{step})"
    text = {"": text, "sort": f"sort({text})", "reverse": f"sort({text},reverse=true)"}[order]
    expected = list(range(start, stop, step)) if step else []
    if order:
        expected = sorted(expected, reverse=order == "reverse")
    if not expected:
        with pytest.raises(UsageError, match="a range without a value"):
            grammar.parse(f"seed={text}")
        return
    override = grammar.parse(f"seed={text}")
    assert values(f"seed={text}") == expected
    assert grammar.num_values(override) == len(expected)
    assert grid.first_of([override]) == [f"seed={expected[0]}"]
    assert [one.value() for one in grid.each_of(override)] == expected


@settings(deadline=None, max_examples=60)
@given(*[st.decimals("-3", "3", places=1)] * 3)
def test_a_range_of_fractions_is_exact(start: Decimal, stop: Decimal, step: Decimal) -> None:
    expected = []
    if step:
        numbers = itertools.takewhile(
            lambda x: x < stop if step > 0 else x > stop,
            (start + i * step for i in itertools.count()),
        )
        expected = [float(number) for number in numbers]
    text = f"val_fraction=range({start},{stop},{step})"
    if not expected:
        with pytest.raises(UsageError, match="a range without a value"):
            grammar.parse(text)
        return
    assert values(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed=sort(range(9,0,-4))", [1, 5, 9]),
        ("seed=sort(3,1,2)", [1, 2, 3]),
        ("seed=sort(choice(3,1,2),reverse=true)", [3, 2, 1]),
        ("seed=sort(10,9.5,-1)", [-1, 9.5, 10]),
        ("block=sort(skip,conv)", ["conv", "skip"]),
        ("block=choice(conv)", ["conv"]),
        ("block=glob(res*)", ["residual", "residual_down"]),
        ("block=glob([res*,c*],exclude=*_*)", ["conv", "residual"]),
        ("val_fraction=range(0,0.9,0.3)", [0.0, 0.3, 0.6]),
        ("depth=range(3)", [0, 1, 2]),
        ("depth=range(stop=6,start=2,step=2)", [2, 4]),
        ("depth=int(range(1.0,4.0))", [1, 2, 3]),
        ("depth=int(2.0,'3')", [2, 3]),
        ("val_fraction=float(range(2))", [0.0, 1.0]),
        ("shortcut=bool(range(2))", [False, True]),
        ("shortcut=bool('true',0)", [True, False]),
        ("name=str(range(2))", ["0", "1"]),
        ("name=choice('null',\"it's\",'a,b')", ["null", "it's", "a,b"]),
        ("depth=int(3.0)", [3]),
        ("optimizer.betas=sort([0.9,0.8])", [[0.8, 0.9]]),
        ("optimizer.betas=choice([0.9,0.99],[0.8,0.9])", [[0.9, 0.99], [0.8, 0.9]]),
    ],
)
def test_a_function_gives_what_it_says(text: str, expected: list[object]) -> None:
    found = values(text)
    assert [getattr(value, "text", value) for value in found] == expected
    assert [one.value() for one in grid.each_of(grammar.parse(text))] == expected


REFUSED = [
    ("seed=range(3),5", "a sweep within a list; write seed=0,1,2,5"),
    ("block=choice(conv),residual", "write block=conv,residual"),
    ("block=glob(res*),conv", "write block=residual,residual_down,conv"),
    ("seed=choice(range(3),choice(7,8))", "write seed=0,1,2,7,8"),
    ("seed=choice(range(3))", "a sweep within a list, or within another"),
    ("seed=range(100),5", "a sweep within a list; write out its values"),
    ("optimizer.betas=[range(3),1]", "a sweep within a list"),
    ("optimizer.betas={a:range(3)}", "a sweep within a list"),
    ("seed=interval(1,2),3", "a sweep within a list"),
    ("seed=shuffle(1,2)", "must not change from call to call"),
    ("seed=shuffle(range(9))", "must not change from call to call"),
    ("optimizer.betas=shuffle([0.9,0.8])", "must not change from call to call"),
    ("seed=sort(1,a)", "numbers, or words, not both"),
    ("seed=sort(${depth},1)", "numbers, or words, not both"),
    ("block=sort(glob(*))", "sort takes values"),
    ("seed=sort()", "sort() does not take this"),
    ("seed=range(a)", "finite numbers"),
    ("seed=range(0,inf)", "finite numbers"),
    ("seed=range(0,1,nan)", "finite numbers"),
    ("seed=range(1,2,3,4)", "range() does not take this; range(START,STOP,STEP) is expected"),
    ("seed=range(0,1e9,0.5)", "2,000,000,000 values; a sweep takes at most 10,000"),
    ("seed=range(1e300)", "too many values"),
    ("seed=choice()", "a choice without a value"),
    ("seed=json_str([1])", "no such function: json_str; choices: bool, choice"),
    ("seed=rnage(3)", "no such function: rnage; did you mean range?"),
    ("seed=int(1.5)", "1.5 is no whole number"),
    ("seed=int(range(1.0,4.5))", "4.5 is no whole number"),
    ("seed=int(inf)", "inf is no whole number"),
    ("seed=int(null)", "null cannot be cast"),
    ("seed=float(abc)", "abc is no number"),
    ("seed=bool(yes)", "yes is neither true nor false"),
    ("seed=str(interval(1,2))", "this cannot be cast"),
    ("seed=tag(a,b)", "tag() does not take this"),
    ("seed=interval(1,a)", "finite numbers"),
    ("seed=glob(1)", "glob() does not take this"),
    ("depth=glob(*)", "glob picks options of a group"),
]


@pytest.mark.parametrize(("text", "fragment"), REFUSED, ids=[text for text, _ in REFUSED])
def test_what_has_no_value_is_refused_in_one_line(text: str, fragment: str) -> None:
    with pytest.raises(UsageError) as caught:
        grammar.parse(text)
    assert str(caught.value).startswith(f"{text}: ")
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["seed=1,,2", "seed=,1", "seed=(1", "seed=" + "1" * 5000, "seed=" + "[" * 3000]
)
def test_what_is_no_override_is_told_apart(text: str) -> None:
    with pytest.raises(grammar.Unreadable):
        grammar.parse(text)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("train", ("seed=range(3),5",)),
        ("train", ("-m", "seed=range(3),5")),
        ("train", ("--cfg", "job", "seed=range(3),5")),
        ("train", ("-m", "--cfg", "job", "seed=range(3),5")),
        ("train", ("sweep=blocks", "seed=range(3),5")),
        ("skiplab", ("search", "depth=1,2", "seed=range(3),5")),
        ("skiplab", ("verify", "seed=range(3),5")),
    ],
)
def test_every_verb_answers_in_one_line(
    command: str, arguments: tuple[str, ...], call: Cli
) -> None:
    code, out, err = call(*arguments, command=command)
    assert (code, out) == (2, "")
    assert err == "error: seed=range(3),5: a sweep within a list; write seed=0,1,2,5\n"
    assert not Path("outputs").exists()


def test_a_preview_and_hydra_have_the_same_cells(call: Cli) -> None:
    code, out, err = call(
        "-m", "--cfg", "job", "seed=sort(range(9,0,-4))", "val_fraction=range(0.1,0.4,0.1)"
    )
    assert (code, err) == (0, "")
    told = [
        line.split("not begun  ")[1].split("  ")[0]
        for line in out.splitlines()
        if line.startswith("not begun")
    ]
    assert told == [
        f"seed={seed} val_fraction={part}" for seed in (1, 5, 9) for part in (0.1, 0.2, 0.3)
    ]
    texts = [
        grammar.evaluated(text)
        for text in ("seed=sort(range(9,0,-4))", "val_fraction=range(0.1,0.4,0.1)")
    ]
    assert texts == ["seed=1,5,9", "val_fraction=0.1,0.2,0.3"]
    parsed = grid.parsed(texts)
    assert [
        (c.seed, c.val_fraction) for c in composition.compose_all(grid.combinations(parsed))
    ] == [(seed, part) for seed in (1, 5, 9) for part in (0.1, 0.2, 0.3)]
    assert stored.flat(composition.compose_config(["depth=int(3.0)"]))["depth"] == 3


def test_a_tag_and_an_interval_are_for_a_search() -> None:
    for text, fragment in (
        ("seed=tag(log,range(3))", "a tag is for skiplab search"),
        ("depth=interval(1,3)", "an interval is for"),
    ):
        with pytest.raises(UsageError, match=fragment):
            overrides.check([text], multirun=True)


@pytest.mark.parametrize(
    "texts",
    [
        ["depth=3", "optimizer.lr=0.1"],
        [
            "model=resnet",
            "dataset=mnist",
            "optimizer=adam",
            "optimizer.betas=[0.5,0.9]",
            "trainer.ema=0.9",
        ],
        ["experiment=speedrun94", "width=${depth}", "name='a, b'"],
    ],
)
def test_a_config_is_what_hydra_composes_of_all_of_it(texts: list[str]) -> None:
    """Setting values in a composed config that is kept gives what Hydra composes of everything."""
    with composition.hydra_ready() as files:
        whole = composition.plain(compose("config", texts))
        assert composition.tree_of(texts, files) == composition.tree_of(texts, files) == whole
    assert composition.record_of(texts)[0] == whole
    assert OmegaConf.to_container(composition.record_of(texts)[1].overrides.task) == texts
