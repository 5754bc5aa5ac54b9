"""Checkpoints: 1,000 broken ones are refused, and none runs foreign code.

Also their generations, what other programs read of them, and old formats, which still load.
"""

import hashlib
import json
import os
import pickle
import random
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings, strategies as st

from helpers import Cli
from skiplab.cli import verify
from skiplab.errors import CheckpointError, FolderError
from skiplab.runs import checkpoint, container, folders

TENSORS = {
    "a/weight": torch.arange(24.0).reshape(2, 3, 4),
    "a/step": torch.tensor(3),
    "b": torch.ones(5, dtype=torch.int64),
}
FACTS = {"progress": {"step": 3}, "rates": [0.1, 1e-9], "none": None}
FIXTURES = Path(__file__).parents[1] / "fixtures"
FORMAT_1, FORMAT_2 = FIXTURES / "format1", FIXTURES / "format2"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    checkpoint.save(tmp_path / "last.safetensors", TENSORS, FACTS)
    return tmp_path / "last.safetensors"


def sealed_1(facts: bytes, body: bytes, *, length: int | None = None) -> bytes:
    """A file of format 1 around any content, its SHA-256 right."""
    content = (len(facts) if length is None else length).to_bytes(8, "little") + facts + body
    return container.MAGIC_1 + hashlib.sha256(content).digest() + content


def sealed_2(rest: bytes, body: bytes, *, length: int | None = None) -> bytes:
    """A file of format 2 around any content, its SHA-256 right."""
    if length is None:
        length = len(container.LEAD) + 64 + len(rest)
    first = length.to_bytes(8, "little") + container.LEAD
    digest = hashlib.sha256(first + b" " * 64 + rest + body).hexdigest().encode()
    return first + digest + rest + body


def with_facts(facts: bytes) -> bytes:
    """A file of format 2 whose facts are any text, without tensors."""
    return sealed_2(b'","facts":' + json.dumps(facts.decode("latin1")).encode() + b"}}", b"")


def refusal(path: Path) -> str:
    """The one line with which a file is refused; both ways of reading it agree."""
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


# --------------------------------------------------------------------------------------------------
# Whole


def test_what_is_saved_is_loaded(path: Path) -> None:
    tensors, facts = checkpoint.load(path)
    assert facts == FACTS == checkpoint.peek(path)
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor)
        assert tensors[name].dtype == tensor.dtype


def test_the_file_is_what_every_safetensors_reader_opens(path: Path) -> None:
    """The tensors start at a multiple of 8 bytes, as the format wishes for mapping them."""
    tensors = safetensors.torch.load_file(path)
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor)
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["facts"]) == FACTS
    assert (metadata["format"], metadata["skiplab"]) == ("pt", "2")
    content = path.read_bytes()
    assert int.from_bytes(content[:8], "little") % 8 == 0
    at = container.DIGEST_AT
    assert metadata["sha256"] == content[at : at + 64].decode() == checkpoint.stated_digest(path)
    blank = content[:at] + b" " * 64 + content[at + 64 :]
    assert hashlib.sha256(blank).hexdigest() == metadata["sha256"]


def test_a_checkpoint_may_hold_no_tensor(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.safetensors", {}, FACTS)
    assert checkpoint.load(tmp_path / "a.safetensors") == ({}, FACTS)
    assert safetensors.torch.load_file(tmp_path / "a.safetensors") == {}


def test_a_save_keeps_the_generation_before(path: Path) -> None:
    checkpoint.save(path, TENSORS, FACTS | {"progress": {"step": 4}})
    assert [checkpoint.peek(each)["progress"]["step"] for each in checkpoint.generations(path)] == [
        4,
        3,
    ]
    assert checkpoint.previous(path).name == "last.prev.safetensors"
    checkpoint.save(path, TENSORS, FACTS | {"progress": {"step": 5}})
    assert [checkpoint.peek(each)["progress"]["step"] for each in checkpoint.generations(path)] == [
        5,
        4,
    ]
    (_, facts), problem = checkpoint.newest(path)
    assert (facts["progress"]["step"], problem) == (5, None)
    path.write_bytes(path.read_bytes()[:-1])
    (_, facts), problem = checkpoint.newest(path)
    assert facts["progress"]["step"] == 4
    assert str(problem).startswith(f"{path}: damaged")
    # A kill between the two renames leaves this.
    path.unlink()
    assert checkpoint.peek_newest(path)["progress"]["step"] == 4


def test_a_save_that_was_cut_off_after_the_link_leaves_nothing_behind(path: Path) -> None:
    """Found by kills: both names are then one file, and a rename between them does nothing."""
    checkpoint.keep(path)
    checkpoint.save(path, TENSORS, FACTS | {"progress": {"step": 4}})
    assert [checkpoint.peek(each)["progress"]["step"] for each in checkpoint.generations(path)] == [
        4,
        3,
    ]
    assert {each.name for each in path.parent.iterdir()} == {
        "last.safetensors",
        "last.prev.safetensors",
    }


def test_no_generation_is_whole(path: Path) -> None:
    for each in (path, checkpoint.previous(path)):
        each.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"last\.safetensors: not a Skiplab checkpoint"):
        checkpoint.newest(path)
    with pytest.raises(CheckpointError, match=r"nowhere\.safetensors: cannot be read"):
        checkpoint.peek_newest(path.with_name("nowhere.safetensors"))


def test_a_write_that_fails_leaves_all_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        FolderError,
        match=r"cannot write last\.safetensors, \d+ bytes are needed \(No space left on device\)",
    ):
        checkpoint.save(path, TENSORS, FACTS | {"progress": {"step": 4}})
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_generations_of_format_1_are_read_and_then_replaced(path: Path) -> None:
    """An earlier release left last.ckpt. It is the newest until this one has saved."""
    one = path.with_suffix(".ckpt")
    content = sealed_1(json.dumps({"step": 1}).encode(), safetensors.torch.save(TENSORS))
    for each in (one, checkpoint.previous(one)):
        each.write_bytes(content)
    assert checkpoint.generations(path) == [path, one, checkpoint.previous(one)]
    path.write_bytes(b"damaged")
    (_, facts), problem = checkpoint.newest(path)
    assert facts == {"step": 1}
    assert problem is not None
    checkpoint.promote(path)
    assert checkpoint.generations(path) == [one, checkpoint.previous(one)]
    checkpoint.save(path, TENSORS, {"step": 2})
    assert checkpoint.generations(path) == [path, one, checkpoint.previous(one)]
    # The state names step 1, so what a cut-off save wrote after it goes.
    checkpoint.restore(path, step=1)
    assert checkpoint.generations(path) == [one, checkpoint.previous(one)]
    for step in (2, 3):
        checkpoint.save(path, TENSORS, {"step": step})
    assert checkpoint.generations(path) == [path, checkpoint.previous(path)]
    assert not one.exists()


def test_best_is_put_back_to_the_generation_that_the_state_names(tmp_path: Path) -> None:
    best = tmp_path / "best.safetensors"
    # No best weights are needed yet.
    checkpoint.restore(best, step=0)
    with pytest.raises(CheckpointError, match=r"missing; it should hold the weights of step 3"):
        checkpoint.restore(best, step=3)
    for step in (3, 6):
        checkpoint.save(best, TENSORS, {"step": step})
    checkpoint.restore(best, step=6)
    assert checkpoint.peek(best)["step"] == 6
    checkpoint.restore(best, step=3)
    assert checkpoint.peek(best)["step"] == 3
    with pytest.raises(CheckpointError, match="step 4"):
        checkpoint.restore(best, step=4)
    # The file of step 3 shows that the steps to come write it again.
    checkpoint.restore(best, step=2)
    best.write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="not a Skiplab checkpoint"):
        checkpoint.restore(best, step=3)


# --------------------------------------------------------------------------------------------------
# Broken


def mutants(content: bytes, chance: random.Random) -> dict[str, bytes]:
    """The same file, broken in every way that disks, transfers and people break files."""
    size = len(content)
    found: dict[str, bytes] = {
        "empty": b"",
        "junk": chance.randbytes(size),
        "text": b"epoch,loss\n1,0.3\n",
        "twice": content * 2,
    }
    for i in range(500):
        at, bit = chance.randrange(size), 1 << chance.randrange(8)
        found[f"bit {i}"] = content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :]
    for i in range(300):
        at = chance.randrange(size)
        found[f"cut {i}"] = content[:at]
    for i in range(100):
        at, length = chance.randrange(size), chance.randrange(1, 64)
        found[f"zeroed {i}"] = (
            content[:at] + bytes(len(content[at : at + length])) + content[at + length :]
        )
    for i in range(100):
        one, other = sorted(chance.sample(range(0, size - 16, 16), 2))
        found[f"swapped {i}"] = (
            content[:one]
            + content[other : other + 16]
            + content[one + 16 : other]
            + content[one : one + 16]
            + content[other + 16 :]
        )
    return {name: mutant for name, mutant in found.items() if mutant != content}


@pytest.mark.parametrize("number", [1, 2])
def test_a_thousand_mutants_are_refused(number: int, path: Path) -> None:
    whole = path.read_bytes()
    if number == 1:
        whole = sealed_1(json.dumps(FACTS).encode(), safetensors.torch.save(TENSORS))
    broken = mutants(whole, random.Random(0))
    # Some zeroed or swapped bytes are equal, so not every mutant is broken.
    assert len(broken) >= 950
    for name, mutant in broken.items():
        path.write_bytes(mutant)
        assert refusal(path), name
        with pytest.raises(CheckpointError):
            checkpoint.peek(path)


@pytest.mark.parametrize("number", [1, 2])
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_a_container_of_anything_is_read_or_refused(
    data: st.DataObject, number: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The SHA-256 is right, as an attacker would have it.

    There is no exception but ours, and no memory is taken because a header claims it.
    """
    facts = json.dumps(FACTS).encode()
    body = safetensors.torch.save(TENSORS)
    if number == 2:
        _, header, tensors = container.pack(TENSORS, FACTS)
        facts, body = header[len(container.LEAD) + 64 :], bytes(tensors)
    for _ in range(data.draw(st.integers(1, 3))):
        if data.draw(st.booleans()):
            at = data.draw(st.integers(0, len(body) - 1))
            body = (
                body[:at]
                + data.draw(st.binary(max_size=9))
                + body[at + data.draw(st.integers(0, 9)) :]
            )
        else:
            at = data.draw(st.integers(0, len(facts) - 1))
            facts = (
                facts[:at]
                + data.draw(st.binary(max_size=9))
                + facts[at + data.draw(st.integers(0, 9)) :]
            )
        body, facts = body or b"\0", facts or b"\0"
    length = data.draw(st.one_of(st.none(), st.integers(0, 2**64 - 1)))
    path = tmp_path_factory.getbasetemp() / "anything.safetensors"
    seal = sealed_1 if number == 1 else sealed_2
    path.write_bytes(seal(facts, body, length=length))
    try:
        tensors, found = checkpoint.load(path)
    except CheckpointError as error:
        said = str(error)
    else:
        assert isinstance(found, dict)
        assert sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) <= len(
            body
        )
        return
    assert said.startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("facts", "fragment"),
    [
        (b"[1]", "not a mapping"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff", "not JSON"),
    ],
)
def test_facts_that_are_none(facts: bytes, fragment: str, path: Path) -> None:
    for content in (sealed_1(facts, b"tensors"), with_facts(facts)):
        path.write_bytes(content)
        assert fragment in refusal(path)


@pytest.mark.parametrize(
    ("rest", "fragment"),
    [
        (b'"}}', "states no facts"),
        (b'","facts":1}}', "states no facts"),
        (b'"},"__metadata__":[]}', "states no facts"),
        (b'"},"__metadata__":{"facts":"{}","skiplab":"2"},"a":1}', "tensors cannot be read"),
        (b'","facts":"{}"},"a":{"dtype":"F64","shape":[9],"data_offsets":[0,72]}}', "tensors"),
        (b'","facts":"{}"}', "not JSON"),
    ],
)
def test_headers_that_are_none(rest: bytes, fragment: str, path: Path) -> None:
    path.write_bytes(sealed_2(rest, b""))
    assert fragment in refusal(path)
    path.write_bytes(sealed_2(rest, b"", length=2**63))
    assert "damaged: a header of 9,223,372,036,854,775,808 bytes" in refusal(path)


def test_tensors_that_are_none(path: Path) -> None:
    path.write_bytes(sealed_1(b"{}", b"tensors"))
    assert "tensors cannot be read" in refusal(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    os.mkfifo(tmp_path / "pipe.safetensors")
    for name in ("folder.safetensors", "pipe.safetensors"):
        assert refusal(tmp_path / name).endswith("not a file")
    assert "cannot be read" in refusal(tmp_path / "nowhere.safetensors")


# --------------------------------------------------------------------------------------------------
# Foreign code


class Canary:
    """Whoever unpickles it leaves a file behind."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("canary",)


def torch_zip(path: Path) -> None:
    torch.save({"model": Canary()}, path)


def torch_legacy(path: Path) -> None:
    torch.save({"model": Canary()}, path, _use_new_zipfile_serialization=False)


def raw_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Canary()))


def own_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Canary()))


def inside_format_1(path: Path) -> None:
    path.write_bytes(sealed_1(b"{}", pickle.dumps(Canary())))


def inside_format_2(path: Path) -> None:
    path.write_bytes(sealed_2(b'","facts":"{}"}}', pickle.dumps(Canary())))


WRITERS = [torch_zip, torch_legacy, raw_pickle, own_zip, inside_format_1, inside_format_2]


@pytest.mark.parametrize("write", WRITERS)
def test_no_checkpoint_runs_foreign_code(write: object, tmp_path: Path, call: Cli) -> None:
    assert callable(write)
    shutil.copytree(FORMAT_2, tmp_path / "run")
    (tmp_path / "run/result.json").unlink()
    for name in (
        "last.safetensors",
        "last.prev.safetensors",
        "best.safetensors",
        "best.prev.safetensors",
    ):
        write(tmp_path / "run" / name)
    for command in (("resume=run",), ("resume=run/last.safetensors",), ("init_from=run",)):
        code, _, err = call(*command)
        assert code == 3, err
        assert err.count("\n") == 1
        assert "run/" in err
    for arguments in (("evaluate", "run"), ("evaluate", "run", "--checkpoint", "last")):
        assert call(*arguments, command="skiplab")[0] == 3
    assert call("list", "run", command="skiplab")[0] == 0
    assert not Path("canary").exists()


@pytest.mark.parametrize(
    "line",
    [
        "_target_: os.mkdir",
        "seed: ${oc.env:HOME}",
        "name: ${oc.decode:canary}",
        "name: !!python/object/apply:os.mkdir [canary]",
        "name: &a [*a]",
    ],
)
def test_no_stored_config_runs_foreign_code(line: str, tmp_path: Path, call: Cli) -> None:
    shutil.copytree(FORMAT_2, tmp_path / "run")
    stored = tmp_path / "run/config.yaml"
    text = stored.read_text()
    key = line.partition(":")[0]
    stored.write_text(
        "\n".join(row for row in text.splitlines() if not row.startswith(f"{key}:")) + f"\n{line}\n"
    )
    for arguments, command in (
        (("resume=run",), "train"),
        (("evaluate", "run"), "skiplab"),
        (("verify", "run"), "skiplab"),
    ):
        code, _, err = call(*arguments, command=command)
        assert code == 2, err
        assert "run/config.yaml" in err
    assert not Path("canary").exists()


def test_hydras_record_is_never_read(tmp_path: Path, call: Cli) -> None:
    shutil.copytree(FORMAT_2, tmp_path / "run")
    (tmp_path / "run/.hydra").mkdir(exist_ok=True)
    for name in ("config", "hydra", "overrides"):
        (tmp_path / f"run/.hydra/{name}.yaml").write_text(
            "- !!python/object/apply:os.mkdir [canary]\n"
        )
    assert call("resume=run")[0] == 0
    assert not Path("canary").exists()


def test_yaml_beside_the_command_is_not_read(tmp_path: Path, call: Cli) -> None:
    for folder in ("conf", "conf/model", ".hydra"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for name in ("conf/config.yaml", "config.yaml", "conf/model/resnet.yaml", ".hydra/config.yaml"):
        (tmp_path / name).write_text("seed: !!python/object/apply:os.mkdir [canary]\n")
    assert call("--cfg", "job")[0] == 0
    # An option of one's own in conf/ is data, and may not take the place of a built-in one.
    assert call("model=resnet", "--cfg", "job")[0] == 2
    (tmp_path / "conf/model/resnet.yaml").rename(tmp_path / "conf/model/mine.yaml")
    assert call("model=mine", "--cfg", "job")[0] == 2
    assert not Path("canary").exists()


# --------------------------------------------------------------------------------------------------
# Old formats


@pytest.mark.parametrize("fixture", [FORMAT_1, FORMAT_2], ids=["format 1", "format 2"])
def test_a_run_folder_of_each_format_still_loads(fixture: Path, tmp_path: Path, call: Cli) -> None:
    """Version 0.1.0 made the first, the release after 0.2.0 the second.

    Later versions must list, show and evaluate them, start from them, and go on with them.
    """
    shutil.copytree(fixture, tmp_path / "run")
    code, out, _ = call("list", "run", command="skiplab")
    assert code == 0
    assert "finished" in out
    report = (fixture / "report.txt").read_text()
    code, out, _ = call("resume=run")
    assert code == 0
    assert report in out
    code, out, err = call("evaluate", "run", command="skiplab")
    assert code == 0, err
    accuracies = [
        float(re.findall(r"^accuracy ([\d.]+) %", text, re.MULTILINE)[0]) for text in (out, report)
    ]
    # Another processor may classify one image differently.
    assert accuracies[0] == pytest.approx(accuracies[1], abs=1)
    expected = json.loads((fixture / "digests.json").read_text())
    found = verify.digests(tmp_path / "run")
    for name in ("last.", "best."):
        assert {key: value for key, value in found.items() if key.startswith(name)} == {
            key: value for key, value in expected.items() if key.startswith(name)
        }
    code, _, err = call("init_from=run", "depth=1", "width=8", "trainer=debug")
    assert code == 0, err
    code, out, err = call("resume=run", "epochs=3")
    assert code == 0, err
    assert json.loads((tmp_path / "run/result.json").read_text())["steps"] == 18
    assert checkpoint.generations(tmp_path / "run" / folders.LAST)[0].name == folders.LAST
    code, _, err = call("resume=run", "epochs=5")
    assert code == 0, err
    assert not (tmp_path / "run/last.ckpt").exists()
