"""Preference shares from participants' answers, with intervals that allow for answers from few people."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

FEWEST_PARTICIPANTS = 4
ONE_SIDED = 10
"""A file with so many answers, all for one side, is left out. By chance that happens in one of 512 files."""
_MAX_BYTES = 64 * 2**20
_STUDENT_TERMS = (1.959964, 2.372271, 2.822498, 2.555850, 1.589530)
_VALUES = {"left": 1.0, "right": 0.0, "none": 0.5}

Id = Annotated[str, Field(min_length=1, max_length=64)]
Vote = tuple[str, str, str, float]
"""(participant, left method, right method, 1 for left, 0 for right, 0.5 for neither)"""
_R = TypeVar("_R", bound="Record")


class Record(BaseModel):
    """Base of the files of a study. Unknown fields are refused, because a typo would change the figures."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Candidate(Record):
    """The image and method behind an opaque id."""

    image: str
    method: str


class Key(Record):
    """The key of a study: everything that the page hides."""

    format: Literal["preference-study-key"] = "preference-study-key"
    version: Literal[1] = 1
    study: Id
    title: str
    questions: list[str]
    trials: int
    repeats: int
    crop: int
    methods: list[str]
    candidates: dict[str, Candidate]


class Answer(Record):
    """The answer to one question of one trial. `repeats` is the number of the trial shown again, mirrored."""

    trial: int = Field(ge=0)
    question: int = Field(ge=0)
    left: Id
    right: Id
    repeats: int | None = None
    choice: Literal["left", "right", "none"]
    seconds: float = Field(ge=0, allow_inf_nan=False)
    zoomed: bool = False


class Answers(Record):
    """The file of one participant."""

    format: Literal["preference-study-answers"]
    version: Literal[1]
    study: Id
    participant: Id
    seed: int
    started: str | None
    finished: str | None
    screen: dict[Literal["width", "height", "pixel_ratio"], float] | None = None
    """Size of the browser window in CSS pixels, and its pixel ratio."""
    answers: list[Answer]

    def checked(self, key: Key) -> "Answers":
        """Return these answers. Raises ValueError, one line, if they do not belong to the key."""
        if self.study != key.study:
            raise ValueError(f"answers another study ({self.study}; the key is for {key.study})")
        every = {(answer.trial, answer.question): answer for answer in reversed(self.answers)}
        for number, answer in enumerate(self.answers, 1):
            for problem in _problems(answer, key, every):
                raise ValueError(f"answer {number} {problem}: the file has been changed")
        return self


def _problems(answer: Answer, key: Key, every: Mapping[tuple[int, int], Answer]) -> Iterator[str]:
    if every[answer.trial, answer.question] is not answer:
        yield "is there twice"
    ends = [key.candidates[side] for side in (answer.left, answer.right) if side in key.candidates]
    if len(ends) < 2:
        yield "is about an unknown image"
    elif ends[0].image != ends[1].image or ends[0].method == ends[1].method:
        yield "compares what the study does not compare"
    if answer.question >= len(key.questions) or answer.trial >= key.trials + key.repeats:
        yield "has a number that the study does not have"
    if answer.repeats is not None:
        first = every.get((answer.repeats, answer.question))
        if first is None or (first.repeats, first.right, first.left) != (None, answer.left, answer.right):
            yield "repeats what was not asked"


def read_record(kind: type[_R], path: Path) -> _R:
    """Read a file of a study. Raises ValueError with one line if something is wrong with it."""
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


def score(files: Mapping[str, Answers], key: Key) -> dict[str, Any]:
    """Compute the shares of all methods and pairs for each question. Repeats count only for the consistency.

    Left out are a participant's second file, unfinished files, and files with at least ten decided answers
    that are all for one side.

    Args:
        files: answers by the name of their file, checked by `Answers.checked`.

    Returns:
        Ready for JSON: `participants`, the number that count; `left_out`, the reason by file name; `repeats`,
        the number of questions answered again, and `consistent`, how many of these as the first time;
        `seconds`, the median of an answer; `questions`, each with the shares of its `methods`, the most
        preferred first, and `pairs`.
    """
    used: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for name, answers in files.items():
        reason = _reason(answers, key)
        if answers.participant in used:
            reason = f"the same participant as {used[answers.participant]}"
        if reason:
            left_out[name] = reason
        else:
            used[answers.participant] = name
    counted = [files[name] for name in used.values()]
    alike = [same for answers in counted for same in _repeated_alike(answers)]
    seconds = [answer.seconds for answers in counted for answer in answers.answers]
    questions = []
    for number, question in enumerate(key.questions):
        votes: list[Vote] = [
            (
                one.participant,
                key.candidates[a.left].method,
                key.candidates[a.right].method,
                _VALUES[a.choice],
            )
            for one in counted
            for a in one.answers
            if a.question == number and a.repeats is None
        ]
        alone = filter(None, (_share(votes, method) for method in key.methods))
        pairs = filter(None, (_share(votes, *pair) for pair in combinations(key.methods, 2)))
        ranked = sorted(alone, key=lambda share: -share["share"])
        questions.append({"question": question, "methods": ranked, "pairs": list(pairs)})
    return {
        "participants": len(used),
        "left_out": left_out,
        "repeats": len(alike),
        "consistent": sum(alike),
        "seconds": median(seconds) if seconds else None,
        "questions": questions,
    }


def _reason(answers: Answers, key: Key) -> str:
    """Return why a file does not count, or "" if it does."""
    wanted = (key.trials + key.repeats) * len(key.questions)
    if len(answers.answers) < wanted:
        return f"unfinished: {len(answers.answers)} of {wanted} answers"
    decided = Counter(answer.choice for answer in answers.answers if answer.choice != "none")
    if len(decided) == 1 and decided.total() >= ONE_SIDED:
        return f"always {next(iter(decided))}, {decided.total()} times"
    return ""


def _repeated_alike(answers: Answers) -> list[bool]:
    """Return for each repeat whether it was answered as the first time."""
    chosen = {(a.trial, a.question): getattr(a, a.choice, None) for a in answers.answers}
    return [
        chosen[a.repeats, a.question] == chosen[a.trial, a.question]
        for a in answers.answers
        if a.repeats is not None
    ]


def _share(votes: Sequence[Vote], method: str, over: str | None = None) -> dict[str, Any]:
    """Return how often a method was preferred to `over`, or to all; ties count half. Empty without votes."""
    own: dict[str, list[float]] = defaultdict(list)
    for participant, left, right, value in votes:
        if method in (left, right) and over in (None, left, right):
            own[participant].append(value if method == left else 1 - value)
    values = [value for each in own.values() for value in each]
    if not values:
        return {}
    return {
        "method": method,
        **({} if over is None else {"over": over}),
        "share": sum(values) / len(values),
        "interval": clustered_interval(list(map(sum, own.values())), list(map(len, own.values()))),
        "answers": len(values),
        "ties": values.count(0.5),
    }


def clustered_interval(sums: Sequence[float], counts: Sequence[int]) -> tuple[float, float] | None:
    """Return the 95 % interval of `sum(sums) / sum(counts)`, or None for fewer than four participants.

    Wilson's interval (1927) with the effective number of answers of Rao and Scott (1992, "A simple method for
    the analysis of clustered binary data"): a participant's answers resemble each other, so they count as
    fewer, by the variance between participants over that of independent answers. Student's t, with one degree
    of freedom less than participants, replaces the normal quantile. The interval generalises to other people,
    not to other images.

    Args:
        sums: number of answers for a side, of each participant; a tie counts one half.
        counts: number of answers of each participant, at least one.
    """
    participants, answers = len(counts), sum(counts)
    if participants < FEWEST_PARTICIPANTS:
        return None
    share = sum(sums) / answers
    residuals = sum((s - n * share) ** 2 for s, n in zip(sums, counts, strict=True))
    variance = residuals * participants / (participants - 1) / answers**2
    independent = share * (1 - share) / answers
    effective = answers / max(1.0, variance / independent) if independent > 0 else float(answers)
    quantile = _student(participants - 1)
    square = quantile**2 / effective
    half = quantile * math.sqrt(share * (1 - share) / effective + square / effective / 4)
    low, high = ((share + square / 2 + sign * half) / (1 + square) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)


def _student(degrees: int) -> float:
    """Return Student's 97.5 % quantile, within 0.005 from 3 degrees on (Abramowitz and Stegun 26.7.5)."""
    return sum(term / float(degrees) ** power for power, term in enumerate(_STUDENT_TERMS))
