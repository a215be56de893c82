"""Tags through text encoders: as SANA's pipeline encodes captions, cut, cached and kept apart."""

import re
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForTextEncoding, AutoTokenizer

from linearsr.guidance.text import TextGuidance, TextGuidanceConfig
from linearsr.model_folder import load_guidance
from linearsr.runtime.checkpoints import CheckpointError
from tiny_encoders import write_gemma2, write_t5, write_tokenizer

LR = torch.zeros(3, 3, 4, 4)
SENTENCE = "An old Brick Wall with ivy"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    write_gemma2(folder / "text_encoder")
    write_t5(folder / "t5")
    write_tokenizer(folder / "tokenizer")
    return folder


def guidance(folder, **config):
    part = TextGuidance(TextGuidanceConfig(channels=16, **config))
    part.model_folder = folder
    return part


def sana_embeds(folder, prompt, max_tokens):
    """What diffusers' SANA pipeline makes of a prompt, for tokens that are not padding."""
    pipe = diffusers.SanaPipeline.__new__(diffusers.SanaPipeline)
    encoder = guidance(folder).read_encoder(torch.float32).eval()
    object.__setattr__(pipe, "tokenizer", AutoTokenizer.from_pretrained(folder / "tokenizer"))
    object.__setattr__(pipe, "text_encoder", encoder)
    object.__setattr__(pipe, "transformer", SimpleNamespace(dtype=torch.float32))
    with torch.no_grad():
        embeds, mask, _, _ = pipe.encode_prompt(
            prompt,
            do_classifier_free_guidance=False,
            device=torch.device("cpu"),
            max_sequence_length=max_tokens,
            complex_human_instruction=None,
        )
    return embeds[0][mask[0].bool()]


@pytest.mark.parametrize("max_tokens", [300, 12])
@pytest.mark.parametrize("prompt", [SENTENCE, "ivy", "sky, tree, brick wall, moss, 木, rock, snow, bird"])
def test_as_the_pipeline_of_sana(folder, prompt, max_tokens):
    part = guidance(folder, max_tokens=max_tokens)
    tokens = part.encode(LR[:1], [[prompt]])
    expected = sana_embeds(folder, prompt, max_tokens)
    assert tokens.mask.all()
    torch.testing.assert_close(tokens.embeds[0], expected, rtol=1e-4, atol=1e-5)


def test_tags_are_one_text_joined_by_commas(folder):
    part = guidance(folder)
    tags = part.encode(LR[:1], [["Brick wall", " ivy "]]).embeds
    assert torch.equal(tags, part.encode(LR[:1], [["brick wall, ivy"]]).embeds)


def test_separate_tags_are_encoded_once(folder):
    """Whatever their lists: once the vocabulary is known, no list costs a pass of the encoder."""
    part, joined = guidance(folder, separate=True), guidance(folder)
    words = ["Brick wall", "ivy", "sky"]
    part.keep(words)
    assert part.waiting._network is None
    part.waiting._read = None
    lists = [["sky", "ivy"], ["brick wall"], []]
    found = part.encode(LR, lists)
    for row, mask, tags in zip(*found, lists, strict=True):
        alone = [joined.encode(LR[:1], [[tag]]).embeds[0] for tag in tags]
        # encoded together, the last bits differ
        torch.testing.assert_close(row[mask], torch.cat([torch.zeros(0, 16), *alone]), rtol=1e-5, atol=1e-5)
    limit = sum(joined.encode(LR[:1], [[tag]]).embeds.shape[1] for tag in ("ivy", "sky"))
    cut = guidance(folder, separate=True, max_tokens=limit)
    tags, rest = cut.understand(["ivy", "sky", "sea", "tree"])
    assert (tags, rest) == (["ivy", "sky"], ["sea", "tree"])
    assert cut.encode(LR[:1], [["ivy", "sky", "sea"]]).embeds.shape == (1, limit, 16)
    part.keep([f"thing {i}" for i in range(10_000)])  # too many: they would push each other out
    assert len(part._recent) == 3


def test_tokens_of_tags_are_kept_on_disk(folder, tmp_path):
    """A second run with this encoder and these tags never reads it; another encoder or other tags have their own."""
    words, beside = ["Brick wall", "ivy", "sky", " SKY"], tmp_path / "tags.json"
    first = guidance(folder, separate=True)
    first.keep(words, beside)
    (file,) = tmp_path.iterdir()
    assert file.name.startswith("tags.tokens-")
    again = guidance(folder, separate=True)
    again.waiting._read = None
    again.keep(words, beside)
    assert torch.equal(
        again.encode(LR, [["sky"], ["ivy"], []]).embeds, first.encode(LR, [["sky"], ["ivy"], []]).embeds
    )
    write_gemma2(tmp_path / "other")
    weights = load_file(tmp_path / "other/model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, tmp_path / "other/model.safetensors")
    other = guidance(folder, separate=True, text_encoder=str(tmp_path / "other"))
    for part, tags in ((other, words), (guidance(folder, separate=True), words[:2])):
        part.keep(tags, beside)
        assert part.waiting._dtype is not None
    assert not torch.equal(other.encode(LR[:1], [["sky"]]).embeds, first.encode(LR[:1], [["sky"]]).embeds)


def test_texts_are_encoded_together(folder):
    part, runs = guidance(folder), []
    part.prepare()
    part.waiting._network.register_forward_hook(lambda *_: runs.append(1))
    part.encode(LR, [["sky"], ["sea"], ["sky"]])
    assert len(runs) == 1


def test_lists_of_one_batch_keep_to_themselves(folder):
    part = guidance(folder)
    lists = [["sky"], [], ["brick wall", "ivy", "moss"]]
    together = part.encode(LR, lists)
    assert not together.mask[1].any()
    for i in (0, 2):
        alone = part.encode(LR[:1], [lists[i]]).embeds[0]
        assert torch.equal(together.embeds[i][together.mask[i]], alone)
    nothing = part.encode(LR, [[], [], []])
    assert nothing.embeds.shape == (3, 1, 16)
    assert not nothing.mask.any()


def test_of_a_t5_the_encoder(folder):
    part = guidance(folder, text_encoder="t5")
    ids = AutoTokenizer.from_pretrained(folder / "tokenizer")("a sky", return_tensors="pt").input_ids
    whole = AutoModelForTextEncoding.from_pretrained(folder / "t5").eval()
    with torch.no_grad():
        expected = whole(ids).last_hidden_state
    torch.testing.assert_close(part.encode(LR[:1], [["a sky"]]).embeds, expected)


def test_every_word_is_understood_until_the_text_is_too_long(folder):
    part = guidance(folder)
    assert part.understand(["Brick-Wall", " brick wall", "", "🌳", "дерево"]) == (
        ["Brick-Wall", "🌳", "дерево"],
        [""],
    )
    words = [f"thing {i}" for i in range(200)]
    tags, rest = part.understand(words)
    assert [*tags, *rest] == words
    embeds = part.encode(LR[:1], [tags]).embeds
    assert embeds.shape[1] <= 300
    assert guidance(folder, max_tokens=10_000).encode(LR[:1], [tags]).embeds.shape == embeds.shape


def test_threads_cut_no_texts_of_each_other(folder):
    part = guidance(folder)
    texts = [(" ".join([SENTENCE] * 5), limit) for limit in (300, 4, 9, 20)]
    expected = [len(part._ids(*text)) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda text: len(part._ids(*text)), texts * 200))
    assert found == expected * 200


def test_an_encoder_is_read_once_and_answers_once(folder, monkeypatch):
    part, reads, runs = guidance(folder), [], []
    read = part.waiting._read
    monkeypatch.setattr(part.waiting, "_read", lambda dtype: reads.append(dtype) or read(dtype))
    part.encode(LR[:1], [["sky"]])
    part.waiting._network.register_forward_hook(lambda *_: runs.append(1))
    for tags in ("sky", "tree", "tree", "sky"):
        part.encode(LR[:1], [[tags]])
    assert (reads, len(runs)) == ([torch.float32], 1)
    for i in range(40):
        part.encode(LR[:1], [[f"thing {i}"]])
    runs.clear()
    part.encode(LR[:1], [["sky"]])
    assert len(runs) == 1, "the cache must be bounded"


def test_types(folder):
    assert guidance(folder).to(torch.bfloat16).encode(LR[:1], [["sky"]]).embeds.dtype == torch.bfloat16
    # float16 overflows in Gemma
    assert guidance(folder).to(torch.float16).encode(LR[:1], [["sky"]]).embeds.dtype != torch.float16


def test_results_of_inference_can_be_trained_with(folder):
    part = guidance(folder)
    with torch.inference_mode():
        part.encode(LR[:1], [["sky"]])
    layer = torch.nn.Linear(16, 1)
    layer(part.encode(LR[:1], [["sky"]]).embeds).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "text_encoder/model.safetensors").unlink(), "text encoder cannot be read"),
        (lambda f: (f / "text_encoder/model.safetensors").write_bytes(b"x"), "text encoder cannot be read"),
        (lambda f: drop_tensor(f / "text_encoder/model.safetensors"), "lacks 1 tensors, such as norm.weight"),
        (lambda f: (f / "tokenizer/tokenizer.json").unlink(), "tokenizer cannot be read"),
    ],
)
def test_what_is_broken_is_one_line(tmp_path, spoil, message):
    write_gemma2(tmp_path / "text_encoder")
    write_tokenizer(tmp_path / "tokenizer")
    guidance(tmp_path).save_pretrained(tmp_path / "guidance")
    spoil(tmp_path)
    part = load_guidance(tmp_path / "guidance")
    with pytest.raises(CheckpointError, match=message) as caught:
        part.encode(LR[:1], [["sky"]])
    assert "\n" not in str(caught.value)


def drop_tensor(file):
    state = load_file(file)
    del state["norm.weight"]
    save_file(state, file, metadata={"format": "pt"})


def test_a_pickle_is_not_opened(tmp_path):
    model = write_gemma2(tmp_path / "text_encoder")
    write_tokenizer(tmp_path / "tokenizer")
    torch.save(model.state_dict(), tmp_path / "text_encoder/pytorch_model.bin")
    (tmp_path / "text_encoder/model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="safetensors"):
        guidance(tmp_path).encode(LR[:1], [["sky"]])


def test_a_folder_that_may_be_on_the_hub_is_not_asked_for_when_loading(tmp_path, monkeypatch):
    asked = []

    def download(repo, revision, allow_patterns):
        asked.append((repo, allow_patterns))
        raise OSError("offline")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    config = TextGuidanceConfig("owner/sana/text_encoder", "owner/sana/tokenizer", 16)
    TextGuidance(config).save_pretrained(tmp_path / "guidance")
    part = load_guidance(tmp_path / "guidance")
    assert asked == []
    with pytest.raises(CheckpointError, match="text_encoder: owner/sana: no such folder"):
        part.prepare()
    kinds = ("*.json", "*.safetensors", "*.model", "*.txt")
    assert asked == [("owner/sana", [f"text_encoder/{kind}" for kind in kinds])]
    TextGuidance(TextGuidanceConfig("nowhere", "nowhere", 16)).save_pretrained(tmp_path / "guidance")
    with pytest.raises(CheckpointError, match=re.escape("text_encoder: nowhere: no such folder")):
        load_guidance(tmp_path / "guidance")
