"""Which losses bring detail: short distillations that differ in nothing else, each measured at fidelity 0.

    python research/detail_losses.py research/distill.yaml -o runs/detail_losses --images 1500 --hr PHOTOS

Every run starts from the weights that the config names and has L1 beside the loss of its row; the weight of the
discriminator, where there is one, is the config's. A run that is finished is not made again.
"""

import argparse
import sys
from pathlib import Path
from statistics import fmean

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from linearsr import LinearSRPipeline
from linearsr.evaluation.haarpsi import haarpsi
from linearsr.evaluation.metrics import psnr_y, ssim_y
from linearsr.flow.experts import SNRExperts
from linearsr.flow.partition import Partition
from linearsr.model_folder import load_stem
from linearsr.models.codec import ResidualCodec, ResidualCodecConfig
from linearsr.models.transformer import LinearSRTransformer
from linearsr.pipeline import PipelineConfig
from linearsr.training.config import load_config
from linearsr.training.trainer import Trainer

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from quality import degraded_pairs, eight_bit, niqe_or_nan, sharpness

UNJUDGED = "stage.adversarial=0"
WEIGHTS = {"gradient": 1.0, "focal_frequency": 1.0, "ms_ssim": 0.5, "haarpsi": 0.5}


def formulas(**weights: float) -> str:
    listed = ", ".join(f"{name}: {weight}" for name, weight in {"l1": 1.0, **weights}.items())
    return f"stage.formulas={{{listed}}}"


def rows(teacher: Path | None) -> dict[str, list[str]]:
    """Name of a row -> what its run sets."""
    taught = {"+ the teacher's sample": [UNJUDGED, f"stage.teacher={teacher}"]} if teacher else {}
    return {
        "L1": [UNJUDGED],
        **{f"+ {name}": [UNJUDGED, formulas(**{name: weight})] for name, weight in WEIGHTS.items()},
        **taught,
        "+ adversarial": [],
        "+ adversarial, all formulas": [formulas(**WEIGHTS)],
        "+ adversarial, feature matching": ["stage.feature_matching=0.2"],
    }


def train(config: Path, run_dir: Path, images: int, changes: list[str]) -> Path:
    own = [
        f"run_dir={run_dir}",
        f"total_images={images}",
        f"save_every_images={images}",
        f"validation.every_images={2 * images}",
        formulas(),
    ]
    if not (run_dir / "knee.json").exists():
        trainer = Trainer(load_config(config, [*own, *changes]))
        trainer.resume()
        trainer.run()
    return run_dir / "final" / "transformer"


def one_step(transformer: Path, stem: Path) -> LinearSRPipeline:
    network = LinearSRTransformer.from_pretrained(transformer, torch.float32).eval()
    experts = SNRExperts(Partition(), [network])
    settings = PipelineConfig(num_inference_steps=1, fidelity=0, mean="stem")
    return LinearSRPipeline(
        load_stem(stem).float().eval(), experts, ResidualCodec(ResidualCodecConfig()), settings
    )


def measure(pipe: LinearSRPipeline, pairs: list[tuple[str, Tensor, Tensor]], fidelity: float) -> list[str]:
    rows = []
    for _, lr, hr in track(pairs, console=Console(stderr=True)):
        image = eight_bit(pipe(lr, fidelity=fidelity, output_type="pt").images[0])[None].double()
        truth = hr[None].double()
        scores = [metric(image, truth) for metric in (psnr_y, ssim_y, haarpsi, sharpness)]
        rows.append([*scores, niqe_or_nan(image)])
    psnr, ssim, haar, sharp, niqe = (fmean(column) for column in zip(*rows, strict=True))
    return [f"{psnr:.2f}", f"{ssim:.3f}", f"{haar:.3f}", f"{sharp:.2f}", f"{niqe:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="of a distillation")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--hr", type=Path, required=True, help="folder of HR photos to measure on")
    parser.add_argument("--degrade", default="mild")
    parser.add_argument("--photos", type=int, default=12, help="how many of them")
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE")
    parser.add_argument("--teacher", type=Path, help="folder of experts to learn from, in a row of its own")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)

    stem = load_config(args.config, args.changes).stage.stem
    pairs = list(degraded_pairs(args.hr, args.degrade))[: args.photos]
    columns = "loss", "PSNR-Y", "SSIM-Y", "HaarPSI", "sharpness", "NIQE"
    table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False)
    for place, (name, changes) in enumerate(rows(args.teacher).items()):
        transformer = train(args.config, args.output / f"{place}", args.images, [*changes, *args.changes])
        pipe = one_step(transformer, stem)
        if not place:
            table.add_row("the stem alone", *measure(pipe, pairs, 1))
        table.add_row(name, *measure(pipe, pairs, 0))
    Console(width=90).print(table)


if __name__ == "__main__":
    main()
