"""Errors of the API: each becomes a JSON object with a code and a message of one line."""

import errno
import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from linearsr.serving.settings import DISK_FULL

_log = logging.getLogger(__name__)
_SAID = {
    404: ("not_found", "there is nothing at this address"),
    405: ("method_not_allowed", "this address takes only {allowed}"),
}
"""Code and message for errors that the framework raises itself."""


class ProblemDetail(BaseModel):
    """The code and message of an error."""

    code: str = Field(examples=["bad_option"])
    message: str = Field(examples=["scale: Input should be less than or equal to 8"])


class ProblemBody(BaseModel):
    """The body of every answer with a status of 400 or above."""

    error: ProblemDetail


class Problem(HTTPException):
    """An exception that becomes an answer with a status of 400 or above."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, message, headers)
        self.code = code

    def response(self) -> JSONResponse:
        """Return the JSON response."""
        message = " ".join(self.detail.encode("utf-8", "replace").decode("utf-8").split())
        body = ProblemBody(error=ProblemDetail(code=self.code, message=message))
        return JSONResponse(body.model_dump(), self.status_code, headers=self.headers)


def storage_full(message: str = DISK_FULL) -> Problem:
    """Return the Problem that there is no room for a result."""
    return Problem(507, "storage_full", message, {"Retry-After": "60"})


def answer_problems(app: FastAPI) -> None:
    """Answer every error of the application in the form of a Problem."""

    async def known(request: Request, error: Exception) -> JSONResponse:
        problem = _problem(request, error)
        if problem is None:
            raise error
        return problem.response()

    for kind in (RequestValidationError, HTTPException, OSError, OperationalError):
        app.add_exception_handler(kind, known)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        return Problem(500, "internal", "the server failed; its log says why").response()


def _problem(request: Request, error: Exception) -> Problem | None:
    if isinstance(error, Problem):
        return error
    if isinstance(error, RequestValidationError):
        return Problem(422, "bad_option", _first_line(error))
    if not isinstance(error, HTTPException):
        return _of_storage(error)
    # the framework reports a body that does not fit on the disk as a bad request
    if isinstance(error.__cause__, OSError) and (full := _of_storage(error.__cause__)):
        return full
    code, message = _SAID.get(error.status_code, ("bad_request", str(error.detail)))
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = _allowed(request)
    return Problem(error.status_code, code, message.format(allowed=headers.get("Allow")), headers)


def _allowed(request: Request) -> str:
    """Return the methods of all routes at an address; the framework names only those of the first route."""
    for path, operations in request.app.openapi()["paths"].items():
        if compile_path(path)[0].match(request.scope["path"]):
            return ", ".join(sorted(operations)).upper()
    return "GET, HEAD"  # the methods for files of the web page


def _of_storage(error: Exception) -> Problem | None:
    """Return the Problem for a full disk or a table that cannot be used; None for any other OSError."""
    if isinstance(error, OSError):
        return storage_full() if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
    _log.warning("the table of jobs: %s", getattr(error, "orig", error))
    if "full" in str(error):
        return storage_full()
    return Problem(503, "busy", "the table of jobs cannot be used now: try again later", {"Retry-After": "5"})


def _first_line(error: RequestValidationError) -> str:
    """Return the first validation error with the name of its field, but without the value that was sent."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "path", "query")]
    return ": ".join([*place[:1], "a file is needed" if place == ["image"] else first["msg"]])
