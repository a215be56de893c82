"""Turn uploaded forms into jobs, and check them before anything is computed."""

from asyncio import to_thread
from typing import BinaryIO
from urllib.parse import urlsplit

from fastapi import Request

from linearsr.images.files import suffix_for
from linearsr.images.picture import ImageError
from linearsr.images.reading import read_size
from linearsr.serving.jobs import Job
from linearsr.serving.problems import Problem
from linearsr.serving.schemas import MEDIA_TYPES, ModelCard, ResultFormat, TagsForm, UpscaleForm
from linearsr.serving.settings import ServeSettings, check_origin
from linearsr.serving.worker import plain


def read_header(file: BinaryIO, settings: ServeSettings, scale: float = 1) -> tuple[int, int, ResultFormat]:
    """Return width, height and format of an image from its header; png if results cannot have its format.

    Raises Problem: it is not an image, or it or its result, `scale` times as large, has too many pixels.
    """
    file.seek(0)
    start = file.read(12)
    if not start:
        raise Problem(422, "bad_image", "the image is empty; send it again")
    file.seek(0)
    try:
        height, width = read_size(file, "<bytes>", settings.max_pixels)
    except ImageError as error:
        message = plain(str(error)).replace("the image is not an image", "the file is not an image")
        raise Problem(422, "bad_image", message) from None
    results = width * height * scale**2
    if results > settings.max_output_pixels:
        limit = f"{results / 1e6:.4g} megapixels exceed the limit of {settings.max_output_pixels / 1e6:.4g}"
        raise Problem(
            422,
            "bad_image",
            f"the result of {width}x{height} pixels, {scale:g} times larger: {limit}; choose a smaller scale",
        )
    kind = suffix_for(start).removeprefix(".")
    return width, height, kind if kind in MEDIA_TYPES else "png"


async def each_field_once(request: Request) -> None:
    """Check that a form has no field twice, as only one would be used. Raises Problem: it has one."""
    given = [name for name, _ in (await request.form()).multi_items()]
    for name in given:
        if given.count(name) > 1:
            raise Problem(422, "bad_option", f"{name}: give it once; send several images one by one")


def check_webhook(url: str, settings: ServeSettings) -> str:
    """Return the webhook address to call. Raises Problem: it is not at an origin that the operator allows."""
    try:
        parts = urlsplit(url)
        origin = check_origin(f"{parts.scheme}://{parts.netloc}")
    except ValueError:
        origin = ""
    if origin not in settings.webhook_origins or not url.isascii() or not url.isprintable():
        raise Problem(422, "bad_option", "webhook: not an address at an origin that this server may call")
    # rebuilt from the checked parts, because another parser might see a different host in the original
    return f"{origin}/{parts.path.removeprefix('/')}{f'?{parts.query}' if parts.query else ''}"


async def upscale_job(form: UpscaleForm, owner: str, settings: ServeSettings, model: ModelCard) -> Job:
    """Make the job for an upscale form. Raises Problem: the model or server does not support an option."""
    if form.steps is not None and not model.min_steps <= form.steps <= model.max_steps:
        raise Problem(422, "bad_option", f"steps: from {model.min_steps} to {model.max_steps} here")
    if form.guidance_scale not in (None, 1) and not model.guided:
        message = f"guidance_scale: the model {model.id} has no guidance: leave it out"
        raise Problem(422, "bad_option", message)
    scale = form.scale or model.scale
    width, height, kind = await to_thread(read_header, form.image.file, settings, scale)
    options = form.model_dump(exclude={"image", "wait", "webhook"})
    options |= {"scale": scale, "format": kind if form.format == "same" else form.format}
    fidelity = model.fidelity if form.fidelity is None else form.fidelity
    # fidelity 1 takes a single step, because the mean is the estimate of the first step
    steps = model.steps if form.steps is None else form.steps
    steps = 1 if fidelity == 1 else max(1, steps)
    webhook = form.webhook and check_webhook(form.webhook, settings)
    return Job("upscale", owner, width, height, steps, options, webhook=webhook)


async def tags_job(form: TagsForm, owner: str, settings: ServeSettings) -> Job:
    """Make the job for a tags form. Raises Problem: it has no image, or one with too many pixels."""
    width, height, _ = await to_thread(read_header, form.image.file, settings)
    return Job("tags", owner, width, height, 1, form.model_dump(exclude={"image"}))
