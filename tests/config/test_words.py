"""Words that are none of ours: those of other scripts, slips of the keyboard, things not here."""

import ast
import re
from pathlib import Path

import pytest

from helpers import Cli
from skiplab.cli.skiplab import VERBS
from skiplab.config import lexicon, overrides, validate, vocabulary
from skiplab.config.keys import leaves, unknown_key
from skiplab.errors import UsageError
from skiplab.paths import groups

# Keys of the lab, the notebook, timm, torchvision, Keras, Lightning and other scripts = ours.
KEYS = """
num_blocks=depth ch_width=width layer_type=block block_type=block lr=optimizer.lr
learning_rate=optimizer.lr base_lr=optimizer.lr bs=batch_size batch=batch_size bsz=batch_size
batchsize=batch_size train_batch_size=batch_size wd=optimizer.weight_decay
weight-decay=optimizer.weight_decay weight_decay=optimizer.weight_decay num_epochs=epochs
n_epochs=epochs max_epochs=epochs epoch=epochs gpu=device cuda=device gpu_indx=device
accelerator=device gpus=trainer.devices dropout_rate=model.dropout drop=model.dropout
smoothing=trainer.label_smoothing ema_decay=trainer.ema grad_clip=trainer.clip
clip_grad=trainer.clip max_grad_norm=trainer.clip gradient_clip_val=trainer.clip arch=model
net=model network=model architecture=model model_name=model data=dataset dataset_name=dataset
data_dir=dataset.root dataset_path=dataset.root root=dataset.root data_set_root=dataset.root
save_dir=out output_dir=out log_dir=out exp_name=name run_name=name experiment_name=name
resume_from=resume checkpoint=resume ckpt_path=resume start_from_checkpoint=resume
pretrained=init_from precision=trainer.amp fp16=trainer.amp=fp16 bf16=trainer.amp=bf16
use_amp=trainer.amp random_seed=seed manual_seed=seed max_steps=steps optim=optimizer opt=optimizer
sched=scheduler lr_scheduler=scheduler warmup_epochs=scheduler.warmup aug=augment hflip=augment.flip
accumulate_grad_batches=trainer.accumulate patience=trainer.early_stop print_freq=trainer.log_every
log_every_n_steps=trainer.log_every check_val_every_n_epoch=trainer.eval_every
sync_batchnorm=trainer.sync_bn n_jobs=jobs bn=norm Seed=seed BATCH_SIZE=batch_size
batchSize=batch_size Optimizer.LR=optimizer.lr optimizer.wd=optimizer.weight_decay model.depth=depth
trainer.max_epochs=epochs training.lr=optimizer.lr epochs.foo=epochs dpeth=depth sheduler=scheduler
learning_rat=optimizer.lr channels=width debug=trainer=debug
"""
# By group or key: word=option.
OPTIONS = {
    "model": (
        "Deep_CNN=deepcnn ResNet=resnet resnt=resnet ResNet18=resnet18 resnet_20=resnet20 "
        "resnet_cifar=cifar_resnet"
    ),
    "block": (
        "ConvBlock=conv ResDownBlock=residual_down SkipBlock=skip BasicBlock=basic "
        "Bottleneck=bottleneck plain=conv Residual=residual"
    ),
    "dataset": (
        "CIFAR10=cifar10 CIFAR-100=cifar100 MNIST=mnist minst=mnist "
        "FashionMNIST=fashion_mnist fmnist=fashion_mnist KMNIST=kmnist SVHN=svhn STL10=stl10 "
        "stl-10=stl10 emnist-letters=emnist_letters"
    ),
    "optimizer": "Adam=adam AdamW=adamw SGD=sgd sdg=sgd momentum=sgd",
    "scheduler": (
        "StepLR=multistep MultiStepLR=multistep CosineAnnealingLR=cosine OneCycleLR=onecycle "
        "cos=cosine LinearLR=linear"
    ),
    "trainer": "fast_dev_run=debug",
    "norm": "bn=batch BatchNorm2d=batch None=none",
    "init": "kaiming=he kaiming_normal=he",
    "trainer.amp": "16=fp16 half=fp16 bfloat16=bf16 bf16-mixed=bf16 fp32=off",
    "match": "flops=macs parameters=params",
    "evaluator.split": "valid=val validation=val",
    "augment.flip": "horizontal=random",
}
NOT_HERE = {
    "model": (
        "densenet densenet121 vgg16 resnext50 wide_resnet50_2 alexnet vit efficientnet "
        "seresnet50 resnet10"
    ),
    "optimizer": "adan nadam radam adamax adamp rmsprop adagrad lion lamb",
    "dataset": "caltech101 imagenet celeba food101 qmnist",
    "scheduler": "ReduceLROnPlateau exponential poly cyclic",
    "block": "se mbconv dense",
    "norm": "layernorm groupnorm",
    "init": "xavier glorot",
    "augment": "mixup cutmix autoaugment",
}
PAIRS = [tuple(pair.split("=", 1)) for pair in KEYS.split()]


@pytest.mark.parametrize(("word", "key"), PAIRS, ids=[word for word, _ in PAIRS])
def test_a_word_of_other_scripts_leads_to_our_key(word: str, key: str) -> None:
    line = unknown_key(word)
    assert line.startswith(f"{word}: no such key")
    assert line.endswith(f"did you mean {key}?")


@pytest.mark.parametrize(
    "word",
    [
        "num_workers",
        "workers",
        "pin_memory",
        "wandb",
        "loss_fun",
        "num_classes",
        "kernel_size",
        "mixup",
        "download",
    ],
)
def test_a_key_that_nothing_of_ours_stands_for_says_why(word: str) -> None:
    line = unknown_key(word)
    assert "did you mean" not in line
    assert "train --help" not in line


@pytest.mark.parametrize(
    "word", ["xyz", "foo.bar", "mode", "acc", "test", "time", "path", "rank", "sed", "type", "id"]
)
def test_no_key_is_guessed_where_that_is_unsure(word: str) -> None:
    assert (
        unknown_key(word)
        == f"{word}: no such key; `train --help` lists the groups, `train --cfg job` all keys"
    )


@pytest.mark.parametrize("group", OPTIONS)
def test_a_word_of_other_scripts_leads_to_our_option(group: str) -> None:
    for pair in OPTIONS[group].split():
        word, option = pair.split("=")
        with pytest.raises(UsageError) as caught:
            overrides.check([f"{group}={word}"], multirun=False)
        assert f"did you mean {option}?" in str(caught.value), word


@pytest.mark.parametrize("group", NOT_HERE)
def test_what_is_not_here_is_answered_with_the_choices(group: str) -> None:
    for word in NOT_HERE[group].split():
        with pytest.raises(UsageError) as caught:
            overrides.check([f"{group}={word}"], multirun=False)
        assert "did you mean" not in str(caught.value), word
        assert "choices: " in str(caught.value), word


def test_a_word_with_two_meanings_tells_both() -> None:
    """ResBlock is a class of the lab and one of the notebook, and each has its own."""
    with pytest.raises(UsageError, match=r"did you mean residual or basic\?"):
        overrides.check(["block=ResBlock"], multirun=False)
    with pytest.raises(UsageError, match=r"did you mean emnist_balanced or emnist_letters\?"):
        overrides.check(["dataset=emnist"], multirun=False)
    with pytest.raises(
        UsageError, match=r"did you mean model=imagenet_resnet depth=101 block=bottleneck\?"
    ):
        overrides.check(["model=resnet101"], multirun=False)
    overrides.check(["model=imagenet_resnet", "depth=101", "block=bottleneck"], multirun=False)


@pytest.mark.parametrize(
    ("word", "device"),
    [
        ("gpu", "cuda"),
        ("GPU", "cuda"),
        ("cuda0", "cuda:0"),
        ("0", "cuda:0"),
        ("gpu:1", "cuda:1"),
        ("CPU", "cpu"),
        ("metal", "mps"),
    ],
)
def test_a_device_by_another_name(word: str, device: str, call: Cli) -> None:
    assert call(f"device={word}")[2].endswith(f"did you mean {device}?\n")
    assert call("evaluate", "x", "--device", word, command="skiplab")[2].endswith(
        f"did you mean {device}?\n"
    )


def test_no_device_is_guessed_for_a_tpu(call: Cli) -> None:
    assert (
        call("device=tpu")[2]
        == "error: device=tpu: one of auto, cpu, cuda, cuda:N or mps is expected\n"
    )


def test_the_vocabulary_names_what_is_here() -> None:
    """Each word leads to a key or an option. None is one of ours, or stands for several keys."""
    known = {*leaves(), *groups()}
    for word, keys in lexicon.KEY_OF.items():
        assert len(keys) == 1, word
        key = re.sub(r" \(.*\)$", "", keys[0])
        assert key.partition("=")[0] in known, word
        if "=" in key:
            overrides.check([key], multirun=False)
        assert word == lexicon.plain(word)
        assert word not in known, word
    choices = {option for options in groups().values() for option in options} | set(lexicon.VERBS)
    for name in ("schema.py", "options.py"):
        module = ast.parse(Path(validate.__file__).with_name(name).read_text())
        choices |= {str(node.value) for node in ast.walk(module) if isinstance(node, ast.Constant)}
    choices |= {
        "params",
        "macs",
        "seconds",
        "cuda",
        "mps",
        *re.findall(
            r'"((?:test|val|train)\.\w+)"',
            Path(validate.__file__).parents[1].joinpath("cli/compare.py").read_text(),
        ),
    }
    for word, options in lexicon.OPTIONS_OF.items():
        assert set(options) <= choices, word
    for needed, text in vocabulary.RECIPES.values():
        assert needed in groups()["model"]
        overrides.check(text.split(), multirun=False)


def test_the_verbs_are_told_apart_from_keys(call: Cli) -> None:
    assert set(lexicon.VERBS) == set(VERBS)
    for verb in lexicon.VERBS:
        assert (
            call(verb)[2] == f"error: {verb}: no such key; skiplab {verb} is a command of its own\n"
        )


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("ls",), "did you mean list?"),
        (("eval",), "did you mean evaluate?"),
        (("plot",), "did you mean draw?"),
        (("tune",), "did you mean search?"),
        (("densenet",), "no such verb; choices: compare"),
        (("resume", "x"), "write train resume=RUN"),
        (("compare", "x", "--metric", "acc"), "--metric acc: did you mean test.accuracy?"),
        (("compare", "x", "--metric", "val_accuracy"), "did you mean val.accuracy?"),
        (
            ("compare", "x", "--by", "num_blocks"),
            "--by num_blocks: no such key; did you mean depth?",
        ),
        (("compare", "x", "--x", "flops"), "--x flops: no such key; did you mean macs?"),
        (("compare", "x", "--x", "ch_width"), "--x ch_width: no such key; did you mean width?"),
        (
            ("compare", "x", "--metrik", "y"),
            "--metrik: skiplab compare has no such option; did you mean --metric?",
        ),
        (
            ("verify", "--kill", "3"),
            "--kill: skiplab verify has no such option; did you mean --kills?",
        ),
        (("verify", "--epochs", "3"), "--epochs: options have no dashes here; write epochs=3"),
        (("verify", "seed=0,1"), "seed=0,1: several values are a sweep; a proof is of one run"),
        (
            ("search", "depth=1,2", "--trials", "x"),
            "--trials x: a whole number from 1 on is expected",
        ),
        (("search", "depth=1,2", "hydra/launcher=basic"), "a search runs its trials itself"),
        (("list", ""), "an empty argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_word_of_skiplab_is_answered_in_one_line(
    arguments: tuple[str, ...], fragment: str, call: Cli
) -> None:
    code, out, err = call(*arguments, command="skiplab")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert fragment in err
