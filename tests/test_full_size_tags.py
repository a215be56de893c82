"""The full size from end to end: a tagger says what is in a photo, Gemma 2 tells it to the transformer."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image

from commands import document, done, linearsr, refused
from full_size_model import NETWORK, TAGS, add_part, write_full_size_model
from image_tools import noise
from linearsr import LinearSRPipeline
from linearsr.flow.experts import SNRExperts
from linearsr.flow.partition import Partition
from linearsr.models.transformer import LinearSRTransformer
from linearsr.runtime.checkpoints import CheckpointError
from tiny_encoders import write_dino


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_full_size_model(tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="module")
def pipe(folder):
    return LinearSRPipeline.from_pretrained(folder, torch_dtype=torch.float32, device="cpu")


@pytest.fixture
def photo(tmp_path):
    noise(tmp_path / "photo.png", 12, 10)
    return tmp_path / "photo.png"


def latent(pipe, photo, **options):
    result = pipe(photo, output_type="latent", **options)
    return result.images[0], result.tags[0]


def test_tags_of_the_caller_steer(pipe, photo):
    assert pipe.multiple_of == 8
    result = pipe(photo, tags="brick wall, Ivy", output_type="np")
    assert result.images[0].shape == (40, 48, 3)
    assert result.tags == [("brick wall", "Ivy")]
    assert result.unknown_tags == []
    guided, _ = latent(pipe, photo, tags="brick wall, ivy")
    other, _ = latent(pipe, photo, tags=["sea"])
    plain, none = latent(pipe, photo, tags="")
    assert none == ()
    assert torch.equal(plain, latent(pipe, photo)[0])
    assert not torch.allclose(guided, plain, atol=1e-3)
    assert not torch.allclose(guided, other, atol=1e-3)


def test_found_tags_are_used_where_the_model_or_the_caller_says_so(pipe, photo):
    _, added = latent(pipe, photo, tags="+moss")
    assert added[0] == "moss"
    assert len(added) == 4
    assert set(added[1:]) < set(TAGS)
    by_default = LinearSRPipeline(
        pipe.lr_stem,
        pipe.transformer,
        pipe.codec,
        replace(pipe.config, use_tags=True),
        pipe.guidance,
        pipe.tagger,
    )
    assert latent(by_default, photo)[1] == added[1:]
    assert latent(by_default, photo, tags=[])[1] == ()
    assert latent(by_default, photo, tags=["sky"])[1] == ("sky",)
    assert latent(by_default, photo, guidance_scale=0)[1] == ()


def test_guidance_scale(pipe, photo, monkeypatch):
    evaluations, embed = [], LinearSRTransformer.embed

    def counted(network, *inputs):
        evaluations.append(1)
        return embed(network, *inputs)

    monkeypatch.setattr(LinearSRTransformer, "embed", counted)

    def run(scale):
        evaluations.clear()
        return latent(pipe, photo, tags="sky", guidance_scale=scale)[0], len(evaluations)

    plain, once = run(0)
    guided, still_once = run(1)
    strong, twice = run(3)
    assert (once, still_once, twice) == (2, 2, 4)
    assert torch.equal(plain, latent(pipe, photo, tags="")[0])
    assert not torch.allclose(guided, strong, atol=1e-3)


def test_tokens_of_ones_own_for_one_image_or_for_each(pipe, photo):
    torch.manual_seed(0)
    tokens = torch.randn(2, 3, 16)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    both = pipe([photo, photo], guidance_embeds=tokens, guidance_mask=mask, output_type="latent").images
    alone = pipe(photo, guidance_embeds=tokens[1:, :1], output_type="latent").images[0]
    assert not torch.allclose(both[0], both[1], atol=1e-3)
    torch.testing.assert_close(both[1], alone)
    shared = pipe([photo, photo], guidance_embeds=tokens[:1], output_type="latent").images
    assert torch.equal(shared[0], shared[1])
    for wrong in ({"guidance_embeds": tokens, "tags": "sky"}, {"guidance_embeds": torch.randn(3, 2, 16)}):
        with pytest.raises(ValueError, match="guidance_embeds"):
            pipe([photo, photo], **wrong)


@pytest.mark.parametrize("residency", ["active", "lazy"])
def test_saved_loaded_and_offloaded_it_is_the_same(pipe, photo, tmp_path, residency):
    pipe.save_pretrained(tmp_path / "copy")
    again = LinearSRPipeline.from_pretrained(
        tmp_path / "copy", torch_dtype=torch.float32, device="cpu", residency=residency
    )
    assert torch.equal(latent(again, photo, tags="+ivy")[0], latent(pipe, photo, tags="+ivy")[0])
    held = again.guidance.waiting._network
    assert (held is None) == (residency == "lazy")


def test_command_line_names_the_tags_everywhere(folder, photo):
    result = linearsr("upscale", photo, "--model", folder, "--tags", "+ivy", "--json")
    record = document(result)
    assert record["tags"][0] == "ivy"
    assert 3 <= len(record["tags"]) <= 4
    assert "tags: ivy, " in result.stderr
    with Image.open(record["output"]) as image:
        assert image.size == (48, 40)
        packet = image.info["xmp"].decode()
    assert all(f"<rdf:li>{tag}</rdf:li>" in packet for tag in record["tags"])


@pytest.mark.parametrize("tags", ["", " , ", "🌳, дерево, 木", "<&\"'>", "\x00\x1b[31m", "+", "x" * 5000])
def test_any_tags_give_a_picture(folder, photo, tags):
    result = linearsr("upscale", photo, "--model", folder, "--tags", tags, "--overwrite", "--json")
    assert document(result)["status"] == "done"
    assert all(line.isprintable() for line in result.stderr.splitlines())


def test_too_many_tags_are_cut_in_one_line(folder, photo):
    tags = ", ".join(f"thing {i}" for i in range(500))
    result = linearsr("upscale", photo, "--model", folder, "--tags", tags, "--json")
    record = document(result)
    assert len(record["tags"]) + len(record["unknown_tags"]) == 500
    assert record["tags"][:2] == ["thing 0", "thing 1"]
    [warning] = [line for line in result.stderr.splitlines() if line.startswith("warning")]
    assert "and " in warning
    assert len(warning) < 400


def test_info_says_what_the_model_expects(folder):
    model = document(linearsr("info", folder, "--json"))["model"]
    assert model["guidance"] == {
        "kind": "text",
        "token_channels": 16,
        "encoders": {"text_encoder": "text_encoder", "tokenizer": "tokenizer"},
    }
    assert model["tagger"] == {"class": "OwnTagger", "known_tags": 5}
    parts = {part["name"]: part for part in model["parts"]}
    assert list(parts)[3:] == ["guidance", "tagger", "text_encoder"]
    assert parts["text_encoder"]["class"] == "Gemma2Model"
    assert parts["text_encoder"]["parameters"] > 1000
    text = linearsr("info", folder).stdout
    assert "guidance: text; token channels 16; encoders text_encoder, tokenizer" in text


def broken(folder, tmp_path, **config):
    shutil.copytree(folder, tmp_path / "broken")
    add_part(tmp_path / "broken", "guidance", "TextGuidance", **config)
    return tmp_path / "broken"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"channels": 2304}, "2304 channels.*caption_channels are 16"),
        ({"channels": 16, "text_encoder": "nowhere"}, "text_encoder: nowhere: no such folder"),
        ({"channels": 16, "colour": "red"}, "unknown setting colour"),
    ],
)
def test_parts_that_do_not_fit_are_one_line(folder, tmp_path, photo, config, message):
    model = broken(folder, tmp_path, **config)
    with pytest.raises(ValueError, match=message):
        LinearSRPipeline.from_pretrained(model, device="cpu")
    refused(linearsr("upscale", photo, "--model", model, "--tags", "sky"))


def test_a_model_cannot_use_tags_that_nobody_finds(folder, tmp_path, photo):
    model = tmp_path / "model"
    shutil.copytree(folder, model)
    index = json.loads((model / "model_index.json").read_text())
    del index["tagger"]
    (model / "model_index.json").write_text(json.dumps({**index, "use_tags": True}))
    said = refused(linearsr("upscale", photo, "--model", model))
    assert "use_tags: the model has no tagger: add one, or set use_tags to false" in said


def test_nothing_heavy_is_imported_until_tags_are_used(folder, photo):
    code = (
        "import sys; from linearsr.model_folder import load_guidance; "
        f"load_guidance({str(folder / 'guidance')!r}); print('transformers' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


def test_features_of_the_image_guide_where_the_model_has_them(pipe, photo, tmp_path):
    write_dino(tmp_path / "image_encoder", "Dinov2")
    LinearSRPipeline(pipe.lr_stem, pipe.transformer, pipe.codec, pipe.config).save_pretrained(tmp_path)
    add_part(tmp_path, "guidance", "DINOGuidance", channels=16, image_size=32)
    seeing = LinearSRPipeline.from_pretrained(tmp_path, torch_dtype=torch.float32, device="cpu")
    features, tags = latent(seeing, photo)
    assert tags == ()
    plain, _ = latent(seeing, photo, guidance_scale=0)
    assert torch.equal(plain, latent(pipe, photo, tags="")[0])
    assert not torch.allclose(features, plain, atol=1e-3)
    with pytest.warns(UserWarning, match="does not listen to tags"):
        told, _ = latent(seeing, photo, tags="sky")
    assert torch.equal(told, features)
    assert document(linearsr("info", tmp_path, "--json"))["model"]["guidance"]["kind"] == "dino"


def test_a_network_without_null_tokens_needs_tags(pipe, photo):
    network = LinearSRTransformer(replace(NETWORK, num_null_tokens=0))
    parts = (pipe.lr_stem, SNRExperts(Partition(), [network]), pipe.codec, pipe.config)
    guided = LinearSRPipeline(*parts, pipe.guidance, pipe.tagger)
    assert guided(photo, tags="sky").tags == [("sky",)]
    for options in ({}, {"tags": "sky", "guidance_scale": 2}):
        with pytest.raises(ValueError, match="cannot go without guidance: give tags"):
            guided(photo, **options)


def test_an_encoder_that_is_broken_stops_before_the_first_image(folder, tmp_path, photo):
    model = broken(folder, tmp_path, channels=16)
    (model / "text_encoder/model.safetensors").write_bytes(b"x")
    for tags in ("sky", "+sky"):
        said = refused(linearsr("upscale", photo, "--model", model, "--tags", tags))
        assert "text encoder cannot be read" in said
    done(linearsr("upscale", photo, "--model", model))


def test_a_name_cannot_lead_out_of_the_model(folder, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.json").write_text("{}")
    model = tmp_path / "deep/model"
    shutil.copytree(folder, model)
    pipe = LinearSRPipeline.from_pretrained(model, device="cpu")
    pipe.guidance.config = replace(pipe.guidance.config, text_encoder="../../outside")
    (tmp_path / "a/b").mkdir(parents=True)
    pipe.save_pretrained(tmp_path / "a/b/copy")
    assert not (tmp_path / "a/outside").exists()
    with pytest.raises(CheckpointError, match="no such folder"):
        LinearSRPipeline.from_pretrained(tmp_path / "a/b/copy", device="cpu")
