"""What a dry run says: photos, parameters and memory, without building anything."""

from dataclasses import replace
from pathlib import Path

import pytest

from linearsr.models.lr_stem import StridedStem, StridedStemConfig
from linearsr.models.transformer import LinearSRTransformer
from linearsr.models.transformer_config import PRESETS
from linearsr.training.checks import check
from linearsr.training.section import ConfigError
from training_tools import (
    AUTOENCODER,
    CODEC,
    NETWORK,
    described,
    flow_stage,
    make_stem,
    recipe,
    refused,
    single,
)


def test_hub_ids_are_left_to_the_hub(photos: Path) -> None:
    """What is there is taken to be as SANA's."""
    for key, changes in (("codec", {"network": {"in_channels": 32, "out_channels": 32}}), ("sana", {})):
        stage = {"kind": "flow", key: "owner/name", **changes}
        check(single(photos, stage=stage))
        data = {"folders": {str(photos): 1.0}, "lr_crop": 9}
        refused(single(photos, data=data, stage=stage), "not a multiple of 8")


def test_an_impossible_autoencoder_is_one_line(photos: Path) -> None:
    with pytest.raises(ConfigError, match=r"^stage\.autoencoder: "):
        described(single(photos, stage={"kind": "codec", "autoencoder": {"wings": 2}}))


def test_a_dry_run_says_which_photos(photos: Path) -> None:
    data = {"folders": {str(photos): 1.0}, "lr_crop": 8, "best_share": 0.5}
    assert described(single(photos, data=data))["single"]["data"].startswith("best 50% of 3 photos")


def frozen(plan: dict[str, str]) -> float:
    """MiB of the parts that are not trained."""
    return float(plan["memory"].split("frozen parts ")[1].split(" MiB")[0])


def test_each_process_has_its_part_of_a_batch(
    photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def activations() -> float:
        runs = single(photos, batch_size=64, total_images=64, stage={"kind": "stem"})
        return float(described(runs)["single"]["memory"].split("activations ")[1].split()[0])

    alone = activations()
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert activations() == pytest.approx(alone / 4, rel=0.1)


def test_what_a_distilled_network_is_judged_by_is_counted(photos: Path, tmp_path: Path) -> None:
    stem = make_stem(tmp_path / "stem")
    stage = {**flow_stage(stem), "kind": "distill", "adversarial": 0.1}
    judged, alone = (
        described(single(photos, stage={**stage, "adversarial": weight}))["single"] for weight in (0.1, 0)
    )
    assert "without" not in judged["memory"]
    assert float(judged["network"].split()[0]) > float(alone["network"].split()[0])
    wide = replace(PRESETS["tiny"], **NETWORK, num_attention_heads=32)
    LinearSRTransformer(wide).save_pretrained(tmp_path / "teacher")
    taught = described(single(photos, stage={**stage, "teacher": str(tmp_path / "teacher")}))["single"]
    assert frozen(taught) > frozen(judged)
    assert "without" not in taught["memory"]


def test_the_codec_of_a_folder_is_looked_at(photos: Path, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    from linearsr.models.dc_ae import DeepCompressionCodec

    folder = tmp_path / "codec"
    DeepCompressionCodec(diffusers.AutoencoderDC(**AUTOENCODER)).save_pretrained(folder)
    lines = described(single(photos, stage={"kind": "flow", "preset": "tiny", "codec": str(folder)}))[
        "single"
    ]
    assert "frozen parts" in lines["memory"]
    known = described(single(photos, stage={"kind": "codec", "init": str(folder)}))["single"]["network"]
    made = described(single(photos, stage={"kind": "codec", "autoencoder": AUTOENCODER}))["single"]["network"]
    assert known == made


def test_a_stem_that_is_trained_along_counts(photos: Path) -> None:
    network = LinearSRTransformer(PRESETS["tiny"])
    stem = StridedStem(StridedStemConfig(channels=8, num_layers=1))
    count = sum(p.numel() for part in (network, stem) for p in part.parameters())
    plans = described(recipe(photos, **CODEC, experts={}))
    assert plans["pretrain"]["network"] == f"{count / 1e6:.2f} M parameters"
    assert "frozen parts" in plans["experts/0"]["memory"]


def test_of_one_stage_the_others_are_not_sized_up(photos: Path) -> None:
    runs = recipe(photos)
    assert list(described(runs, stage="experts")) == ["experts/0", "experts/1"]
    assert described(runs, stage="pretrain")["pretrain"] == described(runs)["pretrain"]
