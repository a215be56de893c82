"""`linearsr degrade`: make LR images from HR photos, as a camera, an app and a website would degrade them."""

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from linearsr.cli.console import stop, told
from linearsr.cli.loading import check_degradation
from linearsr.cli.options import MAX_PIXELS, JsonLines, MaxPixels, Overwrite
from linearsr.cli.pictures import inputs_of, run_all
from linearsr.jobs.messages import shown
from linearsr.jobs.names import Job, OutputPlace, check_folder, plan
from linearsr.jobs.run import Watcher
from linearsr.jobs.sources import mark_results


def degrade(
    hr_dir: Annotated[Path, Argument(metavar="HR_DIR", help="Folder of HR photos (with its subfolders).")],
    lr_dir: Annotated[Path, Option("--output", "-o", metavar="LR_DIR", help="Folder for the PNG results.")],
    preset: Annotated[
        str,
        Option(
            help="Degradation: bicubic, resized, mild, soft, noisy, seesr, realesrgan, extreme, scan, old-phone, or "
            "your own .yaml file."
        ),
    ] = "mild",
    scale: Annotated[int, Option(min=1, max=32, help="HR size divided by LR size.")] = 4,
    seed: Annotated[
        int, Option(min=0, help="Random seed. The same seed and file name give the same result.")
    ] = 0,
    max_pixels: MaxPixels = MAX_PIXELS,
    overwrite: Overwrite = False,
    as_json: JsonLines = False,
) -> None:
    """Make LR images from HR photos, with blur, noise and JPEG as in Real-ESRGAN, or like a print or an old phone.

    Photos are first cropped at the right and lower border to a multiple of the scale.

        linearsr degrade photos/ -o lr/ --preset realesrgan
    """
    from linearsr.images.photos import degraded_pair
    from linearsr.images.picture import Picture
    from linearsr.images.writing import write_image

    degradation = check_degradation("--preset", preset)
    if not hr_dir.is_dir():
        stop(f"{shown(hr_dir)} is not a folder: give a folder of HR photos")
    if lr_dir.resolve() == hr_dir.resolve():
        stop(f"-o {shown(lr_dir)} is the folder of the HR photos: choose another folder")

    def work(job: Job, watcher: Watcher) -> dict[str, Any]:
        source, target = job.input, job.output
        assert target is not None
        watcher.start_image(source)
        lr, _ = degraded_pair(source, degradation, seed, scale, max_pixels)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_image(Picture(lr), target, overwrite=overwrite)
        return {"size": [lr.shape[1], lr.shape[0]]}

    with told():
        check_folder(lr_dir)
        sources = inputs_of([str(hr_dir)], lr_dir, by_name=False)
        jobs = plan(sources, OutputPlace(None, lr_dir).namer(""))
        mark_results(lr_dir, [str(hr_dir)])
    settings = {"seed": seed, "preset": preset, "scale": scale}
    run_all(jobs, work, overwrite=overwrite, as_json=as_json, settings=settings)
