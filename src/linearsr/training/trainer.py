"""The training loop of one run: it takes a config, writes the weights at the knee, and can always be resumed.

A run folder holds `metrics.jsonl` and `tensorboard/` (all figures), `samples/` (pictures), `checkpoints/` (to
resume); at the end also `knee/` (weights to use), `final/` (last weights) and `knee.json` (the reason).
"""

import shutil
import time
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn

from linearsr.runtime.checkpoints import write_json
from linearsr.training.config import TrainConfig
from linearsr.training.curves import CONFIG_FILE, METRICS_FILE, directions, records
from linearsr.training.data import CropPairs, batches
from linearsr.training.guard import Diverged, DivergenceGuard
from linearsr.training.knee import Knee, find_knee
from linearsr.training.objective import Batch, Objective, Trained
from linearsr.training.optimizer import build_optimizer, learning_rate
from linearsr.training.photo_tags import PhotoTags
from linearsr.training.processes import average_buffers, from_main, start
from linearsr.training.run_folder import (
    KNEE_FOLDER,
    Record,
    Report,
    RunLog,
    begun_with,
    check_same_run,
    claim,
    keep_knee,
    reopen,
    settings_of,
    validated,
    write_picture,
)
from linearsr.training.state import Checkpoints, ExponentialMovingAverage, Progress, whole
from linearsr.training.validation import Validation


class Trainer:
    """Trains one run of one stage; `report` receives each record of metrics, e.g. to show progress."""

    def __init__(self, config: TrainConfig, report: Report | None = None) -> None:
        self.config, self._report = config, report
        assert isinstance(config.stage, Trained)
        torch.manual_seed(config.seed)
        self.accelerator = start(config)
        self.objective: Objective = config.stage.objective()
        self.objective.to(self.accelerator.device)
        network = self.objective.network
        if config.compile:
            network.compile()
        optimizer = build_optimizer(config.optimizer, network)
        self.network, self.optimizer = self.accelerator.prepare(network, optimizer)
        self.bare: nn.Module = self.accelerator.unwrap_model(self.network)
        self.ema = ExponentialMovingAverage(self.bare, config.ema_decay)
        self.guard = DivergenceGuard(config.guard)
        self.progress = Progress()
        self.log: RunLog | None = None
        self._saved = 0
        self._validations: list[Record] = []
        self.checkpoints = Checkpoints(config.run_dir / "checkpoints", self.bare, self.ema, self.optimizer)
        self._lock = FileLock(config.run_dir / ".lock", timeout=0)
        self._claim = partial(claim, config.run_dir, self._lock)

    def resume(self) -> int:
        """Continue from the newest checkpoint of the run folder, if any; return the images seen so far."""
        config = self.config
        if from_main(self.checkpoints.newest) is not None:
            check_same_run(config)
        from_main(self._claim)
        folder = from_main(self.checkpoints.newest)
        if folder is not None:
            before = from_main(partial(begun_with, config.run_dir))
            self._load(folder)
            if before and before["optimizer"]["lr"] != config.optimizer.lr:
                # the guard's cuts were made to another learning rate; they do not apply to a new one
                self._set_guard(lr_scale=1.0, rollbacks=0)
        return self.progress.images

    def run(self) -> Path:
        """Train to the knee or to `total_images`; return the folder of the weights, one folder per part.

        Raises:
            Diverged: when training diverges after the last rollback that the guard allows.
            ConfigError: when another process trains in the run folder.
        """
        config = self.config
        from_main(self._claim)
        vocabulary, file = self.objective.vocabulary, config.data.tags
        photo_tags = None if vocabulary is None or file is None else PhotoTags(file, vocabulary)
        drawn = self.objective.scale, config.seed, self._total_images
        pairs = CropPairs(config.data, *drawn, photo_tags, self.objective.wants_latents)
        validation = Validation(config.validation, self.objective, self.accelerator, photo_tags)
        if self.accelerator.is_main_process:
            self.log = RunLog(config.run_dir, self.progress.images, self._report, config.trackers)
        try:
            return self._run(pairs, validation)
        finally:
            if self.log is not None:
                self.log.close()
            self._lock.release(force=True)

    def _run(self, pairs: CropPairs, validation: Validation) -> Path:
        if self.accelerator.is_main_process:
            write_json(self.config.run_dir / CONFIG_FILE, settings_of(self.config))
            reopen(self.config.run_dir)
            self.checkpoints.remove_drafts()
        self._remember()
        if from_main(self.checkpoints.newest) is None:
            self._save()  # save the start, so that the guard has a checkpoint to return to
        self.network.train()
        while not self._train(pairs, validation):
            pass
        return self._finish()

    @property
    def _total_images(self) -> int:
        return self.config.total_images // self.config.batch_size * self.config.batch_size

    def _train(self, pairs: CropPairs, validation: Validation) -> bool:
        """Train to the end or the knee and return True, or return False after a rollback to a checkpoint."""
        config, progress = self.config, self.progress
        started, first = time.monotonic(), progress.images
        loader = batches(pairs, progress.images, config.batch_size // self.accelerator.num_processes)
        for samples in self.accelerator.prepare(loader):
            seeds = [(config.seed << 40) + number for number in samples.number.tolist()]
            lr = pairs.complete(samples)
            batch = Batch(lr, samples.hr, samples.tags, seeds, samples.latent)
            record, verdict = self._step(batch)
            if verdict == "roll back":
                self._roll_back(record["skipped"])
                return False
            before, progress.images = progress.images, progress.images + config.batch_size
            pace = (progress.images - first) / (time.monotonic() - started)
            self._write({"images": progress.images, **record, "images_per_second": round(pace, 2)})
            if _crossed(before, progress.images, config.validation.every_images):
                self._validate(validation)
                knee = self._knee()
                if config.stop_at_knee and knee.confirmed:
                    return True
            if self.guard.calm and _crossed(self._saved, progress.images, config.save_every_images):
                self._save()
        return True

    def _step(self, batch: Batch) -> tuple[Record, str]:
        """Make one update unless the guard rejects it; return the figures and the guard's verdict."""
        config = self.config.optimizer
        rate = self.progress.lr_scale * learning_rate(config, self.progress.images, self._total_images)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        names, values = self._backward(batch)
        norm = self.accelerator.clip_grad_norm_(self.network.parameters(), config.max_grad_norm)
        norm = float(whole({"norm": norm})["norm"])
        means = self.accelerator.reduce(values, "mean").tolist()
        verdict, trouble = self.guard.judge(sum(means), norm)
        if verdict == "good":
            self.optimizer.step()
            average_buffers(self.accelerator, self.bare)
            self.ema.update(self.bare)
        else:
            self.ema.restore_buffers(self.bare)
        self.optimizer.zero_grad()
        record: Record = {**dict(zip(names, means, strict=True)), "grad_norm": norm, "loss": sum(means)}
        return record | ({"skipped": trouble} if trouble else {}), verdict

    def _backward(self, batch: Batch) -> tuple[list[str], Tensor]:
        """Compute gradients of a batch's mean loss, part by part; return the terms' names and means (T,)."""
        names, values, count = list[str](), torch.zeros(()), self.config.accumulation
        size = len(batch.seeds) // count
        for first in range(0, len(batch.seeds), size):
            chosen = slice(first, first + size)
            part = Batch(*(field[chosen] for field in batch))  # type: ignore[arg-type]
            last = first + size == len(batch.seeds)
            # processes sum their gradients once per batch, with its last part
            with nullcontext() if last else self.accelerator.no_sync(self.network):
                with self.accelerator.autocast():
                    terms = self.objective.loss(self.network, part)
                own = torch.stack(list(terms.values())) / count
                self.accelerator.backward(own.sum())
            names, values = list(terms), values.to(own) + own.detach()
        return names, values

    def _roll_back(self, trouble: str) -> None:
        """Return to the newest checkpoint with a lower rate. Raises Diverged: when no rollback is left."""
        guard, at = self.config.guard, self.progress.images
        if self.progress.rollbacks == guard.max_rollbacks:
            raise Diverged(
                f"training diverged at {at} images ({trouble}) and {guard.max_rollbacks} returns to a checkpoint, "
                f"each with {guard.lr_factor:g} times the learning rate, did not help: lower optimizer.lr"
            )
        rollbacks, lr_scale = self.progress.rollbacks + 1, self.progress.lr_scale * guard.lr_factor
        folder = from_main(self.checkpoints.newest)
        assert folder is not None
        self._load(folder)
        self._set_guard(lr_scale, rollbacks)
        if self.log is not None:
            self.log.rewind(self.progress.images)
        event = f"{trouble} at {at} images: back to {self.progress.images} with {lr_scale:g} times the learning rate"
        self._write({"images": self.progress.images, "event": event})
        self._remember()

    def _set_guard(self, lr_scale: float, rollbacks: int) -> None:
        """Set the guard's learning rate factor and rollback count, in the newest checkpoint too."""
        self.progress.lr_scale, self.progress.rollbacks = lr_scale, rollbacks
        if self.accelerator.is_main_process:
            self.checkpoints.update(self.progress)

    def _remember(self) -> None:
        """Restore the history of the guard and of the knee detector from the log."""
        written = from_main(lambda: list(records(self.config.run_dir / METRICS_FILE)))
        seen = [record for record in written if record["images"] <= self.progress.images]
        steps = [record for record in seen if "grad_norm" in record]
        self.guard.remember(
            (step["loss"] or 0.0, step["grad_norm"] or 0.0, "skipped" in step) for step in steps
        )
        self._validations = [record for record in seen if "grad_norm" not in record and "event" not in record]

    def _validate(self, validation: Validation) -> None:
        images = self.progress.images
        with self.ema.applied_to(self.bare):
            metrics = validation.run(self.bare, partial(write_picture, self.config.run_dir, images))
        # save the weights before the log: a validation in the log may become the knee, and needs them
        self._save_parts(validated(self.config.run_dir, images))
        self._write({"images": images, **metrics})
        self._validations.append({"images": images, **metrics})

    def _knee(self) -> Knee:
        steps = [record["images"] for record in self._validations]
        names = {name for record in self._validations for name in record if name.count("/") == 2}
        curves = {name: [record.get(name) for record in self._validations] for name in sorted(names)}
        return find_knee(steps, curves, directions(curves), self.config.knee)

    def _finish(self) -> Path:
        """Save the weights at the knee and the last ones; without a knee, both are the last ones."""
        run_dir, knee, trained = self.config.run_dir, self._knee(), self.progress.images
        self._save_parts(run_dir / "final")
        if self.accelerator.is_main_process:
            wanted = trained if knee.knee_step is None else knee.knee_step
            keep_knee(run_dir, trained, wanted, asdict(knee))
        self.accelerator.wait_for_everyone()
        return run_dir / KNEE_FOLDER

    def _save_parts(self, folder: Path) -> None:
        state = whole(self.ema.state, keep=self.accelerator.is_main_process)
        if self.accelerator.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)  # a killed run may have left an incomplete folder
            for name, part in self.objective.parts(state).items():
                part.save_pretrained(folder / name)

    def _write(self, record: dict[str, Any]) -> None:
        if self.log is not None:
            self.log.write(record)

    def _load(self, folder: Path) -> None:
        self.progress = self.checkpoints.load(folder)
        self._saved = self.progress.images

    def _save(self) -> None:
        keep, write = self.config.keep_checkpoints, self.accelerator.is_main_process
        self.checkpoints.save(self.progress, keep, write)
        self._saved = self.progress.images
        self.accelerator.wait_for_everyone()


def _crossed(before: int, after: int, every: int) -> bool:
    return before // every != after // every
