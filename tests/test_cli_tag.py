"""`linearsr tag`: every kind of tagger, tables and JSON, bad files beside good ones; and tags on the default path."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from commands import document, done, linearsr, process, records, refused
from image_tools import noise
from linearsr.guidance.own_tagger import OwnTagger, OwnTaggerConfig
from linearsr.guidance.tags import TagGuidance, TagGuidanceConfig
from linearsr.pipeline import LinearSRPipeline
from linearsr.training.data import CropPairs, DataConfig
from linearsr.training.photo_tags import PhotoTags, read_tags, read_vocabulary
from tiny_model import build

TAGS = ("sky", "tree", "brick wall", "ivy")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def tagged(tmp_path_factory):
    """A model of the default's make that tags photos itself and is guided by the tags it finds."""
    folder = tmp_path_factory.mktemp("tagged")
    pipe = build()
    for expert in pipe.transformer.experts:
        for block in expert.transformer_blocks:  # it starts at zero, so that guidance would do nothing
            torch.nn.init.normal_(block.attn2.to_out[0].weight, std=0.5)
    pipe.guidance = TagGuidance(TagGuidanceConfig(TAGS, 16))
    limits = (0.0, 0.0, 0.0, 1.0)
    pipe.tagger = OwnTagger(OwnTaggerConfig(TAGS, limits, num_blocks=2, image_size=16)).eval()
    pipe.config = replace(pipe.config, use_tags=True, name="tagged")
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    noise(folder / "a.png", 12, 10)
    noise(folder / "sub/b.jpg", 12, 10)
    (folder / "broken.png").write_bytes(b"no image")
    return folder


tag = partial(linearsr, "tag")
upscale = partial(linearsr, "upscale")


def test_a_line_for_each_image(tagged, photos):
    result = tag(photos, photos / "gone.png", "--model", tagged, "--json")
    first, broken, second, gone = records(result, 1)
    assert {found["tag"] for found in first["tags"]} == set(TAGS[:3])
    assert [first["status"], first["size"], second["status"]] == ["done", [12, 10], "done"]
    assert all(0 <= found["score"] <= 1 for found in first["tags"])
    assert (broken["status"], broken["tags"], gone["error"]) == ("failed", None, "no such file")
    assert "2 done, 2 failed" in result.stderr


def test_a_table(tagged, photos):
    result = done(tag(photos / "a.png", "--model", tagged, "--max-tags", 2))
    assert result.stderr == ""
    assert sum(name in result.stdout for name in TAGS) == 2
    none = done(tag(photos / "a.png", "--model", tagged, "--threshold", 1)).stdout
    assert "-" in none
    assert not any(name in none for name in TAGS)
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


def test_tags_for_training_are_written_and_resumed(tagged, photos, tmp_path):
    """As `data.tags` reads them, of LR versions of the photos; a second run does what is missing."""
    seen = []
    file = tmp_path / "out.json"
    asked = (photos, "--model", tagged, "-o", file, "--degrade", "mild", "--json")
    with pytest.MonkeyPatch.context() as patch:
        find = OwnTagger.tag
        patch.setattr(
            OwnTagger, "tag", lambda self, lr, **how: seen.append(lr.shape) or find(self, lr, **how)
        )
        records(tag(*asked), 1)  # one of them is broken
        assert seen == [(3, 2, 3)] * 2
        tags = read_tags(file)
        assert set(tags) == {"photos/a.png", "photos/sub/b.jpg"}
        assert all(set(found) == set(TAGS[:3]) for found in tags.values())
        assert set(read_vocabulary(file.with_suffix(".txt"), "vocabulary").tags) == set(TAGS[:3])
        (photos / "broken.png").unlink()
        file.write_text(json.dumps({"photos/a.png": ["moss", "moss", "Sky"]}))
        again = done(tag(*asked))
    assert len(seen) == 3
    assert "has their tags: 1 (--overwrite tags them again)" in again.stderr
    assert "2 photos" in again.stderr
    assert read_tags(file)["photos/a.png"] == ["moss", "moss", "Sky"]
    # the most frequent first, and one spelling of each
    vocabulary = read_vocabulary(file, "vocabulary").tags
    assert vocabulary == read_vocabulary(file.with_suffix(".txt"), "vocabulary").tags
    assert (vocabulary[0], set(vocabulary)) == ("moss", {"moss", "Sky", "tree", "brick wall"})
    done(tag(*asked, "--overwrite"))
    assert set(read_tags(file)["photos/a.png"]) == set(TAGS[:3])


def test_the_crops_of_shards_are_tagged_one_by_one(tagged, photos, tmp_path):
    """And training finds the tags of every crop that it draws."""
    (photos / "broken.png").unlink()
    Image.new("RGB", (72, 40), "red").save(photos / "wide.png")
    shards = tmp_path / "shards"
    done(linearsr("shard", photos, "-o", shards, "--size", 40))
    file = shards / "tags.json"
    for source in (shards, shards / "00000.tar"):  # the second time nothing is left to do
        result = done(tag(source, "--model", tagged, "-o", file, "--degrade", "mild"))
    assert "has their tags: 4" in result.stderr
    names = {"a_png@0,0", "sub/b_jpg@0,0", "wide_png@0,0", "wide_png@32,0"}
    assert set(read_tags(file)) == {f"00000.tar/{name}.webp" for name in names}
    tags = PhotoTags(file, read_vocabulary(file, "vocabulary"))
    pairs = CropPairs(DataConfig(shards={str(shards): 1.0}, lr_crop=10, workers=0), 4, 0, 4, tags)
    assert all(sample.tags.sum() == 3 for sample in (pairs[number] for number in range(4)))
    (tmp_path / "bad.tar").write_bytes(b"x" * 999)
    refused(tag(tmp_path / "bad.tar", "--model", tagged), 1)


def test_what_is_found_before_an_interruption_is_kept(tagged, photos, tmp_path, monkeypatch):
    find, seen = OwnTagger.tag, []

    def interrupted(self, lr, **how):
        seen.append(lr)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return find(self, lr, **how)

    monkeypatch.setattr(OwnTagger, "tag", interrupted)
    assert tag(photos, "--model", tagged, "-o", tmp_path / "out.json").exit_code == 130
    assert list(read_tags(tmp_path / "out.json")) == ["photos/a.png"]


def test_where_nothing_could_be_tagged_nothing_is_written(tagged, tmp_path):
    assert tag(tmp_path / "none", "--model", tagged, "-o", tmp_path / "out.json").exit_code == 1
    assert not list(tmp_path.glob("out.*"))


def test_a_tagger_that_fails_on_a_photo(tagged, photos, tmp_path, monkeypatch):
    def tag_or_fail(self, lr, **how):
        if lr.shape[-1] == 9:
            raise RuntimeError("no kernel\nfor this")
        return [("sky", 0.5)]

    noise(photos / "odd.png", 9, 10)
    monkeypatch.setattr(OwnTagger, "tag", tag_or_fail)
    result = tag(photos, "--model", tagged, "-o", tmp_path / "out.json")
    assert result.exit_code == 1
    assert f"{photos / 'odd.png'}: RuntimeError: no kernel for this" in result.stderr.splitlines()
    assert set(read_tags(tmp_path / "out.json")) == {"photos/a.png", "photos/sub/b.jpg"}


@pytest.mark.parametrize(
    ("file", "contents"), [("diffusion_pytorch_model.safetensors", b"half"), ("config.json", b"{")]
)
def test_a_broken_tagger_is_one_line(tagged, photos, tmp_path, file, contents):
    broken = Path(shutil.copytree(tagged, tmp_path / "broken"))
    (broken / "tagger" / file).write_bytes(contents)
    assert file in refused(tag(photos, "--model", broken))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "has no tagger of its own"),
        (("--tagger", "nowhere"), "no such folder"),
        (("--tagger", "ram"), "needs the folder of its weights"),
        (("--tagger", "ram++", "--weights", "."), "ram"),
        (("--weights", "."), "does not apply to the model's own tagger"),
        (("--device", "abacus"), "--device abacus"),
        (("-o", "tags.csv"), "-o tags.csv: tags are written as JSON"),
        (("-o", "nowhere/tags.json"), "choose a file in an existing folder"),
        (("--degrade", "fog"), "--degrade: "),
    ],
)
def test_wrong_use_is_one_line(tiny_model, photos, options, message):
    assert message in refused(tag(photos, "--model", tiny_model, *options))


def upscaled(photo, model, *options):
    result = upscale(photo, "--model", model, "--overwrite", "--json", "--fidelity", 0, *options)
    record = document(result)
    with Image.open(record["output"]) as image:
        return record, np.asarray(image), result.stderr


def test_the_tags_found_guide_where_the_model_uses_them(tagged, photos):
    photo = photos / "a.png"
    found, pixels, _ = upscaled(photo, tagged)
    assert set(found["tags"]) == set(TAGS[:3])
    none, plain, _ = upscaled(photo, tagged, "--tags", "")
    assert none["tags"] == []
    assert not np.array_equal(pixels, plain)
    added, _, _ = upscaled(photo, tagged, "--tags", "+ivy")
    assert set(added["tags"]) == set(TAGS)
    own, guided, _ = upscaled(photo, tagged, "--tags", "Trees, zeppelin, 🌳")
    assert (own["tags"], own["unknown_tags"]) == (["tree"], ["zeppelin", "🌳"])
    again, same, stderr = upscaled(photo, tagged, "--tags", "tree, tree, an old tree")
    assert np.array_equal(guided, same)
    assert again["tags"] == ["tree"]
    assert "warning" not in stderr


def test_unknown_tags_are_said_once(tagged, photos):
    result = upscale(photos, "--model", tagged, "--tags", "zeppelin, sky")
    assert result.exit_code == 1
    warnings = [line for line in result.stderr.splitlines() if "zeppelin" in line]
    assert warnings == ["warning: ignored tags, unknown to the model or too many: zeppelin"]
    assert result.stderr.count("tags: sky)") == 2


@pytest.mark.parametrize("tags", ["sky", "+sky"])
def test_a_model_that_does_not_listen_to_tags_says_so_once(tiny_model, photos, tags):
    (photos / "broken.png").unlink()
    asked = (photos, "--model", tiny_model, "--fidelity", 0)
    plain, told = (photos.parent / name for name in ("plain", "told"))
    done(upscale(*asked, "-o", plain))
    result = done(upscale(*asked, "-o", told, "--tags", tags))
    warning = "warning: this model does not listen to tags: results are as without them"
    assert [line for line in result.stderr.splitlines() if "tags" in line] == [warning]
    for name in ("a.png", "sub/b.png"):
        assert (told / name).read_bytes() == (plain / name).read_bytes()
    with pytest.warns(UserWarning, match="the model tiny does not listen to tags") as warnings:
        LinearSRPipeline.from_pretrained(tiny_model)(photos / "a.png", tags=tags)
    assert len(warnings) == 1


def test_a_model_without_guidance_says_so_before_it_begins(tiny_model, photos):
    assert "guid" in refused(upscale(photos, "--model", tiny_model, "--guidance-scale", "3"))
    assert sorted(path.name for path in photos.rglob("*.*")) == ["a.png", "b.jpg", "broken.png"]
    done(upscale(photos / "a.png", "--model", tiny_model, "--tags", ""))


def test_tags_on_the_default_path_import_no_heavy_library(tagged, photos):
    code = """if True:
        import sys; from linearsr.cli.app import app
        for name in ("upscale", "tag"):
            app([name, *sys.argv[1:]], standalone_mode=False)
        print([m for m in ("diffusers", "transformers", "accelerate", "torchvision") if m in sys.modules])
    """
    command = [sys.executable, "-c", code, str(photos / "a.png"), "--model", str(tagged), "--json"]
    assert subprocess.check_output(command, text=True, env=ENVIRONMENT).endswith("}\n[]\n")


def test_a_name_that_the_terminal_cannot_show(tagged, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "ä.png")
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    ended = process("tag", "ä.png", "--model", tagged, env=ascii_only, cwd=tmp_path)
    assert r"\xe4.png" in ended.stdout
