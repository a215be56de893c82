"""Files, folders and weights: what is written is whole and read back, and what is broken is one clear line."""

import json
import os
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from linearsr.runtime.checkpoints import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    CheckpointError,
    PretrainedModule,
    load_config,
    load_weights,
    resolve_folder,
    save_weights,
)
from linearsr.runtime.files import whole_file


@dataclass(frozen=True)
class ToyConfig:
    channels: int = 3
    kernels: tuple[int, ...] = (1, 3)

    def __post_init__(self):
        if self.channels < 1:
            raise ValueError("channels must be at least 1")


class Toy(PretrainedModule):
    config_class = ToyConfig

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(nn.Conv2d(config.channels, config.channels, k) for k in config.kernels)
        self.register_buffer("steps", torch.tensor(7))


@pytest.fixture
def toy(tmp_path):
    torch.manual_seed(0)
    model = Toy(ToyConfig())
    model.save_pretrained(tmp_path)
    return model


def error_line(call):
    with pytest.raises(CheckpointError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_round_trip_keeps_every_number_and_the_config(toy, tmp_path):
    again = Toy.from_pretrained(tmp_path)
    assert again.config == toy.config
    assert not again.training
    assert toy.state_dict().keys() == again.state_dict().keys()
    for name, tensor in toy.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert all(parameter.requires_grad for parameter in again.parameters())
    assert load_config(tmp_path)["_class_name"] == "Toy"


def test_dtype_converts_floating_point_weights_only(toy, tmp_path):
    toy.save_pretrained(tmp_path / "half", dtype=torch.bfloat16)
    stored = load_file(tmp_path / "half" / WEIGHTS_NAME)
    assert stored["layers.0.weight"].dtype == torch.bfloat16
    assert stored["steps"].dtype == torch.int64
    assert Toy.from_pretrained(tmp_path / "half").layers[0].weight.dtype == torch.bfloat16
    assert Toy.from_pretrained(tmp_path / "half", dtype=torch.float32).layers[0].weight.dtype == torch.float32


def test_same_weights_give_the_same_bytes_and_no_temporary_files(toy, tmp_path):
    first = (tmp_path / WEIGHTS_NAME).read_bytes()
    toy.save_pretrained(tmp_path)
    assert (tmp_path / WEIGHTS_NAME).read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG_NAME, WEIGHTS_NAME]


def test_tensors_that_share_memory_are_written_whole(tmp_path):
    base = torch.arange(6.0).reshape(2, 3)
    save_weights(tmp_path, {}, {"whole": base, "row": base[1], "turned": base.t()})
    state = load_weights(tmp_path)
    assert torch.equal(state["whole"], base)
    assert torch.equal(state["row"], base[1])
    assert torch.equal(state["turned"], base.t())


def shard(folder, names=("one.safetensors", "two.safetensors")):
    state = load_file(folder / WEIGHTS_NAME)
    (folder / WEIGHTS_NAME).unlink()
    keys = sorted(state)
    parts = {names[0]: keys[:2], names[1]: keys[2:]}
    for name, part in parts.items():
        save_file({key: state[key] for key in part}, folder / name)
    weight_map = {key: name for name, part in parts.items() for key in part}
    (folder / f"{WEIGHTS_NAME}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_shards_are_joined(toy, tmp_path):
    shard(tmp_path)
    again = Toy.from_pretrained(tmp_path)
    assert torch.equal(again.layers[1].weight, toy.layers[1].weight)


def test_a_missing_shard_is_named(toy, tmp_path):
    shard(tmp_path)
    (tmp_path / "two.safetensors").unlink()
    assert "two.safetensors" in error_line(lambda: Toy.from_pretrained(tmp_path))


def test_an_index_may_not_point_outside_its_folder(toy, tmp_path):
    (tmp_path / WEIGHTS_NAME).unlink()
    index = {"weight_map": {"layers.0.weight": "../elsewhere.safetensors"}}
    (tmp_path / f"{WEIGHTS_NAME}.index.json").write_text(json.dumps(index))
    assert "../elsewhere.safetensors" in error_line(lambda: load_weights(tmp_path))


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
def test_pickles_are_refused_with_the_reason_and_the_way_out(tmp_path, suffix):
    (tmp_path / f"model{suffix}").write_bytes(b"\x80\x02")
    line = error_line(lambda: load_weights(tmp_path))
    assert "run code" in line
    assert "save_file" in line


@pytest.mark.parametrize(
    ("file", "contents", "expected"),
    [
        (WEIGHTS_NAME, lambda data: data[:-10], WEIGHTS_NAME),
        (WEIGHTS_NAME, lambda data: data[:5], WEIGHTS_NAME),
        (WEIGHTS_NAME, lambda data: b"", WEIGHTS_NAME),
        (WEIGHTS_NAME, lambda data: b"\xff" * len(data), WEIGHTS_NAME),
        *((CONFIG_NAME, text, CONFIG_NAME) for text in (b"", b"{", b"[1]", b'"text"')),
        (CONFIG_NAME, b'{"chanels": 3}', "chanels"),
        (CONFIG_NAME, b'{"channels": 0}', "at least 1"),
        (CONFIG_NAME, b'{"channels": "three"}', CONFIG_NAME),
        (CONFIG_NAME, b'{"_class_name": "Other"}', "Other"),
    ],
)
def test_a_file_that_is_damaged_or_for_something_else_is_named(toy, tmp_path, file, contents, expected):
    path = tmp_path / file
    path.write_bytes(contents(path.read_bytes()) if callable(contents) else contents)
    assert expected in error_line(lambda: Toy.from_pretrained(tmp_path))


def test_notes_in_a_config_are_no_settings(toy, tmp_path):
    config = load_config(tmp_path) | {"_diffusers_version": "0.42.1"}
    (tmp_path / CONFIG_NAME).write_text(json.dumps(config))
    assert Toy.from_pretrained(tmp_path).config == toy.config


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda state: state.pop("layers.0.bias"), "missing layers.0.bias"),
        (lambda state: state.update(extra=torch.zeros(1)), "unexpected extra"),
        (lambda state: state.update({"layers.0.bias": torch.zeros(5)}), "layers.0.bias is (5,), not (3,)"),
    ],
)
def test_weights_that_do_not_fit_are_named(toy, tmp_path, change, expected):
    state = load_file(tmp_path / WEIGHTS_NAME)
    change(state)
    save_file(state, tmp_path / WEIGHTS_NAME)
    assert expected in error_line(lambda: Toy.from_pretrained(tmp_path))


def test_a_folder_without_weights_and_one_with_too_many(toy, tmp_path):
    (tmp_path / WEIGHTS_NAME).rename(tmp_path / "a.safetensors")
    assert Toy.from_pretrained(tmp_path).config == toy.config
    (tmp_path / "b.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes())
    assert "a.safetensors, b.safetensors" in error_line(lambda: load_weights(tmp_path))
    (tmp_path / "empty").mkdir()
    assert WEIGHTS_NAME in error_line(lambda: load_weights(tmp_path / "empty"))


def test_folders_and_what_is_none(tmp_path):
    assert resolve_folder(tmp_path) == tmp_path
    file = tmp_path / "file.safetensors"
    file.write_bytes(b"")
    assert "is a file" in error_line(lambda: resolve_folder(file))
    for name in ("nowhere", "/no/such/folder", "./owner/name", "a/b/c", ""):
        if name:
            assert "no such folder" in error_line(lambda name=name: resolve_folder(name))


@pytest.mark.parametrize(("name", "revision"), [("owner/name", None), ("owner/name@v1.2", "v1.2")])
def test_a_hub_id_is_downloaded_without_pickles(tmp_path, monkeypatch, name, revision):
    asked = {}

    def snapshot_download(repo, **options):
        asked.update(repo=repo, **options)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert resolve_folder(name) == tmp_path
    assert asked == {
        "repo": "owner/name",
        "revision": revision,
        "allow_patterns": ["*.json", "*.safetensors", "*.model", "*.txt"],
    }


def test_a_failed_download_is_one_line(monkeypatch):
    def snapshot_download(repo, **options):
        raise ConnectionError("offline\nlong story")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert "offline" in error_line(lambda: resolve_folder("owner/name"))


def test_the_name_appears_when_it_is_complete(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("old")
    with whole_file(file) as part:
        part.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def half_written(tensors, path, metadata):
    path.write_bytes(b"half")
    raise OSError("disk full")


def test_a_failure_leaves_what_was_there(toy, tmp_path, monkeypatch):
    before = (tmp_path / WEIGHTS_NAME).read_bytes()
    monkeypatch.setattr("linearsr.runtime.checkpoints.save_file", half_written)
    with pytest.raises(OSError, match="disk full"):
        toy.save_pretrained(tmp_path)
    assert (tmp_path / WEIGHTS_NAME).read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "nowhere/a.txt"):
        pass


def test_weights_can_be_read_by_whom_the_folder_is_for(tmp_path):
    (tmp_path / "plain").touch()
    save_weights(tmp_path, {}, {"w": torch.zeros(2)})
    assert len({file.stat().st_mode for file in tmp_path.iterdir()}) == 1
