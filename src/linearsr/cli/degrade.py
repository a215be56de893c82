"""`linearsr degrade`: HR photos to the LR photos a camera, an app and a website would have left of them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from linearsr.cli.batch import run_batch
from linearsr.cli.console import BatchProgress, shown, stop
from linearsr.cli.degrading import check_degradation
from linearsr.cli.inputs import Job, find_sources, plan
from linearsr.cli.options import JsonLines, Overwrite
from linearsr.cli.outputs import check_folder


def degrade(
    hr_dir: Annotated[
        Path, typer.Argument(metavar="HR_DIR", help="Folder of photos, searched to the bottom.")
    ],
    lr_dir: Annotated[
        Path, typer.Option("--output", "-o", metavar="LR_DIR", help="Where the PNGs go, in the same tree.")
    ],
    preset: Annotated[
        str,
        typer.Option(
            help="bicubic, resized, mild, noisy, seesr, realesrgan, extreme, scan, old-phone, "
            "or a .yaml file of your own."
        ),
    ] = "mild",
    scale: Annotated[int, typer.Option(min=1, max=32, help="HR size over LR size.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Same seed and file name, same degradation.")] = 0,
    overwrite: Overwrite = False,
    as_json: JsonLines = False,
) -> None:
    """Degrade HR photos: blur, resize, noise and JPEG, as in Real-ESRGAN, or as a print or a phone would.

    An HR photo is first cut to a multiple of the scale, at the right and lower border.
    """
    from linearsr.images.io import Picture, write_image
    from linearsr.images.photos import degraded_pair

    degradation = check_degradation("--preset", preset)
    if not hr_dir.is_dir():
        stop(f"{shown(hr_dir)} is no folder: give a folder of HR photos")
    if lr_dir.resolve() == hr_dir.resolve():
        stop(f"-o {shown(lr_dir)} is the folder of the HR photos: choose another place")
    check_folder(lr_dir)

    def work(job: Job, progress: BatchProgress) -> dict[str, Any]:
        source, target = job.input, job.output
        assert target is not None
        progress.start_image(source)
        lr, _ = degraded_pair(source, degradation, seed, scale)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_image(Picture(lr), target, overwrite=overwrite)
        return {"size": [lr.shape[1], lr.shape[0]]}

    sources = find_sources([str(hr_dir)], output_folder=lr_dir)
    jobs = plan(sources, lambda source, stem: lr_dir / source.relative.parent / f"{stem}.png")
    settings = {"seed": seed, "preset": preset, "scale": scale}
    run_batch(jobs, work, overwrite=overwrite, as_json=as_json, settings=settings)
