"""Training: what a config may say, what a sample depends on, and that a resumed run is the same run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from linearsr.models.lr_stem import PredictiveStem, PredictiveStemConfig
from linearsr.models.transformer import LinearSRTransformer
from linearsr.training.config import OptimizerConfig, load_config
from linearsr.training.section import ConfigError
from linearsr.training.trainer import METRICS_FILE, Trainer, learning_rate


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(3):
        small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        small.resize((96, 72), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def stem_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("stem")
    PredictiveStem(PredictiveStemConfig(channels=8, num_blocks=1)).save_pretrained(folder)
    return folder


def write_config(path: Path, photos: Path, run_dir: Path, **changes: object) -> Path:
    config = {
        "run_dir": str(run_dir),
        "batch_size": 2,
        "total_images": 12,
        "save_every_images": 6,
        "ema_decay": 0.9,
        "stage": {"kind": "stem", "stem": {"channels": 8, "num_blocks": 1}},
        "data": {"folders": {str(photos): 1.0}, "lr_crop": 8, "workers": 0},
        "validation": {"folder": str(photos), "every_images": 6, "max_pictures": 1},
        "optimizer": {"lr": 1e-3, "warmup_images": 4},
        **changes,
    }
    path.write_text(yaml.safe_dump(config))
    return path


def flow_stage(stem_folder: Path, **changes: object) -> dict[str, object]:
    network = {"in_channels": 192, "out_channels": 192, "lr_channels": 32, "prediction_type": "sample"}
    return {"kind": "flow", "stem": str(stem_folder), "preset": "tiny", "network": network, **changes}


def losses(run_dir: Path) -> list[tuple[int, float]]:
    records = [json.loads(line) for line in (run_dir / METRICS_FILE).read_text().splitlines()]
    return [(r["images"], r.get("l1", r.get("flow"))) for r in records if "grad_norm" in r]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "diffusion_pytorch_model.safetensors")


class StopEarly(Exception):
    pass


@pytest.mark.parametrize("kind", ["stem", "flow"])
@pytest.mark.parametrize("stop_after", [2, 6, 8, 10])
def test_a_resumed_run_is_the_unbroken_run(
    kind: str, stop_after: int, photos: Path, stem_folder: Path, tmp_path: Path
) -> None:
    stage = {"stage": flow_stage(stem_folder)} if kind == "flow" else {}
    whole = load_config(write_config(tmp_path / "a.yaml", photos, tmp_path / "whole", **stage))
    broken = load_config(write_config(tmp_path / "b.yaml", photos, tmp_path / "broken", **stage))
    expected = Trainer(whole).run()

    def stop(record: dict[str, float]) -> None:
        if record["images"] > stop_after:
            raise StopEarly

    with pytest.raises(StopEarly):
        Trainer(broken, stop).run()
    trainer = Trainer(broken)
    assert trainer.resume() == stop_after // 6 * 6
    final = trainer.run()

    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) == 6
    for name, tensor in weights(expected).items():
        assert torch.equal(tensor, weights(final)[name]), name


def test_validation_photos_may_have_any_size(photos: Path, stem_folder: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    odd.mkdir()
    Image.new("RGB", (101, 110), (50, 90, 130)).save(odd / "a.png")
    changes = {
        "stage": flow_stage(stem_folder),
        "validation": {"folder": str(odd), "every_images": 6, "degradations": ["bicubic"]},
    }
    Trainer(load_config(write_config(tmp_path / "a.yaml", photos, tmp_path / "run", **changes))).run()
    records = [json.loads(line) for line in (tmp_path / "run" / METRICS_FILE).read_text().splitlines()]
    validations = [record for record in records if "bicubic/stem/psnr_y" in record]
    assert len(validations) == 2
    assert all(record["bicubic/stem/psnr_y"] > 30 for record in validations)


def test_a_changed_config_is_not_resumed(photos: Path, tmp_path: Path) -> None:
    path = write_config(tmp_path / "a.yaml", photos, tmp_path / "run")
    Trainer(load_config(path)).run()
    with pytest.raises(ConfigError, match="seed: was 0 when this run began and is 1 now"):
        Trainer(load_config(path, ["seed=1"])).resume()
    assert Trainer(load_config(path, ["total_images=14"])).resume() == 12


def test_half_a_line_of_metrics_is_forgotten(photos: Path, tmp_path: Path) -> None:
    config = load_config(write_config(tmp_path / "a.yaml", photos, tmp_path / "run"))
    Trainer(config).run()
    whole = losses(tmp_path / "run")
    with (tmp_path / "run" / METRICS_FILE).open("a") as file:
        file.write('{"images": 1')
    trainer = Trainer(config)
    trainer.resume()
    trainer.run()
    assert losses(tmp_path / "run") == whole


def test_a_velocity_network_is_trained_as_one(photos: Path, stem_folder: Path, tmp_path: Path) -> None:
    """The loss is of the clean latent that the prediction stands for, whatever the network predicts."""
    stage = flow_stage(stem_folder)
    found = {}
    for kind in ("sample", "flow_prediction"):
        stage["network"]["prediction_type"] = kind
        path = write_config(tmp_path / f"{kind}.yaml", photos, tmp_path / kind, stage=stage)
        objective = Trainer(load_config(path)).objective
        lr, hr = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 32, 32)

        def silent(z: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
            return torch.zeros_like(z)

        rng = torch.Generator().manual_seed(0)
        found[kind] = float(objective.loss(silent, lr, hr, rng)["flow"])
    assert found["sample"] < 1e-6 < found["flow_prediction"]


def test_a_checkpoint_cut_short_is_not_resumed_from(photos: Path, tmp_path: Path) -> None:
    config = load_config(write_config(tmp_path / "a.yaml", photos, tmp_path / "run"))
    Trainer(config).run()
    (tmp_path / "run/checkpoints/.0000000018.tmp").mkdir()
    assert Trainer(config).resume() == 12


def test_the_loss_falls(photos: Path, tmp_path: Path) -> None:
    changes = {
        "total_images": 400,
        "batch_size": 4,
        "save_every_images": 400,
        "data": {
            "folders": {str(photos): 1.0},
            "lr_crop": 8,
            "workers": 0,
            "degradations": {"bicubic": 1.0},
        },
        "optimizer": {"lr": 3e-3, "warmup_images": 40},
    }
    Trainer(load_config(write_config(tmp_path / "a.yaml", photos, tmp_path / "run", **changes))).run()
    values = [loss for _, loss in losses(tmp_path / "run")]
    assert np.mean(values[-20:]) < 0.8 * np.mean(values[:20])


def test_an_expert_trains_on_its_span_and_starts_from_another(
    photos: Path, stem_folder: Path, tmp_path: Path
) -> None:
    first = write_config(tmp_path / "a.yaml", photos, tmp_path / "one", stage=flow_stage(stem_folder))
    start = Trainer(load_config(first)).run()
    stage = flow_stage(stem_folder, init=str(start), boundaries=[0.223, 0.875, 0.939], expert=2)
    del stage["network"]
    second = write_config(tmp_path / "b.yaml", photos, tmp_path / "two", stage=stage)
    trainer = Trainer(load_config(second))
    times = trainer.objective._draw_times(5000, torch.Generator().manual_seed(0))  # type: ignore[attr-defined]
    assert 0.223 <= times.min() < 0.24
    assert 0.86 < times.max() <= 0.875
    final = LinearSRTransformer.from_pretrained(trainer.run())
    before = LinearSRTransformer.from_pretrained(start)
    assert final.config == before.config
    assert not torch.equal(final.proj_out.weight, before.proj_out.weight)


def test_pure_noise_has_its_share(photos: Path, stem_folder: Path, tmp_path: Path) -> None:
    config = write_config(
        tmp_path / "a.yaml", photos, tmp_path / "r", stage=flow_stage(stem_folder, pure_noise_prob=0.25)
    )
    trainer = Trainer(load_config(config))
    times = trainer.objective._draw_times(8000, torch.Generator().manual_seed(0))  # type: ignore[attr-defined]
    assert float((times == 1).float().mean()) == pytest.approx(0.25, abs=0.02)


def test_learning_rate_warms_up_and_falls() -> None:
    config = OptimizerConfig(lr=1.0, final_lr=0.1, warmup_images=10)
    rates = [learning_rate(config, i, 110) for i in range(111)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.55)
    assert rates[110] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ({"batch": 3}, [], "batch: Extra inputs"),
        ({"batch_size": 0}, [], "batch_size: Input should be greater than 0"),
        ({"stage": {"kind": "magic"}}, [], "stage"),
        ({}, ["data.degradations={fog: 1}"], "data.degradations: .*unknown degradation 'fog'"),
        ({}, ["optimizer.lr=-1"], "optimizer.lr: Input should be greater than 0"),
        ({}, ["optimizer"], "write it as key=value"),
        ({}, ["batch_size.x=1"], "batch_size is a value"),
        ({"stage": {"kind": "flow", "stem": "x", "preset": "huge"}}, [], "stage.flow.preset: .*huge"),
        ({"stage": {"kind": "flow", "stem": "x", "expert": 7}}, [], "stage.flow: .*expert 7 does not exist"),
        ({"stage": {"kind": "flow", "stem": "x", "boundaries": [0.9, 0.1]}}, [], "must rise strictly"),
        ({"stage": {"kind": "flow", "stem": "x", "network": {"depth": 3}}}, [], "stage.flow: .*depth"),
        ({"stage": {"kind": "stem", "stem": {"foo": 1}}}, [], "stage.stem: .*foo"),
        ({"total_images": 1}, [], "total_images 1 is less than one batch of 2"),
        ({}, ["optimizer.lr=["], "no valid YAML"),
    ],
)
def test_config_mistakes_name_the_key(
    changes: dict[str, object], overrides: list[str], message: str, photos: Path, tmp_path: Path
) -> None:
    path = write_config(tmp_path / "c.yaml", photos, tmp_path / "run", **changes)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path, overrides)
    assert "\n" not in str(caught.value)


def test_overrides_reach_their_key(photos: Path, tmp_path: Path) -> None:
    path = write_config(tmp_path / "c.yaml", photos, tmp_path / "run")
    config = load_config(path, ["optimizer.lr=1e-2", "total_images=99"])
    assert (config.optimizer.lr, config.total_images) == (0.01, 99)


@pytest.mark.parametrize("text", ["a: [", "- 1", None])
def test_an_unreadable_config_is_one_line(text: str | None, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml") as caught:
        load_config(path)
    assert "\n" not in str(caught.value)
