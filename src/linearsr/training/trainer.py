"""The training loop: one stage, one network, from a config to a folder of weights.

Every random draw follows from the seed and the number of images seen, so a run that was stopped and resumed
goes through the same losses as one that was not.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Subset

from linearsr.checkpoints import PretrainedModule
from linearsr.evaluation.metrics import psnr_y, ssim_y
from linearsr.models.codec import pad_to_multiple
from linearsr.training.config import OptimizerConfig, TrainConfig
from linearsr.training.data import CropPairs, validation_pairs
from linearsr.training.objectives import Objective, build_objective
from linearsr.training.section import ConfigError
from linearsr.training.state import latest_checkpoint, load_checkpoint, save_checkpoint

Report = Callable[[dict[str, Any]], None]
"""Called with every record that is also written to `metrics.jsonl`."""

METRICS_FILE = "metrics.jsonl"
CONFIG_FILE = "config.json"


def learning_rate(config: OptimizerConfig, images: int, total_images: int) -> float:
    """Linear warm-up, then a cosine down to `final_lr` at `total_images`."""
    if images < config.warmup_images:
        return config.lr * (images + 1) / config.warmup_images
    done = (images - config.warmup_images) / max(1, total_images - config.warmup_images)
    return config.final_lr + (config.lr - config.final_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class Trainer:
    """One run of one stage.

    Args:
        config: what to train, on what, and where to write.
        report: receives each metrics record, e.g. to show progress.
    """

    def __init__(self, config: TrainConfig, report: Report | None = None) -> None:
        self.config = config
        self.report = report or (lambda record: None)
        torch.manual_seed(config.seed)
        self.accelerator = Accelerator(mixed_precision=config.mixed_precision)
        processes = self.accelerator.num_processes
        if config.batch_size % processes:
            raise ConfigError(f"batch_size: {config.batch_size} is no multiple of the {processes} processes")
        self.objective: Objective = build_objective(config.stage, self.accelerator.device)
        self.ema = AveragedModel(
            self.objective.network,
            device=self.accelerator.device,
            multi_avg_fn=_ema_update(config.ema_decay),
            use_buffers=True,
        )
        optimizer = torch.optim.AdamW(
            self.objective.network.parameters(),
            lr=config.optimizer.lr,
            betas=config.optimizer.betas,
            weight_decay=config.optimizer.weight_decay,
        )
        self.network: nn.Module
        self.network, self.optimizer = self.accelerator.prepare(self.objective.network, optimizer)
        self.images = 0
        self.checkpoints = config.run_dir / "checkpoints"

    @property
    def _averaged(self) -> PretrainedModule:
        module = self.ema.module
        assert isinstance(module, PretrainedModule)
        return module

    def resume(self) -> int:
        """Continue from the newest checkpoint of the run folder, if there is one; returns its image count."""
        folder = latest_checkpoint(self.checkpoints)
        if folder is not None:
            self._check_same_run()
            self.images = load_checkpoint(folder, self.objective.network, self.ema, self.optimizer)
        return self.images

    def _check_same_run(self) -> None:
        """Losses can only go on unbroken where nothing that they depend on was changed."""
        path = self.config.run_dir / CONFIG_FILE
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        now = self.config.model_dump(mode="json")
        for key in ("seed", "batch_size", "stage", "mixed_precision", "ema_decay"):
            if key in before and before[key] != now[key]:
                raise ConfigError(
                    f"{key}: was {before[key]} when this run began and is {now[key]} now: "
                    "set it back, or start another run_dir"
                )

    def run(self) -> Path:
        """Train to `total_images`; returns the folder of the averaged weights."""
        config = self.config
        if self.accelerator.is_main_process:
            config.run_dir.mkdir(parents=True, exist_ok=True)
            _forget_after(config.run_dir / METRICS_FILE, self.images)
            (config.run_dir / CONFIG_FILE).write_text(config.model_dump_json(indent=2), encoding="utf-8")
        self.accelerator.wait_for_everyone()
        validation = {
            name: validation_pairs(
                config.validation.folder, name, self.objective.scale, config.validation.max_pictures
            )
            for name in config.validation.degradations
        }
        self.network.train()
        started, first = time.monotonic(), self.images
        for lr, hr, _ in self._batches():
            losses = self._step(lr, hr)
            before, self.images = self.images, self.images + config.batch_size
            pace = (self.images - first) / (time.monotonic() - started)
            self._log({"images": self.images, **losses, "images_per_second": round(pace, 2)})
            if _crossed(before, self.images, config.validation.every_images):
                self._log({"images": self.images, **self._validate(validation)})
            if _crossed(before, self.images, config.save_every_images):
                self._save()
        final = config.run_dir / "final"
        if self.accelerator.is_main_process:
            self._averaged.save_pretrained(final)
        return final

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        config = self.config
        pairs = CropPairs(config.data, self.objective.scale, config.seed, config.total_images)
        loader: DataLoader[tuple[Tensor, Tensor, Tensor]] = DataLoader(
            Subset(pairs, range(self.images, len(pairs))),
            batch_size=config.batch_size // self.accelerator.num_processes,
            num_workers=config.data.workers,
            drop_last=True,
            worker_init_fn=_single_thread,
        )
        yield from self.accelerator.prepare(loader)

    def _step(self, lr: Tensor, hr: Tensor) -> dict[str, float]:
        config = self.config.optimizer
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.images, self.config.total_images)
        # one generator per step and process: noise and times follow from the image count alone
        seed = hash((self.config.seed, self.images, self.accelerator.process_index))
        rng = torch.Generator().manual_seed(seed & 0x7FFF_FFFF_FFFF_FFFF)
        with self.accelerator.autocast():
            terms = self.objective.loss(self.network, lr, hr, rng)
        total = torch.stack(list(terms.values())).sum()
        self.accelerator.backward(total)
        norm = self.accelerator.clip_grad_norm_(self.network.parameters(), config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update_parameters(self.objective.network)
        return {**{name: float(term.detach()) for name, term in terms.items()}, "grad_norm": float(norm)}

    @torch.no_grad()
    def _validate(self, sets: dict[str, list[tuple[str, Tensor, Tensor]]]) -> dict[str, float]:
        """Mean PSNR-Y and SSIM-Y of the averaged weights over each validation set."""
        network = self._averaged.eval()
        device, multiple, scale = self.accelerator.device, self.objective.multiple_of, self.objective.scale
        results: dict[str, list[float]] = {}
        for name, pairs in sets.items():
            for _, lr, hr in pairs:
                inputs = pad_to_multiple(lr[None], multiple), pad_to_multiple(hr[None], multiple * scale)
                with self.accelerator.autocast():
                    images = self.objective.predict(network, *(image.to(device) for image in inputs))
                truth = (hr[None] + 1) / 2
                for setting, image in images.items():
                    inside = image[..., : hr.shape[-2], : hr.shape[-1]]
                    unit = ((inside.float().cpu() + 1) / 2).clamp(0, 1)
                    results.setdefault(f"{name}/{setting}/psnr_y", []).append(psnr_y(unit, truth))
                    results.setdefault(f"{name}/{setting}/ssim_y", []).append(ssim_y(unit, truth))
        network.train()
        return {name: round(sum(values) / len(values), 4) for name, values in results.items()}

    def _log(self, record: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            with (self.config.run_dir / METRICS_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            self.report(record)

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            save_checkpoint(
                self.checkpoints,
                self.images,
                self.objective.network,
                self.ema,
                self.optimizer,
                self.config.keep_checkpoints,
            )


def _crossed(before: int, after: int, every: int) -> bool:
    return before // every != after // every


def _single_thread(worker: int) -> None:
    torch.set_num_threads(1)


def _ema_update(decay: float) -> Callable[[Any, Any, Any], None]:
    """Exponential moving average whose decay grows from zero, so that the start is soon forgotten."""

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], num_averaged: Tensor | int) -> None:
        steps = int(num_averaged)
        beta = min(decay, (1 + steps) / (10 + steps))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - beta)
        else:
            torch._foreach_copy_(averaged, current)

    return update


def _forget_after(metrics: Path, images: int) -> None:
    """Drop the records of an interrupted run beyond its last checkpoint: they will be written again."""
    if not metrics.exists():
        return
    kept = []
    for line in metrics.read_text(encoding="utf-8").splitlines():
        # a run that was killed may leave half a line
        with contextlib.suppress(json.JSONDecodeError):
            if json.loads(line)["images"] <= images:
                kept.append(f"{line}\n")
    draft = metrics.with_suffix(".tmp")
    draft.write_text("".join(kept), encoding="utf-8")
    os.replace(draft, metrics)
