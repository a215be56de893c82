"""Training: what a config may say, what a sample depends on, and that a resumed run is the same run."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from errno import ENOSPC
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from safetensors import SafetensorError
from torch.distributed.checkpoint import HuggingFaceStorageWriter

from linearsr.evaluation.registry import METRICS
from linearsr.models.presets import PRESETS
from linearsr.models.transformer import LinearSRTransformer
from linearsr.training.checks import check
from linearsr.training.config import load_config
from linearsr.training.curves import directions, read_curves
from linearsr.training.flow import FlowStage
from linearsr.training.knee import votes
from linearsr.training.optimizer import OptimizerConfig, learning_rate
from linearsr.training.recipe import Run
from linearsr.training.runs import check_begun
from linearsr.training.section import ConfigError
from linearsr.training.trainer import Trainer
from training_tools import (
    NETWORK,
    flow_stage,
    losses,
    make_photos,
    read_records,
    trainer,
    untagged,
    weights,
    write_config,
)


class StopEarly(Exception):
    pass


@pytest.mark.parametrize(
    ("kind", "optimizer", "stop_after"),
    [
        ("stem", "adamw", 2),
        ("stem", "adamw", 6),
        ("stem", "muon", 8),
        ("stem", "came", 10),
        ("flow", "adamw", 8),
        ("flow", "muon", 6),
    ],
)
def test_a_resumed_run_is_the_unbroken_run(
    kind: str, optimizer: str, stop_after: int, photos: Path, stem_folder: Path, tmp_path: Path
) -> None:
    stage: dict[str, object] = {"optimizer": {"name": optimizer, "lr": 1e-3, "warmup_images": 4}}
    if kind == "flow":
        stage["stage"] = flow_stage(stem_folder)
    expected = trainer(photos, tmp_path / "whole", **stage).run()

    def stop(record: dict[str, float]) -> None:
        if record["images"] > stop_after:
            raise StopEarly

    with pytest.raises(StopEarly):
        trainer(photos, tmp_path / "broken", stop, **stage).run()
    again = trainer(photos, tmp_path / "broken", **stage)
    assert again.resume() == stop_after // 6 * 6
    final = again.run()

    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) == 6
    part = "lr_stem" if kind == "stem" else "transformer"
    for name, tensor in weights(expected / part).items():
        assert torch.equal(tensor, weights(final / part)[name]), name


def test_validation_photos_may_have_any_size(photos: Path, stem_folder: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    odd.mkdir()
    Image.new("RGB", (101, 110), (50, 90, 130)).save(odd / "a.png")
    changes = {
        "stage": flow_stage(stem_folder),
        "validation": {"folder": str(odd), "every_images": 6, "degradations": ["bicubic"]},
    }
    trainer(photos, tmp_path / "run", **changes).run()
    validations = [record for record in read_records(tmp_path / "run") if "bicubic/stem/psnr_y" in record]
    assert len(validations) == 2
    assert all(record["bicubic/stem/psnr_y"] > 30 for record in validations)


def test_validation_by_other_metrics(photos: Path, tmp_path: Path) -> None:
    validation = {
        "folder": str(photos),
        "every_images": 6,
        "max_pictures": 1,
        "degradations": ["bicubic"],
        "metrics": ["lpips", "psnr_y"],
    }
    trainer(photos, tmp_path / "run", validation=validation).run()
    validations = [record for record in read_records(tmp_path / "run") if "bicubic/mean/lpips" in record]
    assert len(validations) == 2
    assert set(validations[0]) - {"images"} == {"bicubic/mean/lpips", "bicubic/mean/psnr_y"}
    assert all(0 < record["bicubic/mean/lpips"] < 1 for record in validations)
    curves = read_curves(tmp_path / "run")
    assert directions(curves.values) == {"bicubic/mean/lpips": False, "bicubic/mean/psnr_y": True}


def test_metrics_without_a_reference_look_at_the_sample(
    stem_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of pyiqa too; in the knee they vote in their own direction, beside the fidelity of the mean."""

    def score(x: torch.Tensor) -> torch.Tensor:
        return x.std()

    pyiqa = SimpleNamespace(create_metric=lambda name, device: score)
    monkeypatch.setitem(sys.modules, "pyiqa", pyiqa)
    monkeypatch.setattr("linearsr.evaluation.registry.find_spec", lambda name: True)
    large = tmp_path / "large"
    large.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((192, 192), Image.Resampling.BICUBIC).save(large / "a.png")
    validation = {
        "folder": str(large),
        "every_images": 2,
        "degradations": ["bicubic"],
        "metrics": ["psnr_y", "haarpsi", "niqe", "musiq"],
    }
    made = trainer(
        large, tmp_path / "run", validation=validation, stage=flow_stage(stem_folder), total_images=2
    )
    made.run()
    found = set(read_curves(tmp_path / "run").values)
    assert {name for name in found if name.startswith("bicubic/sample/")} == {
        f"bicubic/sample/{name}" for name in ("psnr_y", "haarpsi", "niqe", "musiq")
    }
    assert {"bicubic/mean/psnr_y", "bicubic/mean/haarpsi"} <= found
    assert not {"bicubic/mean/niqe", "bicubic/mean/musiq", "bicubic/stem/niqe"} & found
    better = directions(found)
    assert (better["bicubic/sample/niqe"], better["bicubic/sample/musiq"]) == (False, True)
    patterns = made.config.knee.metrics
    assert {name for name in found if votes(name, patterns)} == {
        "bicubic/mean/psnr_y",
        "bicubic/mean/haarpsi",
        *(f"bicubic/sample/{name}" for name in ("haarpsi", "niqe", "musiq")),
    }
    assert not votes("loss", patterns)
    assert not votes("train/loss", patterns)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fid", "'fid' is unknown: choose from psnr_y"),
        ("vmaf", "'vmaf' is unknown: choose from psnr_y"),
        ("musiq", r"musiq needs pip install 'linearsr\[iqa\]'"),
    ],
)
def test_validation_metrics_must_be_at_hand(
    name: str, message: str, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linearsr.evaluation.registry.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=f"validation.metrics: .*{message}"):
        load_config(finished, [f"validation.metrics=[{name}]"])


def test_every_metric_of_an_evaluation_has_its_direction() -> None:
    names = [f"mild/sample/{name}" for name in METRICS]
    assert list(directions(names).values()) == [metric.higher_is_better for metric in METRICS.values()]


def test_validation_photos_must_be_large_enough_for_every_metric(finished: Path) -> None:
    run = Run("run", load_config(finished, ["validation.metrics=[ms_ssim]"]))
    with pytest.raises(ConfigError, match="has less than 176 pixels on a side: leave it out"):
        check([run])


def test_photos_of_one_name_have_a_picture_each(photos: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        make_photos(tmp_path / "two" / folder, count=1)
    validation = {"folder": str(tmp_path / "two"), "every_images": 12, "degradations": ["bicubic"]}
    trainer(photos, tmp_path / "run", validation=validation).run()
    pictures = sorted(picture.name for picture in (tmp_path / "run/samples/0000000012").iterdir())
    assert pictures == ["0-0-bicubic.png", "1-0-bicubic.png"]


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a run that is done."""
    place = tmp_path_factory.mktemp("finished")
    path = write_config(place / "a.yaml", photos, place / "run")
    Trainer(load_config(path)).run()
    return path


@pytest.mark.parametrize(
    ("key", "before", "now"),
    [
        ("seed", "0", "1"),
        ("batch_size", "2", "3"),
        ("mixed_precision", "no", "bf16"),
        ("ema_decay", "0.9", "0.8"),
        ("stage.stem", "{'channels': 8, 'num_blocks': 1}", "{'channels': 8, 'num_blocks': 2}"),
        ("data.lr_crop", "8", "10"),
        ("data.degradations", "{'realesrgan': 1.0}", "{'bicubic': 1.0}"),
        ("data.best_share", "1.0", "0.5"),
        ("data.degrade_on", "workers", "device"),
        ("optimizer.name", "adamw", "muon"),
        ("validation.degradations", "['mild', 'bicubic']", "['mild']"),
        ("validation.metrics", "['psnr_y', 'ssim_y']", "['psnr_y', 'lpips']"),
        ("validation.max_pictures", "1", "2"),
    ],
)
def test_a_changed_config_is_not_resumed(key: str, before: str, now: str, finished: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Trainer(load_config(finished, [f"{key}={now}".replace("'", "")])).resume()
    assert str(caught.value).startswith(
        f"{key}: was {before} when this run began and is {now} now: set it back"
    )


@pytest.mark.parametrize(
    "change", ["total_images=14", "data.workers=1", "data.cache_gib=1", "optimizer.lr=1"]
)
def test_what_the_losses_so_far_do_not_depend_on_may_change(change: str, finished: Path) -> None:
    assert Trainer(load_config(finished, [change])).resume() == 12


@pytest.mark.parametrize("change", ["optimizer.lr=1", "optimizer.weight_decay=0.5", "knee.patience=9"])
def test_a_finished_run_is_not_taken_for_one_of_other_settings(change: str, finished: Path) -> None:
    run = Run("run", load_config(finished))
    check_begun([run])
    changed = Run("run", load_config(finished, [change]))
    with pytest.raises(ConfigError, match=f"{change.split('=', maxsplit=1)[0]}: was "):
        check_begun([changed])
    # which is no change of what was trained already where there is more to come
    check_begun([Run("run", load_config(finished, [change, "total_images=14"]))])


def test_a_file_of_ones_own_that_says_something_else_is_a_change(photos: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("orders: [{blur_prob: 0.5}]")
    validation = {"folder": str(photos), "every_images": 12, "max_pictures": 1, "degradations": [str(own)]}
    trainer(photos, tmp_path / "run", validation=validation).run()
    assert any(key.startswith("own/") for record in read_records(tmp_path / "run") for key in record)
    assert trainer(photos, tmp_path / "run", validation=validation).resume() == 12
    own.write_text("orders: [{blur_prob: 0.6}]")
    with pytest.raises(ConfigError, match=r"own\.yaml: was .* when this run began and is"):
        trainer(photos, tmp_path / "run", validation=validation).resume()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_new_weight_decay_is_the_one_in_use(optimizer: str, photos: Path, tmp_path: Path) -> None:
    rates = {"name": optimizer, "lr": 1e-3, "warmup_images": 4}
    trainer(photos, tmp_path / "run", optimizer=rates).run()
    again = trainer(photos, tmp_path / "run", optimizer={**rates, "weight_decay": 0.5}, total_images=14)
    again.resume()
    groups = again.optimizer.param_groups
    assert {group["weight_decay"] for group in groups} == {0.5}
    if optimizer == "muon":
        assert {group["step"] for group in groups} == {12 // again.config.batch_size}


def test_half_a_line_of_metrics_is_forgotten(photos: Path, tmp_path: Path) -> None:
    trainer(photos, tmp_path / "run").run()
    whole = losses(tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"images": 1')
    again = trainer(photos, tmp_path / "run")
    again.resume()
    again.run()
    assert losses(tmp_path / "run") == whole


def test_a_velocity_network_is_trained_as_one(photos: Path, stem_folder: Path, tmp_path: Path) -> None:
    """The loss is of the clean latent that the prediction stands for, whatever the network predicts."""
    stage = flow_stage(stem_folder)
    found = {}
    for kind in ("sample", "flow_prediction"):
        stage["network"]["prediction_type"] = kind
        objective = trainer(photos, tmp_path / kind, stage=stage).objective
        lr, hr = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 32, 32)

        def silent(z: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
            return torch.zeros_like(z)

        found[kind] = float(objective.loss(silent, untagged(lr, hr, [0]))["flow"])
    assert found["sample"] < 1e-6 < found["flow_prediction"]


def test_a_checkpoint_cut_short_is_not_resumed_from(photos: Path, tmp_path: Path) -> None:
    trainer(photos, tmp_path / "run").run()
    (tmp_path / "run/checkpoints/.0000000018.tmp").mkdir()
    assert trainer(photos, tmp_path / "run").resume() == 12


def test_what_keeps_a_checkpoint_from_its_disk_is_said_as_it_is(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer(photos, tmp_path / "run").run()
    part = next((tmp_path / "run/checkpoints").glob("*12/network/*"))
    part.write_bytes(part.read_bytes()[:1000])
    with pytest.raises(SafetensorError):
        trainer(photos, tmp_path / "run").resume()
    part.unlink()
    with pytest.raises(ConfigError, match=r"is not whole, network/\S+ is missing: remove it"):
        trainer(photos, tmp_path / "run").resume()

    def full(*args: object) -> None:
        raise OSError(ENOSPC, "No space left on device")

    monkeypatch.setattr(HuggingFaceStorageWriter, "write_data", full)
    with pytest.raises(OSError, match="No space left"):
        trainer(photos, tmp_path / "other").run()


def test_a_folder_in_use_is_refused(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with FileLock(run / ".lock"):
        for begin in (trainer(photos, run).resume, trainer(photos, run).run):
            with pytest.raises(ConfigError, match=r"^run_dir: .*run is in use by a run of another process"):
                begin()
    trainer(photos, run).run()
    assert trainer(photos, run).resume() == 12


WANDB = """
calls = []

class Run:
    def log(self, values, step=None, **more):
        calls.append((step, set(values)))

    def finish(self):
        calls.append("finished")

def init(**settings):
    calls.append(settings)
    return Run()
"""


def test_every_figure_goes_to_the_trackers(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through accelerate; a resumed run goes on in the one of its folder."""
    (tmp_path / "wandb.py").write_text(WANDB)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    trainer(photos, tmp_path / "run", trackers=["wandb"]).run()
    calls = sys.modules["wandb"].calls  # type: ignore[attr-defined]
    assert (calls[0]["project"], calls[0]["resume"], calls[-1]) == ("linearsr", "allow", "finished")
    seen = [
        (r["images"], {k for k, v in r.items() if isinstance(v, float)})
        for r in read_records(tmp_path / "run")
    ]
    assert calls[1:-1] == seen
    assert not (tmp_path / "run/tensorboard").exists()
    monkeypatch.setattr("linearsr.training.section.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="trackers: needs wandb: pip install wandb"):
        trainer(photos, tmp_path / "other", trackers=["wandb"])


def test_a_compiled_network_has_the_losses_of_one_that_is_not(
    photos: Path, stem_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Captured by the compiler; only the code that it writes then, which takes minutes, is left out."""
    graphs: list[torch.fx.GraphModule] = []

    def capture(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=capture))
    for wanted in (False, True):
        assert not graphs
        changes = {"stage": flow_stage(stem_folder), "compile": wanted, "total_images": 6}
        trainer(photos, tmp_path / str(wanted), **changes).run()
    assert graphs
    assert np.allclose(losses(tmp_path / "True"), losses(tmp_path / "False"), rtol=1e-5)
    plain, compiled = (weights(tmp_path / run / "knee/transformer") for run in ("False", "True"))
    assert plain.keys() == compiled.keys()


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
    trainer(photos, tmp_path / "run", **changes).run()
    values = [loss for _, loss in losses(tmp_path / "run")]
    assert np.mean(values[-20:]) < 0.8 * np.mean(values[:20])


def test_an_expert_trains_on_its_span_and_starts_from_another(
    photos: Path, stem_folder: Path, tmp_path: Path
) -> None:
    start = trainer(photos, tmp_path / "one", stage=flow_stage(stem_folder)).run()
    stage = flow_stage(
        stem_folder, init=str(start / "transformer"), boundaries=[0.223, 0.875, 0.939], expert=2
    )
    stage["others"] = [stage["init"]]
    del stage["network"]
    made = trainer(photos, tmp_path / "two", stage=stage).run()
    final = LinearSRTransformer.from_pretrained(made / "transformer")
    before = LinearSRTransformer.from_pretrained(start / "transformer")
    assert final.config == before.config
    assert not torch.equal(final.proj_out.weight, before.proj_out.weight)
    figures = {name for record in read_records(tmp_path / "two") for name in record}
    assert {"bicubic/denoised/psnr_y", "bicubic/sample/psnr_y"} <= figures


def test_an_expert_is_validated_on_the_walk_of_all(stem_folder: Path, tmp_path: Path) -> None:
    """Each step by the network of its time: the one that is trained in its span, the others elsewhere."""
    base = LinearSRTransformer(replace(PRESETS["tiny"], **NETWORK))
    base.save_pretrained(tmp_path)
    stage = flow_stage(stem_folder, boundaries=[0.3, 0.6], expert=1, init=str(tmp_path), validation_steps=8)
    del stage["network"]
    asked: dict[str, list[float]] = {"own": [], "others": []}

    def spied(who: str) -> Callable[..., torch.Tensor]:
        return lambda z, times, *_: asked[who].append(float(times[0])) or torch.zeros_like(z)

    for folders in ([str(tmp_path)], [str(tmp_path)] * 3):
        objective = FlowStage(**stage, others=folders).objective()
        for other in objective.others[::2]:
            other.forward = spied("others")  # type: ignore[method-assign]
        pair = untagged(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 16, 16), [0])
        assert set(objective.predict(spied("own"), pair)) == {"denoised", "sample", "stem"}  # type: ignore[arg-type]
    assert asked["own"] == pytest.approx([0.6, 0.5, 0.375] * 2)
    assert asked["others"] == [1.0, 0.875, 0.75, 0.625, 0.25, 0.125] * 2
    alone = FlowStage(**stage).objective()
    assert set(alone.predict(spied("own"), pair)) == {"denoised", "stem"}  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="others: 2 folders: give one, or 3"):
        FlowStage(**stage, others=folders[:2])


def drawn_times(**stage: object) -> torch.Tensor:
    """The times of 5000 samples."""
    seen: list[torch.Tensor] = []
    objective = FlowStage(**stage).objective()

    def silent(z: torch.Tensor, times: torch.Tensor, *_: object) -> torch.Tensor:
        seen.append(times)
        return torch.zeros_like(z)

    for start in range(0, 5000, 500):
        images = torch.zeros(500, 3, 2, 2), torch.zeros(500, 3, 8, 8)
        objective.loss(silent, untagged(*images, list(range(start, start + 500))))
    return torch.cat(seen)


def test_an_expert_sees_its_span_only(stem_folder: Path) -> None:
    times = drawn_times(**flow_stage(stem_folder, boundaries=[0.223, 0.875, 0.939], expert=2))
    assert 0.223 < times.min() < 0.24
    assert 0.86 < times.max() <= 0.875


def test_pure_noise_has_its_share(stem_folder: Path) -> None:
    times = drawn_times(**flow_stage(stem_folder, pure_noise_prob=0.25))
    assert float((times == 1).float().mean()) == pytest.approx(0.25, abs=0.02)


def test_a_batch_in_parts_gives_the_losses_of_the_whole(
    photos: Path, stem_folder: Path, tmp_path: Path
) -> None:
    stage = flow_stage(stem_folder)
    for parts in (1, 2):
        run_dir = tmp_path / str(parts)
        trainer(photos, run_dir, stage=stage, batch_size=4, total_images=24, accumulation=parts).run()
    whole, split = (read_records(tmp_path / name) for name in ("1", "2"))
    for name in ("loss", "grad_norm"):
        found, expected = ([record[name] for record in run if name in record] for run in (split, whole))
        assert len(expected) == 6
        assert found == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="batch_size 4 is no multiple of accumulation 3"):
        trainer(photos, tmp_path / "3", batch_size=4, accumulation=3)


def test_noise_and_time_of_a_sample_do_not_depend_on_its_batch(stem_folder: Path) -> None:
    objective = FlowStage(**flow_stage(stem_folder)).objective()
    generator = torch.Generator().manual_seed(0)
    lr = torch.rand(4, 3, 8, 8, generator=generator) * 2 - 1
    hr = torch.rand(4, 3, 32, 32, generator=generator) * 2 - 1
    seeds = [7, 8, 9, 10]
    together = objective.loss(objective.network, untagged(lr, hr, seeds))["flow"]
    alone = [
        objective.loss(objective.network, untagged(lr[i : i + 1], hr[i : i + 1], seeds[i : i + 1]))["flow"]
        for i in range(4)
    ]
    assert float(together) == pytest.approx(float(torch.stack(alone).mean()), rel=1e-5)


def test_a_run_ends_at_its_knee_and_keeps_the_weights_there(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The detector is given its answer: what it finds in curves is tested elsewhere."""
    from linearsr.training import trainer as module
    from linearsr.training.knee import Knee

    def knee_at_second(steps: list[int], curves: dict[str, list[float]], *_: object) -> Knee:
        assert set(curves) == {"bicubic/mean/psnr_y", "bicubic/mean/ssim_y"}
        found = len(steps) >= 4
        phases = ("improving",) * len(steps)
        return Knee(steps[1] if found else None, None, 0.9, found, tuple(steps), phases)

    monkeypatch.setattr(module, "find_knee", knee_at_second)
    validation = {"folder": str(photos), "every_images": 2, "max_pictures": 1, "degradations": ["bicubic"]}
    changes = {"validation": validation, "optimizer": {"lr": 1e-3, "final_lr": 1e-3, "warmup_images": 0}}
    run, short = tmp_path / "run", tmp_path / "short"
    knee = trainer(photos, run, total_images=40, **changes).run()
    assert losses(run)[-1][0] == 8
    assert json.loads((run / "knee.json").read_text())["images"] == 4

    trainer(photos, short, total_images=4, **changes).run()
    for name, tensor in weights(knee / "lr_stem").items():
        assert torch.equal(tensor, weights(short / "final" / "lr_stem")[name]), name


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
        ({"batch": 3}, [], r"batch: is unknown: did you mean batch_size\?"),
        ({"lr": 3}, [], r"lr: is no setting of this section: it belongs in optimizer\.lr"),
        ({"total_imags": 8, "total_images": None}, [], r"did you mean total_images\?"),
        ({"stage": {"kind": "stem", "formulas": {}}}, [], r"stage\.formulas \(kind distill\)"),
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
        (
            {"stage": {"kind": "flow", "sana": "x", "network": {"num_layers": 3}}},
            [],
            "num_layers is SANA's own",
        ),
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


def test_a_run_may_have_another_precision_than_the_one_before(photos: Path, tmp_path: Path) -> None:
    """`accelerate` keeps the precision of a process's first run."""
    for precision in ("no", "bf16", "no"):
        run = trainer(photos, tmp_path / f"run-{precision}", mixed_precision=precision)
        assert run.accelerator.mixed_precision == precision
