"""Everything that is refused, as one JSON object with one clear line."""

from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

_SAID = {
    404: ("not_found", "there is nothing at this address"),
    405: ("method_not_allowed", "this address does not take that method"),
}
"""What the framework refuses by itself."""


class ProblemDetail(BaseModel):
    """What is wrong."""

    code: str = Field(examples=["bad_option"])
    message: str = Field(examples=["scale: Input should be less than or equal to 8"])


class ProblemBody(BaseModel):
    """The body of every answer with a status of 400 or more."""

    error: ProblemDetail


class Problem(HTTPException):
    """An answer with a status of 400 or more."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, message, headers)
        self.code = code

    def response(self) -> JSONResponse:
        """As it goes over the wire."""
        message = " ".join(self.detail.encode("utf-8", "replace").decode("utf-8").split())
        body = ProblemBody(error=ProblemDetail(code=self.code, message=message))
        return JSONResponse(body.model_dump(), self.status_code, headers=self.headers)


def answer_problems(app: FastAPI) -> None:
    """Give every error of the application the one form."""

    @app.exception_handler(RequestValidationError)
    async def validation(request: Request, error: RequestValidationError) -> JSONResponse:
        return Problem(422, "bad_option", _first_line(error)).response()

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error, Problem):
            return error.response()
        code, message = _SAID.get(error.status_code, ("bad_request", str(error.detail)))
        return Problem(error.status_code, code, message, error.headers).response()

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        return Problem(500, "internal", "the server failed; its log says why").response()


def _first_line(error: RequestValidationError) -> str:
    """The first thing that is wrong, with the field's name and without what was sent."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "path", "query")]
    return ": ".join([*place[:1], "a file is needed" if place == ["image"] else first["msg"]])
