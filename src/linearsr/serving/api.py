"""The HTTP API: the application and its routes."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Form, Header, Query, Request, Response, Security
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from fastapi.security import APIKeyHeader, HTTPBearer
from fastapi.sse import EventSourceResponse, ServerSentEvent
from fastapi.staticfiles import StaticFiles
from prometheus_client import generate_latest
from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Message, Receive, Scope, Send

from linearsr._version import __version__
from linearsr.serving.admission import Admission
from linearsr.serving.dispatcher import Dispatcher
from linearsr.serving.jobs import Job, JobStore
from linearsr.serving.metrics import Metrics
from linearsr.serving.problems import Problem, ProblemBody, answer_problems
from linearsr.serving.results import Results
from linearsr.serving.schemas import (
    MEDIA_TYPES,
    JobsView,
    JobView,
    Limits,
    ModelsView,
    ResultFormat,
    StateView,
    TagsForm,
    TagsView,
    UpscaleForm,
)
from linearsr.serving.settings import ServeSettings
from linearsr.serving.streams import Streams
from linearsr.serving.uploads import each_field_once, tags_job, upscale_job

_DESCRIPTION = (
    "Photorealistic image super-resolution: an image goes in, a larger one comes out, at once or as a job."
)
_MULTIPART = "multipart/form-data"
_IMAGE = {
    "description": "The image",
    "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in MEDIA_TYPES.values()},
}
_KEYS = [Security(HTTPBearer(auto_error=False)), Security(APIKeyHeader(name="X-API-Key", auto_error=False))]
"""Ways to send a key, for the OpenAPI description only; `Admission` checks keys."""
_REGION = r"^([0-9]{1,7}(,[0-9]{1,7}){3})?$"
_MAX_TAGGING_SECONDS = 60.0

JobId = Annotated[str, PathParameter(examples=["kX3vPq0aY1mZ8bWcR5tLuA"])]


def create_app(settings: ServeSettings) -> FastAPI:
    """Make the application: the API under /v1, the web page at /, and the state of the server for operators.

    The model is loaded when the application starts.
    """
    store = JobStore(settings.data, settings.max_storage)
    dispatcher = Dispatcher(settings, store)
    metrics = Metrics(dispatcher)
    results = Results(dispatcher, settings.max_output_pixels)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            await dispatcher.start()
            yield
        finally:
            await dispatcher.stop()
            store.close()

    app = FastAPI(
        title="LinearSR",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # this page and the next load scripts from other sites
        redoc_url=None,
        dependencies=_KEYS if settings.api_keys else [],
        responses=_problems(400, 401, 403, 422, 500),
    )
    app.state.dispatcher = dispatcher
    answer_problems(app)
    _add_state(app, settings, dispatcher, metrics)
    _add_upscale(app, settings, dispatcher, results)
    _add_tags(app, settings, dispatcher, results)
    _add_jobs(app, settings, dispatcher, results)
    _add_page(app)
    app.add_middleware(Admission, settings=settings, dispatcher=dispatcher, metrics=metrics)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "X-API-Key", "X-Request-ID", "Idempotency-Key"],
            expose_headers=["Location", "Retry-After", "X-Job-ID", "X-Request-ID"],
        )
    return app


def _add_state(app: FastAPI, settings: ServeSettings, dispatcher: Dispatcher, metrics: Metrics) -> None:
    limits = Limits(**{name: getattr(settings, name) for name in Limits.model_fields})

    @app.get("/healthz", tags=["state"])
    async def alive() -> StateView:
        """Check that the server answers."""
        return StateView(status="ok")

    @app.get("/readyz", tags=["state"], responses=_problems(503))
    async def ready() -> StateView:
        """Check that a worker has loaded the model, and that there is room for results."""
        if not dispatcher.ready:
            raise Problem(503, "not_ready", "no worker is ready yet")
        try:
            dispatcher.require_room()
        except Problem as full:
            raise Problem(503, full.code, full.detail, full.headers) from None
        return StateView(status="ready")

    @app.get("/metrics", tags=["state"], response_class=PlainTextResponse)
    async def prometheus() -> Response:
        """Return counters, times and gauges in the text format of Prometheus."""
        return Response(
            generate_latest(metrics.registry), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    @app.get("/v1/models", tags=["models"])
    async def models() -> ModelsView:
        """Return the model, its default settings, and the limits of the server."""
        return ModelsView(models=[dispatcher.card], limits=limits, version=__version__)


def _add_upscale(app: FastAPI, settings: ServeSettings, dispatcher: Dispatcher, results: Results) -> None:
    @app.post(
        "/v1/upscale",
        tags=["upscale"],
        dependencies=[Depends(each_field_once)],
        response_model=None,
        responses={
            200: _IMAGE,
            202: {"model": JobView, "description": "A job that will make it"},
            **_problems(408, 410, 413, 429, 503, 507),
        },
    )
    async def upscale(
        request: Request,
        form: Annotated[UpscaleForm, Form(media_type=_MULTIPART)],
        idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
    ) -> Response:
        """Upscale an image: return the result if it is ready soon, else a job.

        Closing the connection while waiting cancels the job. With an `Idempotency-Key`, the job goes on, and
        the same request sent again gets the same job as long as it is kept.
        """
        job = await upscale_job(form, request.state.owner, settings, dispatcher.card)
        job.idempotency = idempotency_key
        job = await dispatcher.accept(job, form.image.file, request.state.place)
        if form.wait is not False:
            seconds = settings.answer_seconds if form.wait is None else None
            if await results.awaited(job, request, seconds):
                return results.answer(job)
        return JSONResponse(
            dispatcher.view(job).model_dump(mode="json"), 202, {"Location": f"/v1/jobs/{job.id}"}
        )


def _add_tags(app: FastAPI, settings: ServeSettings, dispatcher: Dispatcher, results: Results) -> None:
    @app.post(
        "/v1/tags",
        tags=["models"],
        dependencies=[Depends(each_field_once)],
        responses=_problems(404, 408, 413, 429, 503, 507),
    )
    async def tags(request: Request, form: Annotated[TagsForm, Form(media_type=_MULTIPART)]) -> TagsView:
        """Return the tags that the model's tagger finds in an image."""
        if not dispatcher.card.tagger:
            raise Problem(404, "no_tagger", f"the model {dispatcher.card.id} has no tagger")
        job = await tags_job(form, request.state.owner, settings)
        await dispatcher.accept(job, form.image.file, request.state.place)
        try:
            if not await results.awaited(job, request, _MAX_TAGGING_SECONDS):
                raise Problem(429, "busy", "the server is busy: try again later", {"Retry-After": "10"})
            if job.output is None:
                raise Problem(422, "bad_image", job.error or "cancelled")
            return TagsView(width=job.width, height=job.height, tags=job.output["tags"])
        finally:
            await dispatcher.cancel(job)
            await dispatcher.completion.remove(job)


def _add_jobs(app: FastAPI, settings: ServeSettings, dispatcher: Dispatcher, results: Results) -> None:
    streams = Streams(dispatcher, settings.max_streams)

    async def of_this_owner(job_id: JobId, request: Request) -> Job:
        return await dispatcher.find(job_id, request.state.owner)

    async def with_stream(request: Request) -> AsyncIterator[None]:
        client = request.state.owner or (request.client.host if request.client else "")
        with streams.opened(client):
            yield

    @app.get("/v1/jobs", tags=["jobs"], responses=_problems(404))
    async def jobs(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=100)] = 50,
        before: Annotated[str | None, Query(description="Id of a job: list the jobs older than it.")] = None,
    ) -> JobsView:
        """List the jobs of this key, newest first. A server without keys cannot tell whose they are: 403."""
        owner = request.state.owner
        if not owner:
            raise Problem(403, "forbidden", "jobs are listed by key: start the server with --api-keys")
        start = None if before is None else await dispatcher.find(before, owner)
        found = await dispatcher.jobs_of(owner, limit + 1, start)
        views = [dispatcher.view(job) for job in found[:limit]]
        return JobsView(jobs=views, next=views[-1].id if len(found) > limit else None)

    router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"], responses=_problems(404))

    @router.get("")
    async def job(job: Annotated[Job, Depends(of_this_owner)]) -> JobView:
        """Return the state of a job."""
        return dispatcher.view(job)

    @router.get(
        "/events",
        response_class=EventSourceResponse,
        dependencies=[Depends(with_stream)],
        responses=_problems(429),
    )
    async def events(job: Annotated[Job, Depends(of_this_owner)]) -> AsyncIterator[ServerSentEvent]:
        """Stream the state of a job at every change: `progress`, then `done`, `failed` or `cancelled`."""
        async for event in streams.follow(job):
            yield event

    @router.get("/result", response_class=FileResponse, responses={200: _IMAGE, **_problems(409, 410, 507)})
    async def result(
        job: Annotated[Job, Depends(of_this_owner)],
        format: ResultFormat | None = None,
        stripped: Annotated[bool, Query(description="Leave out camera data, location and texts.")] = False,
    ) -> Response:
        """Return the result of a job, in the format that the job was asked for or in another one."""
        return await results.converted(job, format, stripped)

    @router.get("/preview", response_class=FileResponse, responses={200: _IMAGE, **_problems(409, 410, 507)})
    async def preview(
        job: Annotated[Job, Depends(of_this_owner)],
        region: Annotated[
            str,
            Query(
                json_schema_extra={"pattern": _REGION},
                description="Only this part of the result: left,top,width,height in pixels.",
            ),
        ] = "",
    ) -> Response:
        """Return the result of a job, or a part of it, for display: a JPEG of at most 4096 pixels a side."""
        if not re.fullmatch(_REGION, region):
            raise Problem(422, "bad_option", "region: LEFT,TOP,WIDTH,HEIGHT in pixels")
        return await results.preview(job, [int(number) for number in region.split(",") if number])

    @router.delete("", status_code=204)
    async def delete(job: Annotated[Job, Depends(of_this_owner)]) -> None:
        """Cancel a job, or, if it is finished, remove it with its result."""
        await (dispatcher.cancel(job) if job.live else dispatcher.completion.remove(job))

    app.include_router(router)


def _add_page(app: FastAPI) -> None:
    """Serve the files of the web page at all addresses that are not part of the API."""
    page = StaticFiles(directory=Path(str(files("linearsr") / "serving" / "web")), html=True)

    async def page_file(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_fresh(message: Message) -> None:
            # browsers must check for changes, so that they do not mix files of two versions
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Cache-Control"] = "no-cache"
            await send(message)

        await (page if scope["type"] == "http" else app.router.not_found)(scope, receive, send_fresh)

    # not mounted, because a mount would also take requests whose method an API address refuses
    app.router.default = page_file


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ProblemBody} for status in statuses}
