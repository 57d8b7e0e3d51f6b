"""Checkpoints: written whole or not at all, refused when damaged, and no code is run from them."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from vibench.training.checkpoints import CheckpointError, load_weights, read_checkpoint, write_checkpoint

KIB = 1024


class Explodes:
    """Cannot be pickled."""

    def __reduce__(self):
        raise RuntimeError("a save that fails midway")


class MakesAFolder:
    """A pickle that runs code where it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoints" / "last.ckpt"


@pytest.fixture
def saved(path):
    save({"state_dict": weights(), "vibench": {"steps_done": 7, "config": {"lr": 0.1, "name": "a"}}}, path)
    return path


def save(content, path):
    write_checkpoint(content, path)


def weights(seed=0):
    """Of a model with 64 KiB of weights, as Lightning names them."""
    torch.manual_seed(seed)
    return {f"model.{name}": value for name, value in nn.Linear(128, 128).state_dict().items()}


def refused(path):
    return pytest.raises(CheckpointError, match=re.escape(str(path)))


def test_what_was_saved_is_read_again(saved):
    found = read_checkpoint(saved)
    assert found["vibench"] == {"steps_done": 7, "config": {"lr": 0.1, "name": "a"}}
    assert all(torch.equal(found["state_dict"][name], value) for name, value in weights().items())


def test_the_folder_is_made_and_holds_nothing_else(saved):
    assert list(saved.parent.iterdir()) == [saved]


def test_a_save_replaces_the_old_checkpoint(saved):
    save({"state_dict": {}, "vibench": {"steps_done": 8}}, saved)
    assert read_checkpoint(saved)["vibench"] == {"steps_done": 8}
    assert list(saved.parent.iterdir()) == [saved]


def test_a_save_that_cannot_be_pickled_leaves_the_old_checkpoint_and_no_other_file(saved):
    before = saved.read_bytes()
    with pytest.raises(CheckpointError, match="cannot be written: a save that fails midway"):
        save({"state_dict": weights(1), "more": Explodes()}, saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


@pytest.fixture
def small_disk():
    """No file of this process may exceed 256 KiB, until the test is over: as a disk that runs full midway."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 * KIB, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_runs_full_midway_leaves_the_old_checkpoint_and_no_other_file(saved, small_disk):
    before = saved.read_bytes()
    with pytest.raises(CheckpointError, match=rf"{re.escape(str(saved))} cannot be written: .*File too large"):
        save({"state_dict": {"model.weight": torch.randn(256 * KIB)}}, saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_first_save_that_fails_leaves_nothing(path):
    with pytest.raises(CheckpointError, match="cannot be written: a save that fails midway"):
        save({"more": Explodes()}, path)
    assert list(path.parent.iterdir()) == []


def test_what_a_killed_save_left_behind_does_not_stop_the_next(saved):
    leftover = saved.with_name(f".{saved.name}.tmp")
    leftover.write_bytes(b"half a checkpoint")
    save({"state_dict": {}, "vibench": {"steps_done": 8}}, saved)
    assert read_checkpoint(saved)["vibench"]["steps_done"] == 8
    assert list(saved.parent.iterdir()) == [saved]


def test_a_missing_file_is_refused(tmp_path):
    with refused(tmp_path / "none.ckpt"):
        read_checkpoint(tmp_path / "none.ckpt")


def test_a_folder_is_refused(tmp_path):
    with refused(tmp_path):
        read_checkpoint(tmp_path)


def test_an_empty_file_is_refused(saved):
    saved.write_bytes(b"")
    with refused(saved):
        read_checkpoint(saved)


def test_a_file_of_zeros_is_refused(saved):
    saved.write_bytes(bytes(saved.stat().st_size))
    with refused(saved):
        read_checkpoint(saved)


def test_a_file_of_text_is_refused(saved):
    saved.write_text("this is no checkpoint\n" * 50)
    with refused(saved):
        read_checkpoint(saved)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    with refused(saved):
        read_checkpoint(saved)


@pytest.mark.parametrize("place", ["first byte", "weights", "name of a key"])
def test_a_file_with_a_flipped_bit_is_refused(saved, place):
    content = bytearray(saved.read_bytes())
    raw = weights()["model.weight"].numpy().tobytes()
    where = {
        "first byte": 0,
        "weights": content.index(raw) + len(raw) // 2,
        "name of a key": content.index(b"steps_done"),
    }
    content[where[place]] ^= 0x40
    saved.write_bytes(content)
    with refused(saved):
        read_checkpoint(saved)


def test_a_pickle_with_code_is_refused_and_not_run(saved, tmp_path):
    folder = tmp_path / "made by the checkpoint"
    torch.save({"state_dict": {}, "vibench": MakesAFolder(folder)}, saved)
    with refused(saved):
        read_checkpoint(saved)
    assert not folder.exists()
    torch.load(saved, weights_only=False)  # so that this test can fail: read the other way, the code is run
    assert folder.is_dir()


def test_the_refusal_of_code_is_one_plain_line_and_does_not_say_how_to_run_it(saved, tmp_path):
    torch.save({"vibench": MakesAFolder(tmp_path / "made")}, saved)
    with pytest.raises(CheckpointError, match=re.escape(str(saved))) as caught:
        read_checkpoint(saved)
    assert "\x1b" not in str(caught.value)
    assert not re.search("two options|can still be loaded|weights_only", str(caught.value))
    assert len(str(caught.value).splitlines()) == 1


@pytest.fixture
def eight_bits(path):
    """A checkpoint whose optimizer keeps its state in 8 bits."""
    quantized = pytest.importorskip("torchao.optim.subclass_8bit", reason="vibench[int8] is not installed")
    state = quantized.OptimState8bit.zeros((128, 128))
    save({"state_dict": weights(), "optimizer_states": [{"state": {0: {"exp_avg": state}}}]}, path)
    return path


def test_a_state_of_eight_bits_is_read_by_a_process_that_has_not_made_one(eight_bits):
    lines = (
        "import sys; from pathlib import Path; from vibench.training.checkpoints import read_checkpoint as read",
        "assert not [name for name in sys.modules if name.startswith('torchao')]",
        "state = read(Path(sys.argv[1]))['optimizer_states'][0]['state'][0]['exp_avg']",
        "print(type(state).__name__, *state.shape)",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines), eight_bits], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "OptimState8bit 128 128\n", done.stderr


def test_a_state_of_eight_bits_without_torchao_names_the_extra(eight_bits, monkeypatch):
    known = torch.serialization.get_safe_globals()
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    torch.serialization.clear_safe_globals()
    try:
        with pytest.raises(CheckpointError, match=r"last\.ckpt holds an optimizer state of 8 bits.*'vibench\[int8\]'"):
            read_checkpoint(eight_bits)
    finally:
        torch.serialization.add_safe_globals(known)


def test_weights_are_put_into_a_model(saved):
    torch.manual_seed(9)
    model = nn.Linear(128, 128)
    load_weights(model, read_checkpoint(saved), saved)
    assert torch.equal(model.weight, weights()["model.weight"])
    assert torch.equal(model.bias, weights()["model.bias"])


def test_what_is_not_of_the_model_is_left_out(saved):
    checkpoint = read_checkpoint(saved)
    checkpoint["state_dict"]["scores.total"] = torch.zeros(1)
    load_weights(nn.Linear(128, 128), checkpoint, saved)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        pytest.param(lambda: nn.Linear(128, 64), "weight", id="another size"),
        pytest.param(lambda: nn.Linear(128, 128, bias=False), "bias", id="fewer weights"),
        pytest.param(lambda: nn.Sequential(nn.Linear(128, 128)), "0.weight", id="other names"),
        pytest.param(lambda: nn.Bilinear(128, 1, 128), "weight", id="another rank"),
    ],
)
def test_the_weights_of_another_model_are_refused(saved, model, named):
    with pytest.raises(CheckpointError, match=rf"(?s){re.escape(str(saved))} is of another model.*{re.escape(named)}"):
        load_weights(model(), read_checkpoint(saved), saved)


@pytest.mark.parametrize(
    "content", [{}, {"epoch": 3}, [1, 2], torch.zeros(3)], ids=["empty", "other", "list", "tensor"]
)
def test_a_file_without_weights_is_refused(path, content):
    path.parent.mkdir()
    torch.save(content, path)
    with refused(path):
        load_weights(nn.Linear(128, 128), read_checkpoint(path), path)
