"""Taggers: what they say is what their networks say, above each tag's threshold, the surest first."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from linearsr.cli.loading import named_tagger
from linearsr.guidance.base import Scores, Tagger
from linearsr.guidance.own_tagger import OwnTagger, OwnTaggerConfig
from linearsr.guidance.ram import RAMTagger, RAMTaggerConfig
from linearsr.guidance.vocabulary import read_tag_list
from linearsr.model_folder import load_tagger
from linearsr.runtime.checkpoints import CheckpointError
from tiny_encoders import write_dino

LR = torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Found(Tagger):
    """A tagger that sees so much of so many tags in everything."""

    def __init__(self, scores, least, max_tags):
        self.found = Scores([str(i) for i in range(len(scores))], torch.tensor(scores), least)
        self.config = SimpleNamespace(max_tags=max_tags)

    def scores(self, lr):
        return self.found


@given(
    st.lists(st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)), max_size=20), st.integers(0, 9)
)
def test_tags_are_those_above_their_threshold(pairs, most):
    scores, least = [score for score, _ in pairs], [limit for _, limit in pairs]
    everything = Found(scores, least, len(pairs)).tag(LR)
    assert Found(scores, least, most).tag(LR) == everything[:most]
    assert {tag.name for tag in everything} == {str(i) for i, (s, t) in enumerate(pairs) if s >= t}
    assert [tag.score for tag in everything] == sorted((tag.score for tag in everything), reverse=True)
    assert len(Found(scores, least, 0).tag(LR, threshold=0, max_tags=len(pairs))) == len(pairs)


@pytest.mark.parametrize(
    ("asked", "message"),
    [({"threshold": 2}, "threshold 2 is out of range"), ({"max_tags": -1}, "-1 tags")],
)
def test_what_cannot_be_asked_of_a_tagger(asked, message):
    with pytest.raises(ValueError, match=message):
        Found([1.0], 0.5, 1).tag(LR, **asked)


def test_a_list_of_tags(tmp_path):
    file = tmp_path / "tags.txt"
    file.write_text("sky\n\nbrick wall \nдерево\n", encoding="utf-8")
    assert read_tag_list(file) == ("sky", "brick wall", "дерево")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no tags"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"sky\nSky", "twice"),
        (None, "cannot be read"),
    ],
)
def test_a_list_that_cannot_be_used_is_one_line(tmp_path, content, message):
    file = tmp_path / "tags.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_tag_list(file)
    assert "\n" not in str(caught.value)


class FakeRAM(nn.Module):
    """The interface of RAM and RAM++, as their package has it: names from `generate_tag`, scores from `fc`."""

    def __init__(self, pretrained="", image_size=384, vit="base"):
        super().__init__()
        print("the real one prints too")
        assert (pretrained, vit) == ("", "swin_l")
        self.size = image_size
        self.tag_list = ["sky", "tree", "wall"]
        self.class_threshold = torch.tensor([0.65, 0.65, 0.9])
        self.fc = nn.Linear(2, 1)
        self.tagging_head = nn.Linear(2, 2, bias=False)
        self.text_decoder = nn.Linear(2, 2)
        self.register_buffer("relative_position_index", torch.arange(3))

    def generate_tag(self, image):
        assert image.shape == (1, 3, self.size, self.size)
        assert image.dtype == torch.float32
        logits = self.fc(self.tagging_head(torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]]))).squeeze(-1)
        return [" | ".join(self.tag_list)], logits


@pytest.fixture
def ram(monkeypatch, tmp_path):
    package, models = ModuleType("ram"), ModuleType("ram.models")
    package.models, models.ram, models.ram_plus = models, FakeRAM, FakeRAM
    monkeypatch.setitem(sys.modules, "ram", package)
    monkeypatch.setitem(sys.modules, "ram.models", models)
    weights = {
        "fc.weight": torch.tensor([[2.0, -2.0]]),
        "fc.bias": torch.tensor([0.5]),
        "vision_multi.weight": torch.eye(2),  # its name in the published files
        "visual_encoder.patch_embed.proj.weight": torch.zeros(3),
    }
    (tmp_path / "ram").mkdir()
    save_file(weights, tmp_path / "ram/model.safetensors")
    return tmp_path / "ram"


@pytest.mark.parametrize("variant", ["ram", "ram++"])
def test_ram_says_what_its_network_says(ram, variant, capsys):
    tagger = named_tagger(variant, weights=str(ram))
    found = tagger.tag(LR)
    assert [tag.name for tag in found] == ["sky"], "0.92 >= 0.65; 0.18 < 0.65; 0.62 < 0.9"
    assert found[0].score == pytest.approx(torch.tensor(2.5).sigmoid().item())
    assert [tag.name for tag in tagger.tag(LR, threshold=0.5)] == ["sky", "wall"]
    assert capsys.readouterr().out == ""


def test_ram_in_a_models_folder(ram, tmp_path):
    tagger = RAMTagger(RAMTaggerConfig())
    tagger.model_folder = tmp_path
    tagger.save_pretrained(tmp_path / "copy/tagger")
    assert [tag.name for tag in load_tagger(tmp_path / "copy/tagger").tag(LR)] == ["sky"]


def test_ram_with_other_weights(ram):
    save_file({"fc.weight": torch.zeros(1, 3)}, ram / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"missing .*fc\.bias.*; other shape: fc\.weight"):
        named_tagger("ram", weights=str(ram)).tag(LR)
    (ram / "model.safetensors").rename(ram / "ram_plus_swin_large_14m.pth")
    with pytest.raises(CheckpointError, match="only pickled weights"):
        named_tagger("ram", weights=str(ram)).tag(LR)


def test_ram_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ram", None)
    with pytest.raises(ImportError, match="pip install git"):
        named_tagger("ram++", weights=str(tmp_path)).tag(LR)


def test_taggers_by_name(tmp_path):
    tagger = OwnTagger(OwnTaggerConfig(("sky", "tree"), num_blocks=2))
    tagger.save_pretrained(tmp_path / "own")
    write_dino(tmp_path / "dino", "Dinov2")
    assert named_tagger(str(tmp_path / "own")).config == tagger.config
    for arguments, message in (
        ((str(tmp_path / "own"), "ram"), "weights are for ram and"),
        (("ram",), "needs the folder of its weights"),
        ((str(tmp_path / "nowhere"),), "no such folder"),
        ((str(tmp_path / "dino"),), "not a tagger"),
    ):
        with pytest.raises(ValueError, match=message):
            named_tagger(*arguments)
