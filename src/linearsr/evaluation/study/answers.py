"""The two files of a study beside its page: the key, which the organiser keeps, and a participant's answers."""

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

_MAX_BYTES = 64 * 2**20

Choice = Literal["left", "right", "none"]
Id = Annotated[str, Field(min_length=1, max_length=64)]


class Record(BaseModel):
    """Unknown fields are refused: a typing error would change the figures."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Candidate(Record):
    """What an opaque id stands for."""

    image: str
    method: str


class Key(Record):
    """Everything that the page does not tell."""

    format: Literal["preference-study-key"] = "preference-study-key"
    version: Literal[1] = 1
    study: Id
    title: str
    questions: list[str]
    ties: bool
    trials: int
    repeats: int
    seed: int
    crop: int
    methods: list[str]
    candidates: dict[str, Candidate]


class Answer(Record):
    """One question of one trial. `repeats` is the number of the trial that is shown again, mirrored."""

    trial: int = Field(ge=0)
    question: int = Field(ge=0)
    left: Id
    right: Id
    repeats: int | None = None
    choice: Choice
    seconds: float = Field(ge=0, allow_inf_nan=False)
    zoomed: bool = False


class Screen(Record):
    """What the participant looked at, in CSS pixels."""

    width: float
    height: float
    pixel_ratio: float


class Answers(Record):
    """One participant's file."""

    format: Literal["preference-study-answers"]
    version: Literal[1]
    study: Id
    participant: Id
    seed: int
    started: str | None
    finished: str | None
    screen: Screen | None = None
    answers: list[Answer]

    def check(self, key: Key) -> None:
        """Raises ValueError, one line, if the answers do not belong to the key."""
        if self.study != key.study:
            raise ValueError(f"answers another study ({self.study}; the key is for {key.study})")
        firsts: dict[tuple[int, int], Answer] = {}
        every = {(answer.trial, answer.question): answer for answer in self.answers}
        for number, answer in enumerate(self.answers, 1):
            place = answer.trial, answer.question
            problem = "is there twice" if place in firsts else _problem(answer, key, every)
            if problem:
                raise ValueError(f"answer {number} {problem}: the file has been changed")
            firsts[place] = answer


def _problem(answer: Answer, key: Key, every: dict[tuple[int, int], Answer]) -> str | None:
    left, right = key.candidates.get(answer.left), key.candidates.get(answer.right)
    if left is None or right is None:
        return "is about an unknown image"
    if left.image != right.image or left.method == right.method:
        return "compares what the study does not compare"
    if answer.question >= len(key.questions) or answer.trial >= key.trials + key.repeats:
        return "has a number that the study does not have"
    if answer.choice == "none" and not key.ties:
        return "is undecided, which the study does not allow"
    if answer.repeats is not None:
        first = every.get((answer.repeats, answer.question))
        if (
            first is None
            or first.repeats is not None
            or (first.right, first.left) != (answer.left, answer.right)
        ):
            return "repeats what was not asked"
    return None


_R = TypeVar("_R", bound=Record)


def read_record(kind: type[_R], path: Path) -> _R:
    """Raises ValueError, one line with what is wrong with the file."""
    name = "a study's key" if kind is Key else "a participant's answers"
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"is too large for {name}")
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"is not {name}: {place + ': ' if place else ''}{first['msg']}") from error
