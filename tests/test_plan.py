"""What is checked before anything is built."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from linearsr.models.lr_stem import StridedStem, StridedStemConfig
from linearsr.models.transformer import LinearSRTransformer
from linearsr.models.transformer_config import PRESETS
from linearsr.training import section
from linearsr.training.checks import check, check_model
from linearsr.training.recipe import RecipeConfig, Run
from linearsr.training.section import ConfigError
from training_tools import (
    AUTOENCODER,
    CODEC,
    NETWORK,
    flow_stage,
    make_photos,
    make_sana,
    make_stem,
    recipe,
    refused,
    single,
)

SHORT_DECODER = {
    "decoder_block_types": ("ResBlock",) * 3,
    "decoder_block_out_channels": (8, 8, 16),
    "decoder_layers_per_block": (1, 1, 1),
    "decoder_qkv_multiscales": ((), (), ()),
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos")


def test_what_fits_is_not_refused(photos: Path, tmp_path: Path) -> None:
    check(single(photos))
    check(single(photos, stage=flow_stage(make_stem(tmp_path / "stem"))))
    check(recipe(photos))
    check(recipe(photos, **CODEC, experts={}))


def test_a_model_set_to_what_its_parts_cannot_do_is_refused_before_they_are_trained(
    photos: Path, tmp_path: Path
) -> None:
    def look(runs: list[Run], **model: Any) -> None:
        check_model(RecipeConfig(run_dir=tmp_path, stages={"pretrain": {}}, model=model), runs, check(runs))

    look(recipe(photos), mean="stem")
    with pytest.raises(ConfigError, match=r"^model\.mean: "):
        look(recipe(photos, **CODEC, experts={}), mean="stem")


@pytest.mark.parametrize(("key", "place"), [("data.folders", "."), ("validation.folder", "runs/1")])
def test_pictures_of_a_run_never_become_photos(photos: Path, tmp_path: Path, key: str, place: str) -> None:
    others = make_photos(tmp_path / "others")
    target = {"data.folders": photos, "validation.folder": others}[key]
    validation = {"folder": str(others), "every_images": 6}
    refused(single(photos, run_dir=str(target / place), validation=validation), rf"^run_dir: .* of {key}")
    link = tmp_path / "link"
    link.symlink_to(target)
    refused(single(photos, run_dir=str(link / place), validation=validation), "^run_dir: ")


def test_a_stem_of_another_width_is_refused_before_it_is_trained(photos: Path, tmp_path: Path) -> None:
    message = r"stage\.network: lr_channels is 32, but the stem gives 48 channels"
    refused(recipe(photos, stem={"stage": {"stem": {"channels": 12}}}), f"^pretrain: {message}")
    stage = flow_stage(make_stem(tmp_path / "stem"))
    network = {**NETWORK, "lr_channels": 48}
    refused(single(photos, stage={**stage, "network": network}), "lr_channels is 48, .* gives 32 channels")
    LinearSRTransformer(PRESETS["tiny"]).save_pretrained(tmp_path / "network")
    stage = {"kind": "flow", "stem": str(tmp_path / "stem"), "init": str(tmp_path / "network")}
    refused(single(photos, stage=stage), r"^stage\.init: in_channels is 8, but the codec gives 192")


def test_a_network_for_other_latents_is_refused(photos: Path) -> None:
    key = "out_channels"
    pretrain = {"stage": {"preset": "tiny", "network": {**NETWORK, key: 128}}}
    stem = {"stage": {"stem": {"channels": 8}}}
    refused(recipe(photos, stem=stem, pretrain=pretrain), f"{key} is 128, but the codec gives 192 channels")
    pretrain = {"stage": {"preset": "tiny", "network": {key: 9}}}
    refused(recipe(photos, **{**CODEC, "pretrain": pretrain}), f"{key} is 9, but the codec gives 8 channels")


def test_stem_and_codec_need_one_grid(photos: Path, tmp_path: Path) -> None:
    refused(recipe(photos, stem={"stage": {"stem": {"patch": 4}}}), r"stage\.stem: .* 16 HR pixels apart")
    StridedStem(StridedStemConfig(channels=32)).save_pretrained(tmp_path / "strided")
    refused(single(photos, stage=flow_stage(tmp_path / "strided")), r"stage\.stem: .* predicts no image")
    flat = {f"{side}_block_out_channels": [8, 8, 16] for side in ("encoder", "decoder")}
    codec = {"stage": {"autoencoder": {**AUTOENCODER, **flat}}}
    refused(recipe(photos, **{**CODEC, "codec": codec}), r"stage\.codec: compresses 4 times")


def test_a_crop_off_the_grid_is_refused(photos: Path) -> None:
    data = {"folders": {str(photos): 1.0}, "lr_crop": 9, "workers": 0}
    refused(single(photos, data=data), r"^data\.lr_crop: 9 is not a multiple of 2")
    refused(recipe(photos, {"data": data}), r"^stem: data\.lr_crop: 9 is not a multiple of 2")
    data = {**data, "lr_crop": 12}
    check(recipe(photos, {"data": data}))
    refused(single(photos, data=data, stage={"kind": "codec"}), r"^data\.lr_crop: 12 is not a multiple of 8")


@pytest.mark.parametrize(
    ("kind", "key", "name"),
    [
        ("flow", "init", "/nowhere/transformer"),
        ("flow", "stem", "runs/stem"),
        ("flow", "codec", "codec"),
        ("flow", "sana", "~/sana"),
        ("codec", "init", "/nowhere/codec"),
        ("blend", "after", "/nowhere/stem"),
        ("stem", "init", "/nowhere/stem"),
        *(("distill", key, "/nowhere/part") for key in ("teacher", "rollout")),
    ],
)
def test_parts_that_are_not_there_are_named(
    photos: Path, tmp_path: Path, kind: str, key: str, name: str
) -> None:
    stem = make_stem(tmp_path / "stem")
    stages = {
        "flow": {"stem": str(stem), "preset": "tiny"},
        "blend": {"before": str(stem), "after": str(stem)},
        "distill": flow_stage(stem),
    }
    stage = {**stages.get(kind, {}), "kind": kind, key: name}
    hint = "give a" if kind == "codec" or key in ("codec", "sana") else "give one that was"
    refused(single(photos, stage=stage), rf"^stage\.{key}: {name} is not a folder: {hint}")


def test_a_sana_whose_parts_do_not_fit_is_refused(photos: Path, tmp_path: Path) -> None:
    from linearsr.models.dc_ae import DeepCompressionCodec

    diffusers = pytest.importorskip("diffusers")
    sana = make_sana(tmp_path / "sana")
    runs = recipe(photos, pretrain={"stage": {"preset": "tiny", "sana": str(sana)}}, experts={})
    check(runs)
    for change, message in (
        ({"latent_channels": 4}, "in_channels is 8, but the codec gives 4"),
        (SHORT_DECODER, "this autoencoder cannot work: .* comes back as 16x16"),
    ):
        autoencoder = diffusers.AutoencoderDC(**{**AUTOENCODER, **change})
        DeepCompressionCodec(autoencoder).save_pretrained(sana / "vae")
        refused(runs, rf"^pretrain: stage\.sana: {message}")
    for part in ("vae", "transformer"):
        shutil.rmtree(sana / part)
        refused(runs, rf"^pretrain: stage\.sana: .*/sana has no folder {part}: put that of a SANA")
        make_sana(sana)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (SHORT_DECODER, "an image of 32x32 comes back as 16x16"),
        ({"latent_channels": 12}, ""),
    ],
)
def test_an_autoencoder_that_cannot_decode_is_refused(
    wrong: dict[str, object], reason: str, photos: Path, tmp_path: Path
) -> None:
    diffusers = pytest.importorskip("diffusers")
    from linearsr.models.dc_ae import DeepCompressionCodec

    autoencoder = {**AUTOENCODER, **wrong}
    channels = dict.fromkeys(("in_channels", "out_channels"), autoencoder["latent_channels"])
    message = f"this autoencoder cannot work: .*{reason}"
    refused(
        single(photos, stage={"kind": "codec", "autoencoder": autoencoder}),
        rf"^stage\.autoencoder: {message}",
    )
    DeepCompressionCodec(diffusers.AutoencoderDC(**autoencoder)).save_pretrained(tmp_path)
    refused(
        single(photos, stage={"kind": "flow", "preset": "tiny", "codec": str(tmp_path), "network": channels}),
        rf"^stage\.codec: {message}",
    )


def test_a_folder_with_something_else_is_named(photos: Path, tmp_path: Path) -> None:
    stem = make_stem(tmp_path / "stem")
    refused(single(photos, stage=flow_stage(photos)), r"^stage\.stem: .*config\.json: no such file")
    stage = {"kind": "flow", "stem": str(stem), "init": str(stem)}
    refused(single(photos, stage=stage), r"^stage\.init: .* written for PredictiveStem")
    refused(single(photos, stage=flow_stage(stem, codec=str(stem))), r"^stage\.codec: .*, not a codec")


def test_validation_photos_are_looked_at_first(photos: Path, tmp_path: Path) -> None:
    folder = make_photos(tmp_path / "val", 2)
    validation = {"folder": str(folder), "every_images": 6, "max_pictures": 2}
    (folder / "2.png").write_bytes(b"not among the first two")
    check(single(photos, validation=validation))
    refused(single(photos, validation={**validation, "max_pictures": 3}), r"^validation\.folder: .*2\.png")
    (folder / "0.jpg").write_bytes(b"no image")
    small = make_photos(tmp_path / "small", 1)
    Image.new("RGB", (3, 40)).save(small / "a.png")
    refused(single(photos, validation={**validation, "folder": str(small)}), r"^validation\.folder: .*a\.png")


def test_a_missing_extra_is_known_at_once(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(section, "find_spec", lambda name: None if name == "diffusers" else name)
    stage = {"kind": "flow", "sana": "owner/name"}
    refused(single(photos, stage=stage), r"stage\.sana: needs .*linearsr\[full\]")


def test_the_photos_of_a_recipe_are_looked_at_once(
    photos: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from linearsr.training import catalogue

    (photos / "bad.png").write_bytes(b"no image")
    validation = {"folder": str(make_photos(photos.parent / "val")), "every_images": 6}
    seen: list[Any] = []
    plain = catalogue.read_size
    monkeypatch.setattr(catalogue, "read_size", lambda *given: (seen.append(given), plain(*given))[1])
    check(recipe(photos, {"validation": validation}))
    check(recipe(photos, {"validation": validation}))
    assert len(seen) == 4
    assert sum("bad.png" in record.message for record in caplog.records) == 1
