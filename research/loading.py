"""How fast training pairs are made, by workers and by the device, and how fast the default stem consumes them.

    python research/loading.py data/train-a data/train-b data/train-c [--workers 0 1 2] [--mix realesrgan=1]

Cold: a photo is decoded when it is drawn first. Warm: it lies in the cache of its worker; the best of three passes.
The rates are samples a second.
"""

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from linearsr.models.lr_stem import PredictiveStem, PredictiveStemConfig
from linearsr.training.data import CropPairs, DataConfig, Sample, check_data

SCALE = 4


def one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def passes(pairs: CropPairs, batch_size: int, device: torch.device) -> Iterator[float]:
    """Samples a second of one pass after the other over the same samples, LR images made and on the device."""
    workers = pairs.config.workers
    loader = DataLoader(
        pairs,
        batch_size,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=one_thread,
        pin_memory=device.type == "cuda",
    )
    while True:
        started = time.perf_counter()
        for batch in loader:
            pairs.complete(Sample(*(part.to(device, non_blocking=True) for part in batch)))
        finish(device)
        yield len(pairs) / (time.perf_counter() - started)


def training_rate(batch_size: int, lr_crop: int, steps: int, device: torch.device) -> float:
    """Samples a second of forward, backward and AdamW for the default stem, on pairs that are there already."""
    stem = PredictiveStem(PredictiveStemConfig(channels=64, num_blocks=12)).to(device)
    optimizer = torch.optim.AdamW(stem.parameters())
    lr = torch.rand(batch_size, 3, lr_crop, lr_crop, device=device)
    hr = torch.rand(batch_size, 3, lr_crop * SCALE, lr_crop * SCALE, device=device)
    for step in range(steps + 2):
        if step == 2:
            finish(device)
            started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16):
            loss = F.l1_loss(stem(lr).prediction, hr)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    finish(device)
    return steps * batch_size / (time.perf_counter() - started)


def finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--mix", nargs="+", default=["bicubic=0.35", "mild=0.45", "realesrgan=0.2"])
    parser.add_argument("--lr-crop", type=int, default=48)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--samples", type=int, default=200, help="in a pass")
    parser.add_argument("--steps", type=int, default=4, help="of training")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    device = torch.device(args.device)
    shares = dict(item.split("=") for item in args.mix)
    settings = {"folders": dict.fromkeys(args.folders, 1.0), "degradations": shares, "lr_crop": args.lr_crop}
    started = time.perf_counter()
    catalogue = check_data(DataConfig.model_validate(settings), SCALE)
    looked = time.perf_counter() - started
    table = Table(
        title_justify="left", title=f"{' '.join(args.mix)}, LR crop {args.lr_crop}, batch {args.batch}"
    )
    for column in ("", "workers", "cold", "warm"):
        table.add_column(column, justify="right" if column else "left")
    for degrade_on in ("workers", "device"):
        for workers in args.workers:
            config = DataConfig.model_validate({**settings, "workers": workers, "degrade_on": degrade_on})
            pairs = CropPairs(config, SCALE, seed=0, length=args.samples)
            rates = passes(pairs, args.batch, device)
            cold, warm = next(rates), max(next(rates) for _ in range(3))
            table.add_row(f"loading, degraded on {degrade_on}", str(workers), f"{cold:.0f}", f"{warm:.0f}")
    rate = max(training_rate(args.batch, args.lr_crop, args.steps, device) for _ in range(3))
    table.add_row("training the default stem", "", "", f"{rate:.1f}")
    console = Console()
    console.print(
        f"{len(catalogue)} photos, {catalogue.areas.sum() / 1e6:.0f} megapixels: headers read in {looked:.2f} s; "
        f"device {device}, {torch.get_num_threads()} threads of {os.cpu_count()} cores"
    )
    console.print(table)


if __name__ == "__main__":
    main()
