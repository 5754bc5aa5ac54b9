"""What a config refuses and in which words, what it accepts, its identity, and its stored form."""

import dataclasses
import functools
import hashlib
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import helpers
from skiplab import paths
from skiplab.config import compose as composition, keys, overrides, presets, validate
from skiplab.config.fields import key
from skiplab.config.schema import Config, Trainer
from skiplab.config.stored import dump, flat, identity, load, read_tree
from skiplab.errors import UsageError

HYDRAS_ADVICE = re.compile(
    r"append|use \+|\+\+|--multirun|key '.*' is not in struct", re.IGNORECASE
)


@functools.cache
def compose(*texts: str) -> Config:
    """Return the checked config of a command line."""
    return helpers.compose(*texts)


def refusal(command: str) -> list[str]:
    """Return the lines that refuse a command line. -m makes it a sweep."""
    texts = shlex.split(command)
    with pytest.raises(UsageError) as caught:
        overrides.check([text for text in texts if text != "-m"], multirun="-m" in texts)
    assert caught.value.exit_code == 2
    return str(caught.value).split("\n")


# One bad command line, and all that its one line must hold.
REFUSED: list[tuple[str, ...]] = [
    # Misspelt groups, options, keys at the root and below it.
    ("blok=conv", "blok", "did you mean block?"),
    ("modle=resnet", "modle", "did you mean model?"),
    ("optimzer=adam", "did you mean optimizer?"),
    ("experimnt=resnet_mnist", "did you mean experiment?"),
    ("block=residul", "block=residul", "did you mean residual?", "bottleneck"),
    ("model=resnt", "model=resnt", "did you mean resnet?"),
    ("model=resnet19", "did you mean resnet18?"),
    ("dataset=cifar-10", "did you mean cifar10?"),
    ("optimizer=sdg", "optimizer=sdg", "did you mean sgd?"),
    ("scheduler=exponential", "scheduler=exponential", "constant, cosine, linear"),
    ("augment=standart", "did you mean standard?"),
    ("trainer=debg", "did you mean debug?"),
    ("experiment=deepcnn", "did you mean deepcnn_cifar10?"),
    ("epoch=3", "epoch:", "did you mean epochs?"),
    ("batchsize=32", "did you mean batch_size?"),
    ("depht=3", "did you mean depth?"),
    ("zzz=1", "zzz: no such key", "train --help"),
    ("optimizer.lrr=0.1", "optimizer.lrr", "did you mean optimizer.lr?"),
    ("scheduler.warmpu=0.1", "did you mean scheduler.warmup?"),
    ("trainer.emma=0.9", "did you mean trainer.ema?"),
    ("trainer.num_workers=4", "trainer.num_workers: no such key", "nothing loads or copies them"),
    ("augment.hflip=true", "did you mean augment.flip?"),
    ("evaluator.tat=flip", "did you mean evaluator.tta?"),
    ("dataset.chanels=1", "did you mean dataset.channels?"),
    ("epochs.foo=3", "epochs.foo", "did you mean epochs?"),
    ("optim.lr=0.1", "optim.lr", "did you mean optimizer.lr?"),
    # A key in the wrong place, or known by other words.
    ("lr=0.1", "lr: no such key at the root", "did you mean optimizer.lr?"),
    ("momentum=0.8", "did you mean optimizer.momentum?"),
    ("dropout=0.1", "did you mean model.dropout?"),
    ("warmup=0.1", "did you mean scheduler.warmup?"),
    ("threads=2", "did you mean trainer.threads?"),
    ("learning_rate=0.1", "did you mean optimizer.lr?"),
    ("optimizer.learning_rate=0.1", "did you mean optimizer.lr?"),
    ("model.depth=20", "model.depth", "did you mean depth?"),
    ("trainer.epochs=3", "did you mean epochs?"),
    (
        "scheduler.final=0 scheduler=constant",
        "scheduler.final",
        "scheduler=constant has no such key",
        "warmup",
    ),
    (
        "optimizer=adam optimizer.momentum=0.9",
        "optimizer.momentum",
        "optimizer=adam has no such key",
        "betas",
    ),
    (
        "optimizer.momentum=0.9 optimizer=adam",
        "optimizer.momentum",
        "optimizer=adam has no such key",
    ),
    ("optimizer.betas=0.9", "optimizer.betas", "optimizer=sgd has no such key", "momentum"),
    ("optimizer.betas=[0.9]", "optimizer.betas", "optimizer=sgd has no such key"),
    # Wrong types.
    ("epochs=three", "epochs=three: a whole number", "80k"),
    ("epochs=1.5", "epochs=1.5: a whole number"),
    ("epochs=1e400", "epochs=inf: a whole number"),
    ("epochs=true", "epochs=true: a whole number"),
    ("epochs=[3]", "epochs=[3]: a whole number"),
    ("epochs=3x", "epochs=3x: a whole number"),
    ("epochs=null", "epochs=null: a whole number"),
    ("seed=null", "seed=null: a whole number"),
    ("shortcut=maybe", "shortcut=maybe: true or false"),
    ("shortcut=1", "shortcut=1: true or false"),
    (
        "optimizer=adam optimizer.betas=0.9",
        "optimizer.betas=0.9: a list",
        "optimizer.betas=[0.1,0.1]",
    ),
    ("optimizer=adam optimizer.betas=[0.9]", "optimizer.betas=[0.9]: 2 values"),
    ("optimizer=adam optimizer.betas=[0.9,x]", "optimizer.betas=x: a finite number"),
    ("optimizer.lr=fast", "optimizer.lr=fast: a finite number"),
    ("optimizer.lr=null", "optimizer.lr=null: a finite number"),
    ("norm=layer", "norm=layer", "batch, none"),
    ("norm=null", "norm=null", "did you mean none?"),
    ("trainer.amp=half", "trainer.amp=half", "bf16, fp16, off"),
    ("name=[a,b]", "name=['a', 'b']: text"),
    ("dataset.mean=0.3", "dataset.mean=0.3: a list", "dataset.mean=[0.1]"),
    # Out of range.
    ("epochs=0", "epochs=0: must be at least 1"),
    ("epochs=-1", "epochs=-1: must be at least 1"),
    ("steps=0", "steps=0: must be at least 1"),
    ("batch_size=0", "batch_size=0: must be at least 1"),
    ("width=0", "width=0: must be at least 1"),
    ("depth=-3", "depth=-3: must be at least 0"),
    ("seed=-1", "seed=-1: must be at least 0"),
    ("seed=9223372036854775808", "must be at most 9223372036854775807"),
    ("val_fraction=1", "val_fraction=1: must be below 1"),
    ("val_fraction=-0.1", "val_fraction=-0.1: must be at least 0"),
    ("optimizer.lr=0", "optimizer.lr=0: must be above 0"),
    ("optimizer.lr=-0.1", "optimizer.lr=-0.1: must be above 0"),
    ("optimizer.lr=nan", "optimizer.lr=nan: a finite number"),
    ("optimizer.lr=inf", "optimizer.lr=inf: a finite number"),
    ("optimizer.weight_decay=-inf", "optimizer.weight_decay=-inf: a finite number"),
    ("trainer.ema=nan", "trainer.ema=nan: a finite number"),
    ("optimizer.momentum=1", "optimizer.momentum=1: must be below 1"),
    ("model.dropout=1", "model.dropout=1: must be below 1"),
    ("optimizer=adam optimizer.eps=0", "optimizer.eps=0: must be above 0"),
    ("trainer.accumulate=0", "trainer.accumulate=0: must be at least 1"),
    ("trainer.eval_every=0", "trainer.eval_every=0: must be above 0"),
    ("trainer.max_time=0", "trainer.max_time=0: must be above 0"),
    ("trainer.clip=0", "trainer.clip=0: must be above 0"),
    (
        "scheduler=multistep scheduler.milestones=[30]",
        "scheduler.milestones=30: must be below 1",
        "fractions of the run",
    ),
    ("device=gpu", "device=gpu: one of auto, cpu, cuda, cuda:N or mps"),
    ("device=cuda:x", "device=cuda:x: one of auto, cpu, cuda, cuda:N or mps"),
    # Right one by one, wrong together.
    ("model=resnet20 depth=21", "depth=21 is no CIFAR ResNet", "6n+2", "20 or 26"),
    ("model=resnet20 block=bottleneck depth=32", "depth=32 is no CIFAR ResNet", "9n+2", "29 or 38"),
    ("model=resnet18 depth=20", "depth=20 is no ImageNet ResNet", "take 18", "34, 50, 101, 152"),
    ("model=resnet depth=0", "depth=0", "at least 1 block a stage"),
    ("model=cifar_resnet depth=0", "depth=0", "8 or 14"),
    ("width=33", "width=33", "block=residual", "32 or 34"),
    ("block=conv width=1", "width=1", "block=conv", "multiple of 2: 2"),
    ("block=skip width=15", "width=15", "block=skip", "14 or 16"),
    ("block=bottleneck width=2", "width=2", "block=bottleneck", "multiple of 4: 4"),
    ("dataset.resize=4", "dataset.resize=4", "at least 8x8"),
    ("batch_size=1300", "batch_size=1300", "1293 images of digits"),
    ("batch_size=1438 val_fraction=0", "batch_size=1438", "1437 images of digits"),
    ("trainer.class_weights=balancd", "trainer.class_weights=balancd", "balanced"),
    ("trainer.class_weights=true", "trainer.class_weights=true", "balanced, none"),
    ("trainer.class_weights=[1,2]", "trainer.class_weights", "balanced, none"),
    ("dataset.fraction=0", "dataset.fraction=0: must be above 0"),
    ("dataset.fraction=1.1", "dataset.fraction=1.1: must be at most 1"),
    ("dataset.fraction=half", "dataset.fraction=half: a finite number"),
    ("dataset.fraction=null", "dataset.fraction=null: a finite number"),
    ("dataset.per_class=0", "dataset.per_class=0: must be at least 1"),
    ("dataset.per_class=1.5", "dataset.per_class=1.5: a whole number"),
    ("dataset.per_class=130", "dataset.per_class=130", "1,293 training images", "at most 129"),
    ("dataset.per_class=9 dataset.fraction=0.5", "dataset.fraction=0.5", "take one of them"),
    ("dataset.fraction=0.01", "batch_size=64", "13 images of digits (dataset.fraction=0.01)"),
    ("dataset.per_class=2", "batch_size=64", "20 images of digits (dataset.per_class=2)"),
    ("batch_size=1", "batch_size=1", "norm=batch", "norm=none"),
    ("val_fraction=0.0001", "val_fraction=0.0001", "none of 1437 images"),
    ("trainer.accumulate=33", "trainer.accumulate=33", "batch_size=64", "at most 32"),
    ("trainer.accumulate=65 norm=none", "trainer.accumulate=65", "at most 64"),
    ("trainer.devices=0", "trainer.devices=0: must be at least 1"),
    ("trainer.devices=two", "trainer.devices=two: a whole number", "or auto"),
    ("trainer.devices=1.5", "trainer.devices=1.5: a whole number"),
    ("trainer.devices=null", "trainer.devices=null: a whole number"),
    ("trainer.device=2", "trainer.device", "device"),
    ("trainer.sync_bn=2", "trainer.sync_bn=2: true or false"),
    (
        "trainer.devices=33",
        "trainer.devices=33",
        "batch_size=64",
        "two images a device",
        "at most 32",
    ),
    ("trainer.devices=65 norm=none", "trainer.devices=65", "one image a device", "at most 64"),
    (
        "trainer.devices=2 trainer.accumulate=17",
        "trainer.accumulate=17",
        "batch_size=64",
        "at most 16",
    ),
    ("trainer.early_stop=3 val_fraction=0", "trainer.early_stop=3", "val_fraction above 0"),
    ("evaluator.split=val val_fraction=0", "evaluator.split=val", "val_fraction above 0"),
    ("evaluator.split=train", "evaluator.split=train", "test, val"),
    ("epochs=3 steps=10", "epochs=3: steps=10 is the run's length here", "steps=null"),
    ("experiment=he2016_resnet20 epochs=3", "epochs=3: steps=64000", "steps=null"),
    ("study=x", "study=x: is of a study; add -m"),
    ("hydra.mode=MULTIRUN", "hydra.mode=MULTIRUN: a sweep is asked for by -m"),
    ("match=params target=2k width=8", "width=8: match=params chooses the width"),
    ("on_error=stop", "on_error=stop: is of a study", "sweep=NAME"),
    ("augment.flip=random", "augment.flip=random", "digits", "auto or none"),
    ("evaluator.tta=flip", "evaluator.tta=flip", "digits", "none"),
    ("augment.cutout=8", "augment.cutout=8", "below the size of the image, 8"),
    ("augment.crop=32 dataset=cifar10", "augment.crop=32", "below the size of the image, 32"),
    ("optimizer.momentum=0", "optimizer.nesterov=true", "optimizer.momentum above 0"),
    (
        "scheduler=multistep scheduler.milestones=[0.75,0.5]",
        "scheduler.milestones=[0.75, 0.5]: must increase",
    ),
    (
        "scheduler=multistep scheduler.milestones=[0.5,0.5]",
        "scheduler.milestones=[0.5, 0.5]: must increase",
    ),
    (
        "resume=outputs/x init_from=outputs/y",
        "init_from=outputs/y",
        "resume=outputs/x",
        "one of them",
    ),
    ("dataset.classes=[cat]", "dataset.classes=['cat']", "at least 2"),
    (
        "dataset.classes=[a,a,a,d,e,f,g,h,i,j]",
        "'a' stands for the labels 0, 1, 2; each class needs a name of its own",
    ),
    ("dataset.classes=[a,b,'c ',d,e,f,g,h,i,' c']", "'c' stands for the labels 2, 9;"),
    ("dataset.classes=[a,b,'c  d',d,e,f,g,h,i,'c d']", "'c d' stands for the labels 2, 9;"),
    (
        "dataset.classes=[accuracy,b,c,d,e,f,g,h,i,j]",
        "'accuracy' is another row of the report; take another name, such as accuracy_class",
    ),
    ("dataset.classes=[a,'macro avg',c,d]", "'macro avg' is another row", "macro_avg_class"),
    (
        "dataset.classes=[a,'weighted  avg',c,d]",
        "'weighted  avg' is another row",
        "weighted_avg_class",
    ),
    # Hydra's grammar, where it says no or where we do
    ("+lr=0.1", "did you mean optimizer.lr?"),
    ("+foo=1", "foo: no such key"),
    ("++epochs=3", "write it without +, epochs=3"),
    ("+model=resnet", "write it without +, model=resnet"),
    ("~optimizer.lr", "~optimizer.lr: keys cannot be removed"),
    ("~experiment", "~experiment: keys cannot be removed"),
    ("block=conv,skip", "block=conv,skip: several values are a sweep; add -m"),
    ("depth=range(2,5)", "add -m"),
    ("model=glob(resnet*)", "add -m"),
    ("name=a(b", "name=a(b: the value cannot be read", "\"name='a(b'\""),
    ("out=runs/x=1", "out=runs/x=1: the value cannot be read", "\"out='runs/x=1'\""),
    ("name=${seed", "name=${seed: the value cannot be read"),
    ("name=${sead}", "name", "'sead' not found"),
    ("depth", "depth: a value is missing; write depth=VALUE"),
    ("resnet20", "resnet20: a key is missing; write model=resnet20"),
    ("dpeth", "dpeth: no such key", "did you mean depth?"),
    ("=3", "=3: a key is missing"),
    ("block.name=skip", "block.name=skip", "write block=skip"),
    ("dataset@x=mnist", "dataset@x=mnist", "write dataset=mnist"),
    ("optimizer={lr:0.1}", "optimizer={'lr': 0.1}", "adam, adam_1e-4, adamw, muon"),
    ("evaluator=flip", "evaluator=flip: a group of keys", "evaluator.tta"),
    ("block=[conv,skip]", "block=['conv', 'skip']", "choices: "),
    ("block=", "block=:", "choices: "),
    ("model=null", "model=null", "deepcnn"),
    ("experiment=null", "experiment=null: leave it out"),
    ("epochs=", "epochs=: a whole number"),
    ("name=", "name=: text"),
    ("out=", "out=: text"),
    ("hydra.foo=3", "hydra.foo=3: nothing here reads it; leave it out"),
    ("hydra/launcher=zzz", "hydra/launcher=zzz: no such launcher; choices: basic, joblib"),
    ("hydra=3", "hydra: no such key"),
]


@pytest.mark.parametrize(
    ("command", "fragments"),
    [(row[0], row[1:]) for row in REFUSED],
    ids=[row[0] for row in REFUSED],
)
def test_a_bad_command_line_is_refused_in_one_line(
    command: str, fragments: tuple[str, ...]
) -> None:
    (line,) = refusal(command)
    for fragment in fragments:
        assert fragment in line
    advice = line
    for text in command.split():
        # The user's own words are no advice.
        advice = advice.replace(text, "")
    assert not HYDRAS_ADVICE.search(advice), line


def test_all_mistakes_are_named_at_once_one_line_each() -> None:
    lines = refusal("depth=foo epochs=0 blok=x lr=3 model=resnt optimizer.lr=nan +seed=1")
    assert len(lines) == 7
    for start in (
        "depth=foo:",
        "epochs=0:",
        "blok:",
        "lr:",
        "model=resnt:",
        "optimizer.lr=nan:",
        "+seed=1:",
    ):
        assert sum(line.startswith(start) for line in lines) == 1
    # Rules between keys are checked once each key is right.
    lines = refusal("model=resnet20 depth=21 batch_size=100000 augment.cutout=99")
    assert [line.split()[0].split(":")[0] for line in lines] == [
        "depth=21",
        "batch_size=100000",
        "augment.cutout=99",
    ]


SWEEPS: list[tuple[str, list[str]]] = [
    ("-m block=conv,skp", ["block=skp: no such block; did you mean skip?"]),
    ("-m blok=conv,skip", ["blok: no such key; did you mean block?"]),
    (
        "-m model=resnet20 depth=range(20,24)",
        ["depth=21 is no", "depth=22 is no", "depth=23 is no"],
    ),
    ("-m depth=2,x,-4", ["depth=x: a whole number", "depth=-4: must be at least 0"]),
    ("-m epochs=80k,1e5,3x", ["epochs=3x: a whole number"]),
    ("-m depth=choice(1,2,y)", ["depth=y: a whole number"]),
    ("-m optimizer=sgd,adam optimizer.lr=nan,0.1", ["optimizer.lr=nan: a finite number"]),
    (
        "-m optimizer=sgd,adam optimizer.momentum=0.5",
        ["optimizer.momentum: optimizer=adam has no such key"],
    ),
    (
        "-m model=resnet20,resnet18 depth=20,34",
        ["depth=34 is no CIFAR ResNet", "depth=20 is no ImageNet ResNet"],
    ),
    ("-m model=glob(resnet*) depth=20", ["depth=20 is no ImageNet ResNet"]),
    ("-m model=glob(zzz*)", ["model=glob(zzz*): fits no option; choices: airbench"]),
    ("-m depth=glob(*)", ["depth=glob(*): glob picks options of a group"]),
    ("-m depth=range(2,2)", ["depth=range(2,2): a range without a value"]),
    ("-m depth=range(2,4,0)", ["depth=range(2,4,0): a range without a value"]),
    (
        "-m seed=range(0,100000000)",
        ["seed=range(0,100000000): 100,000,000 values; a sweep takes at most 10,000"],
    ),
    # A sweep of more runs than are checked whole.
    ("-m seed=range(0,600) width=range(31,33)", ["width=31: block=residual"]),
    ("-m optimizer.lr=interval(0.01,0.1)", ["optimizer.lr=interval(0.01,0.1): an interval is for"]),
    ("-m experiment=resnet_mnist,null", ["experiment=null: leave it out"]),
    ("-m out=x depth=2,4", ["out=x: the runs of a sweep get folders of their own"]),
    ("-m +block=conv,skip", ["+block=conv,skip: write it without +"]),
]


@pytest.mark.parametrize(("command", "starts"), SWEEPS, ids=[command for command, _ in SWEEPS])
def test_every_value_of_a_sweep_is_checked(command: str, starts: list[str]) -> None:
    lines = refusal(command)
    assert len(lines) == len(starts), lines
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(start)
        assert not HYDRAS_ADVICE.search(line.replace(command.split()[1], ""))


def test_good_sweeps_pass() -> None:
    for sweep in (
        "block=conv,residual,skip depth=2,6,18 seed=0,1,2",
        "model=glob(resnet*)",
        "seed=range(0,20) optimizer.lr=0.1,1e-2",
    ):
        overrides.check(sweep.split(), multirun=True)
    overrides.check(["name='a,b'", "depth=2,4"], multirun=True)
    overrides.check(["block=conv"], multirun=True)
    overrides.check(["hydra/launcher=basic", "hydra.job.chdir=false"], multirun=True)


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("epochs=80k", "epochs", 80_000),
        ("epochs=1e5", "epochs", 100_000),
        ("epochs=1.5K", "epochs", 1_500),
        ("epochs=3.0", "epochs", 3),
        ("batch_size=1e2", "batch_size", 100),
        ("steps=1_000", "steps", 1_000),
        ("steps=2M", "steps", 2_000_000),
        ("steps='1_000'", "steps", 1_000),
        ("steps=null", "steps", None),
        ("seed=9223372036854775807", "seed", 2**63 - 1),
        # The number makes no detour over a float.
        ("seed='9007199254740993'", "seed", 2**53 + 1),
        ("optimizer.lr=1e-4", "optimizer.lr", 1e-4),
        ("optimizer.lr=1", "optimizer.lr", 1.0),
        ("optimizer.lr='0.1'", "optimizer.lr", 0.1),
        ("shortcut=False", "shortcut", False),
        ("trainer.amp=off", "trainer.amp", "off"),
        ("trainer.clip=null", "trainer.clip", None),
        ("name=3", "name", "3"),
        ("name='a, (b) = c'", "name", "a, (b) = c"),
        ("name=${seed}", "name", "0"),
        ("device=cuda:1", "device", "cuda:1"),
        # Deep_CNN may have no block.
        ("depth=0", "depth", 0),
        ("width=${depth}", "width", 6),
        ("evaluator={tta:none}", "evaluator.tta", "none"),
    ],
)
def test_what_is_accepted_and_what_becomes_of_it(text: str, path: str, value: object) -> None:
    overrides.check([text], multirun=False)
    found = flat(compose(text))[path]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "command",
    [
        "model=resnet20 block=bottleneck depth=20",
        # In He's networks the width is the inner one.
        "model=resnet18 block=bottleneck depth=101 width=2",
        "block=residual_down width=15",
        "block=preact width=15",
        "augment.flip=random dataset=cifar10",
        "evaluator.tta=flip dataset=fashion_mnist",
        "batch_size=1293",
        "batch_size=1 norm=none",
        "trainer.accumulate=32",
        "init_from=outputs/x resume=never",
        "optimizer.momentum=0 optimizer.nesterov=false",
        "scheduler=multistep scheduler.milestones=[0.2,0.4,0.9]",
        "depth=3 depth=4",
    ],
)
def test_bounds_themselves_are_accepted(command: str) -> None:
    overrides.check(command.split(), multirun=False)


# --------------------------------------------------------------------------------------------------
# Broken presets


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the checks read a copy of conf/, which may be broken."""
    folder = tmp_path / "conf"
    shutil.copytree(paths.conf_folder(), folder)
    monkeypatch.setattr(composition, "conf_folder", lambda: folder)
    return folder


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("like", "option", "schema"),
    [
        ("optimizer/adamw", "lion", "Adam"),
        ("optimizer/sgd", "momentum_only", "Sgd"),
        ("scheduler/cosine", "exponential", "Cosine"),
        ("scheduler/multistep", "staircase", "Multistep"),
        ("model/airbench96", "airbench97", "Airbench"),
        ("block/skip", "dense", "Block"),
        ("dataset/digits", "letters", "Dataset"),
    ],
)
def test_an_option_with_the_keys_of_another_needs_only_its_file(
    like: str, option: str, schema: str, conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presets, "conf_folder", lambda: conf)
    group, _, known = like.partition("/")
    text = (conf / f"{like}.yaml").read_text().replace(f"name: {known}\n", f"name: {option}\n")
    (conf / group / f"{option}.yaml").write_text(text)
    more = ["dataset=cifar10"] if group == "model" else []
    tree = dataclasses.asdict(compose(f"{group}={known}", *more))
    tree[group]["name"] = option
    made = getattr(validate.check(tree), group)
    assert (type(made).__name__, made.name) == (schema, option)
    tree[group]["name"] = f"{option}x"
    with pytest.raises(UsageError, match=rf"^{group}\.name={option}x: did you mean {option}\?"):
        validate.check(tree)


def test_a_preset_that_cannot_be_read_hides_no_other_name(
    conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presets, "conf_folder", lambda: conf)
    before = set(presets.keys_by_name("block"))
    shutil.copytree(conf, conf.with_name("other"))
    monkeypatch.setattr(presets, "conf_folder", lambda: conf.with_name("other"))
    for name, content in (
        ("a", b"name: [a"),
        ("b", b"name: \xff"),
        ("c", b"- name: c"),
        ("d", b""),
    ):
        (conf.with_name("other") / f"block/{name}.yaml").write_bytes(content)
    assert set(presets.keys_by_name("block")) == before


BROKEN = [
    (
        "scheduler/onecycle.yaml",
        "warmup: 0.2",
        "warmup: lots",
        "scheduler.warmup=lots: a finite number",
    ),
    ("block/residual.yaml", "bias: true", "bias: perhaps", "block.bias=perhaps: true or false"),
    ("optimizer/sgd.yaml", "lr: 0.05", "lr: -0.05", "optimizer.lr=-0.05: must be above 0"),
    (
        "optimizer/sgd.yaml",
        "lr: 0.05",
        "lr: 0.05\nbetas: [0.9, 0.9]",
        "optimizer.betas: sgd has no such key",
    ),
    ("optimizer/sgd.yaml", "name: sgd", "name: sgdd", "optimizer.name=sgdd: did you mean sgd?"),
    (
        "optimizer/sgd.yaml",
        "momentum: 0.9\n",
        "",
        "optimizer.momentum: missing: share of the last update",
    ),
    ("optimizer/sgd.yaml", "momentum: 0.9", "momentum: [0.9", "sgd.yaml"),
    ("optimizer/sgd.yaml", "lr: 0.05", "lr: 0.05\nlr: 0.06", "duplicate key lr"),
    (
        "trainer/default.yaml",
        'amp: "off"',
        "amp: off",
        "trainer.amp=false: did you mean off? Choices: bf16, fp16, off",
    ),  # YAML's off is a bool
    ("trainer/default.yaml", "clip: null", "clip: no", "trainer.clip=false: a finite number"),
    (
        "model/deepcnn.yaml",
        "name: deepcnn",
        "name: deepcn",
        "model.name=deepcn: did you mean deepcnn?",
    ),
    (
        "dataset/digits.yaml",
        "mean: [0.3053]",
        "mean: [0.3, 0.3]",
        "dataset.mean=[0.3, 0.3]: 1 values are expected",
    ),
    (
        "config.yaml",
        "tta: none",
        "tta: none\n  ttb: 1",
        "evaluator.ttb: no such key; did you mean evaluator.tta?",
    ),
    ("config.yaml", "- augment: none", "- augment: nonne", "augment/nonne"),
]


@pytest.mark.parametrize(
    ("file", "old", "new", "fragment"), BROKEN, ids=[f"{row[0]}: {row[2]!r}" for row in BROKEN]
)
def test_a_mistake_in_a_preset_is_one_line_that_names_its_key(
    conf: Path, file: str, old: str, new: str, fragment: str
) -> None:
    edit(conf / file, old, new)
    (line,) = refusal("")
    assert fragment in line
    assert not HYDRAS_ADVICE.search(line)


def test_a_misspelt_key_of_a_preset_is_named_and_so_is_what_is_then_missing(conf: Path) -> None:
    edit(conf / "optimizer/sgd.yaml", "momentum: 0.9", "momentun: 0.9")
    misspelt, missing = refusal("")
    assert misspelt.startswith("optimizer.momentun: sgd has no such key; did you mean momentum?")
    assert missing.startswith("optimizer.momentum: missing")
    edit(conf / "dataset/digits.yaml", "epochs: 20", "epoch: 20")
    assert [line.split(":")[0] for line in refusal("")] == [
        "epoch",
        "optimizer.momentun",
        "optimizer.momentum",
        "epochs",
    ]


def test_what_conf_lacks_is_missing_even_where_the_command_line_states_it(conf: Path) -> None:
    edit(conf / "config.yaml", "  - augment: none\n", "")
    assert refusal("augment.crop=2") == ["augment: missing: a group of keys"]
    edit(conf / "config.yaml", "seed: 0\n", "")
    assert [line.split(":")[0] for line in refusal("seed=1")] == ["augment", "seed"]


def test_numbers_in_a_preset_need_no_dot(conf: Path) -> None:
    edit(conf / "optimizer/sgd.yaml", "lr: 0.05", "lr: 5e-2")
    edit(conf / "dataset/digits.yaml", "epochs: 20", "epochs: 2e1")
    overrides.check([], multirun=False)


# --------------------------------------------------------------------------------------------------
# Identity

# The identities of `train` without overrides, and of `train trainer=default`, which that was until
# 0.2. They may change only with a release that changes the
# numbers of this very run: another default in conf/, a renamed key, or a key without `neutral`.
# Then resume=auto no longer finds the stored runs of older releases.
FIRST_IDENTITY = "65eb556ed17d400865046383fd41c613deb85521dc79944a27b369d44ed4784b"
DEFAULT_IDENTITY = "6712031a5d56227c7f32edb3513f62ffd5112c2b8df0362d6514259375491164"

NOT_OF_THE_NUMBERS = {
    "dataset.root": "dataset.root=/data",
    "trainer.max_time": "trainer.max_time=5",
    "trainer.save_every": "trainer.save_every=2",
    "trainer.log_every": "trainer.log_every=7",
    "trainer.threads": "trainer.threads=2",
    "trainer.keep_allocator": "trainer.keep_allocator=false",
    "device": "device=cpu",
    "out": "out=elsewhere",
    "name": "name=mine",
    "resume": "resume=never",
    "trainer.probe": "trainer.probe=updates",
    "trainer.probe_every": "trainer.probe_every=3",
    "pictures": "pictures=never",
    "study": "study=mine",
    "jobs": "jobs=2",
    "retries": "retries=1",
    "on_error": "on_error=stop",
    "force": "force=true",
}
# Only the width that they have chosen counts. They come together.
BUDGET = {"match", "target"}


def default(*texts: str) -> Config:
    """Compose `train trainer=default` with more overrides."""
    return compose("trainer=default", *texts)


def test_the_identity_of_the_default_run_is_pinned() -> None:
    assert identity(compose()) == FIRST_IDENTITY
    assert identity(default()) == DEFAULT_IDENTITY


def test_the_identity_forgets_what_does_not_change_the_numbers() -> None:
    assert {path for path, f in keys.leaves().items() if not f.metadata["changes_numbers"]} == {
        *NOT_OF_THE_NUMBERS,
        *BUDGET,
        *("dataset.list", "dataset.skip_unreadable"),
    }
    own = [
        identity(compose("dataset=folder", *texts))
        for texts in (
            ("dataset.root=a",),
            ("dataset.root=b", "dataset.skip_unreadable=true"),
            ("dataset.list=a.csv",),
        )
    ]
    assert len(set(own)) == 1
    assert identity(default("match=params", "target=80k")) == DEFAULT_IDENTITY
    for path, text in NOT_OF_THE_NUMBERS.items():
        changed = default(text)
        assert flat(changed)[path] != flat(default())[path]
        assert identity(changed) == DEFAULT_IDENTITY


@pytest.mark.parametrize(
    "text",
    [
        *(
            "optimizer.lr=0.051",
            "seed=1",
            "epochs=21",
            "block=conv",
            "steps=10",
            "shortcut=false",
            "trainer=debug",
            "init_from=x",
        ),
        *("trainer.devices=2", "trainer.sync_bn=true"),
        *("dataset.fraction=0.5", "dataset.per_class=20", "trainer.class_weights=balanced"),
    ],
)
def test_the_identity_changes_with_the_numbers(text: str) -> None:
    assert identity(compose(text)) != DEFAULT_IDENTITY


def test_the_identity_is_of_values_not_of_their_spelling() -> None:
    assert (
        identity(default("epochs=0.02k", "optimizer.lr=5e-2", "model=deepcnn", "seed='0'"))
        == DEFAULT_IDENTITY
    )


def test_the_identity_is_sha256_of_canonical_json_without_neutral_keys() -> None:
    kept = {
        path: value
        for path, value in flat(default()).items()
        if path not in {*NOT_OF_THE_NUMBERS, *BUDGET}
    }
    neutral = [
        "trainer.on_nonfinite",
        "trainer.devices",
        "trainer.sync_bn",
        "trainer.compile_mode",
        "trainer.ema_warmup",
        "trainer.lookahead",
        "trainer.lookahead_decay",
        "optimizer.norm_scale",
        "trainer.select",
        "trainer.select_width",
        "evaluator.split",
    ]
    neutral += ["dataset.fraction", "dataset.per_class", "trainer.class_weights"]
    for path in [*neutral, "augment.padding_mode", "augment.cutout_inside"]:
        del kept[path]
    assert (
        identity(default()) == hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaterTrainer(Trainer):
    """The trainer of a later release, with one key more."""

    later: int = key("something new; 0: as before", at_least=0, neutral=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaterConfig(Config):
    """The config of a later release."""

    trainer: LaterTrainer


def test_a_key_added_later_at_its_neutral_default_changes_no_identity(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = default()
    later = keys.leaves(LaterConfig)
    assert set(later) - set(keys.leaves()) == {"trainer.later"}
    monkeypatch.setattr(keys, "leaves", lambda: later)

    def with_later(later: int) -> Config:
        values: dict[str, Any] = {
            f.name: getattr(before, f.name) for f in dataclasses.fields(Config)
        }
        values["trainer"] = LaterTrainer(**dataclasses.asdict(before.trainer), later=later)
        return LaterConfig(**values)

    assert identity(with_later(0)) == DEFAULT_IDENTITY
    assert identity(with_later(1)) != DEFAULT_IDENTITY


# --------------------------------------------------------------------------------------------------
# Stored configs


@pytest.mark.parametrize(
    "model", sorted(path.stem for path in (paths.conf_folder() / "model").glob("*.yaml"))
)
def test_a_config_that_is_stored_and_loaded_is_the_same(model: str, tmp_path: Path) -> None:
    config = compose(
        f"model={model}",
        "optimizer=adam",
        "scheduler=multistep",
        "dataset=cifar100",
        "trainer.clip=1e-4",
    )
    path = tmp_path / "config.yaml"
    path.write_text(dump(config))
    loaded = load(path)
    assert loaded == config
    assert flat(loaded) == flat(config)
    assert [type(value) for value in flat(loaded).values()] == [
        type(value) for value in flat(config).values()
    ]
    assert path.read_text().splitlines()[0].endswith(f" identity {identity(config)}")


@pytest.mark.parametrize(
    "name",
    [
        "on",
        "off",
        "yes",
        "no",
        "null",
        "~",
        "1e-4",
        "1e5",
        "012",
        "1:30",
        "2026-01-31",
        "=",
        "a: b",
        "# a",
        "- a",
        "\u00e9\u2028\n",
        "'",
        "\\",
        "*x",
    ],
)
def test_a_name_that_yaml_would_read_otherwise_is_stored_as_text(name: str, tmp_path: Path) -> None:
    config = dataclasses.replace(compose(), name=name)
    path = tmp_path / "config.yaml"
    path.write_text(dump(config), encoding="utf-8")
    assert load(path) == config


def stored(**changes: object) -> dict[str, Any]:
    """Return the default run's stored config with keys changed: optimizer__lr is optimizer.lr."""
    tree = read_tree(write(dump(compose())))
    for name, value in changes.items():
        group, _, leaf = name.rpartition("__")
        holder = tree[group] if group else tree
        holder[leaf] = value
    return tree


def write(text: str | bytes) -> Path:
    path = Path("stored.yaml")
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"epochs": "three"}, "epochs=three: a whole number"),
        ({"trainer__amp": False}, "trainer.amp=false: did you mean off? Choices: bf16, fp16, off"),
        ({"shortcut": "yes"}, "shortcut=yes: true or false"),
        ({"optimizer__lrr": 0.1}, "optimizer.lrr: sgd has no such key; did you mean lr?"),
        ({"optimizer": 3}, "optimizer=3: a group of keys"),
        ({"optimizer": ["sgd"]}, "optimizer=['sgd']: a group of keys"),
        ({"block__name": ["conv"]}, "block.name=['conv']: did you mean conv?"),
        ({"optimizer__name": ["sgd"]}, "optimizer.name=['sgd']: "),
        ({"scheduler__name": None}, "scheduler.name=null: choices: constant, cosine"),
        ({"epoch": 3}, "epoch: no such key; did you mean epochs?"),
        ({"1": 3}, "1: no such key"),
        ({"dataset__mean": 0.3}, "dataset.mean=0.3: a list"),
        ({"name": True}, "name=true: text"),
        ({"name": "a${b}"}, "an interpolation"),
        ({"depth": -1}, "depth=-1: must be at least 0"),
        ({"width": 33}, "width=33: block=residual"),
    ],
)
def test_a_stored_config_passes_the_same_check(change: dict[str, object], fragment: str) -> None:
    path = write(yaml.safe_dump(stored(**change)))
    with pytest.raises(UsageError) as caught:
        load(path)
    (line,) = str(caught.value).split("\n")
    assert line.startswith(f"{path}: ")
    assert fragment in line


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("- a\n- b\n", "a mapping of keys is expected"),
        ("", "a mapping of keys is expected"),
        ("just words", "a mapping of keys is expected"),
        (b"name: \xff\xfe\n", "cannot be read"),
        ("name: [1\n", "cannot be read"),
        ("name: !!python/object/apply:os.system [ls]\n", "cannot be read"),
        ("seed: ${oc.env:HOME}\n", "${...}"),
    ],
)
def test_a_stored_config_that_is_none_is_refused_by_name(text: str | bytes, fragment: str) -> None:
    path = write(text)
    with pytest.raises(UsageError, match=f"^{re.escape(str(path))}: ") as caught:
        load(path)
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=r"^nowhere\.yaml: cannot be read"):
        load(Path("nowhere.yaml"))


def test_a_stored_config_written_by_hand_may_say_1e_minus_4() -> None:
    text = dump(compose()).replace("lr: 0.05", "lr: 1e-4").replace("epochs: 20", "epochs: 80k")
    # Without a dot both are text in YAML 1.1.
    loaded = load(write(text))
    assert (loaded.optimizer.lr, loaded.epochs) == (1e-4, 80_000)


def test_values_that_change_on_resume_pass_the_same_check() -> None:
    config = compose()
    changed = overrides.apply_to_stored(config, ["epochs=80k", "optimizer.lr=1e-3", "name=again"])
    assert (changed.epochs, changed.optimizer.lr, changed.name) == (80_000, 1e-3, "again")
    # A key that is given with its own value is not changed.
    assert overrides.apply_to_stored(config, ["depth=6", "batch_size=64"]) == config
    with pytest.raises(UsageError) as caught:
        overrides.apply_to_stored(
            config, ["depth=7", "model=resnet", "epoch=3", "seed=1", "optimizer=adam"]
        )
    lines = str(caught.value).split("\n")
    assert [line.split(":")[0] for line in lines] == [
        "depth=7",
        "model=resnet",
        "epoch",
        "seed=1",
        "optimizer=adam",
    ]
    assert "depth=6" in lines[0]
    with pytest.raises(UsageError, match=r"epochs=0: must be at least 1"):
        overrides.apply_to_stored(config, ["epochs=0"])


@pytest.mark.parametrize("name", [" ", "a\nb", "\t", "a\x00", "\u2028", "\u00a0"])
def test_a_class_whose_name_cannot_be_read_is_refused(name: str) -> None:
    tree = dataclasses.asdict(compose())
    tree["dataset"]["classes"] = [name, *tree["dataset"]["classes"][1:]]
    with pytest.raises(UsageError, match="cannot be read in a report") as caught:
        validate.check(tree)
    assert "\n" not in str(caught.value)


def test_classes_that_look_alike_are_equal() -> None:
    tree = dataclasses.asdict(compose())
    tree["dataset"]["classes"] = ["caf\u00e9", "cafe\u0301", *tree["dataset"]["classes"][2:]]
    with pytest.raises(UsageError, match="stands for the labels 0, 1;"):
        validate.check(tree)
    tree["dataset"]["classes"][1] = "Caf\u00e9"
    assert validate.check(tree).dataset.classes[1] == "Caf\u00e9"
