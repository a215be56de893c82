"""From participants' answers to preference shares, with an interval that knows that answers come from few people."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

FEWEST_PARTICIPANTS = 4
ONE_SIDED = 10
"""So many answers, all for one side: by chance in one of 512 files, as sides are random."""
_MAX_BYTES = 64 * 2**20
_STUDENT_TERMS = (1.959964, 2.372271, 2.822498, 2.555850, 1.589530)

Id = Annotated[str, Field(min_length=1, max_length=64)]
_R = TypeVar("_R", bound="Record")


class Vote(NamedTuple):
    """One answer as seen by `method`: 1 where it was preferred to `over`, 0 where not, one half for neither."""

    participant: str
    method: str
    over: str
    value: float


class Record(BaseModel):
    """A file of a study. Unknown fields are refused: a typing error would change the figures."""

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
    choice: Literal["left", "right", "none"]
    seconds: float = Field(ge=0, allow_inf_nan=False)
    zoomed: bool = False


class Answers(Record):
    """One participant's file."""

    format: Literal["preference-study-answers"]
    version: Literal[1]
    study: Id
    participant: Id
    seed: int
    started: str | None
    finished: str | None
    screen: dict[Literal["width", "height", "pixel_ratio"], float] | None = None
    """What the participant looked at, in CSS pixels."""
    answers: list[Answer]

    def check(self, key: Key) -> None:
        """Raises ValueError, one line, if the answers do not belong to the key."""
        if self.study != key.study:
            raise ValueError(f"answers another study ({self.study}; the key is for {key.study})")
        every = {(answer.trial, answer.question): answer for answer in reversed(self.answers)}
        for number, answer in enumerate(self.answers, 1):
            for problem, found in _problems(answer, key, every):
                if found:
                    raise ValueError(f"answer {number} {problem}: the file has been changed")


def _problems(
    answer: Answer, key: Key, every: Mapping[tuple[int, int], Answer]
) -> Iterator[tuple[str, bool]]:
    """What may be wrong with an answer, and whether it is."""
    yield "is there twice", every[answer.trial, answer.question] is not answer
    yield "is about an unknown image", not {answer.left, answer.right} <= key.candidates.keys()
    left, right = (key.candidates[side] for side in (answer.left, answer.right))
    alike = left.image == right.image and left.method != right.method
    yield "compares what the study does not compare", not alike
    beyond = answer.question >= len(key.questions) or answer.trial >= key.trials + key.repeats
    yield "has a number that the study does not have", beyond
    yield "is undecided, which the study does not allow", answer.choice == "none" and not key.ties
    if answer.repeats is not None:
        first = every.get((answer.repeats, answer.question))
        asked = None if first is None else (first.repeats, first.right, first.left)
        yield "repeats what was not asked", asked != (None, answer.left, answer.right)


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


def score(files: Mapping[str, Answers], key: Key, min_consistency: float = 0.0) -> dict[str, Any]:
    """Shares of all methods and pairs, for each question; repeats only count for the consistency.

    Left out are: a second file of one participant, unfinished files, files with at least ten decided answers that are
    all for one side, and participants who answered fewer than `min_consistency` of their repeats as the first time.

    Args:
        files: answers by the name of their file, checked by `Answers.check`.
        min_consistency: in [0, 1]. Above 0 it also takes out honest people where methods look alike; fix it beforehand.

    Returns:
        As JSON can hold it: `participants`, how many count; `left_out`, why, by the name of the file; `repeats`, how
        many questions they answered again, and `consistent`, how many of these as the first time; `seconds`, the median
        for an answer; `questions`, each with the shares of its `methods`, the most preferred first, and `pairs`.
    """
    used: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for name, answers in files.items():
        reason = _reason(answers, key, min_consistency)
        if answers.participant in used:
            reason = f"the same participant as {used[answers.participant]}"
        if reason:
            left_out[name] = reason
        else:
            used[answers.participant] = name
    counted = [files[name] for name in used.values()]
    asked, same = ([_repeats(answers)[i] for answers in counted] for i in range(2))
    seconds = [answer.seconds for answers in counted for answer in answers.answers]
    return {
        "participants": len(used),
        "left_out": left_out,
        "repeats": sum(asked),
        "consistent": sum(same),
        "seconds": median(seconds) if seconds else None,
        "questions": [
            {"question": question, **_shares(_votes(counted, key, number), key.methods)}
            for number, question in enumerate(key.questions)
        ],
    }


def _reason(answers: Answers, key: Key, min_consistency: float) -> str:
    """Why a file does not count; "" where it does."""
    wanted = (key.trials + key.repeats) * len(key.questions)
    if len(answers.answers) < wanted:
        return f"unfinished: {len(answers.answers)} of {wanted} answers"
    decided = Counter(answer.choice for answer in answers.answers if answer.choice != "none")
    if len(decided) == 1 and decided.total() >= ONE_SIDED:
        return f"always {next(iter(decided))}, {decided.total()} times"
    asked, same = _repeats(answers)
    return f"answered {same} of {asked} repeats as the first time" if same < min_consistency * asked else ""


def _repeats(answers: Answers) -> tuple[int, int]:
    """(how many repeats, how many of them answered as the first time)"""
    chosen = {(a.trial, a.question): getattr(a, a.choice, None) for a in answers.answers}
    pairs = [
        (chosen[a.repeats, a.question], chosen[a.trial, a.question])
        for a in answers.answers
        if a.repeats is not None
    ]
    return len(pairs), sum(first == second for first, second in pairs)


def _votes(files: Iterable[Answers], key: Key, question: int) -> list[Vote]:
    """Of all answers that are no repeats, each from both sides."""
    votes = []
    for answers in files:
        for answer in answers.answers:
            if answer.question == question and answer.repeats is None:
                left, right = (key.candidates[side].method for side in (answer.left, answer.right))
                value = {"left": 1.0, "right": 0.0, "none": 0.5}[answer.choice]
                votes.append(Vote(answers.participant, left, right, value))
                votes.append(Vote(answers.participant, right, left, 1 - value))
    return votes


def _shares(votes: Sequence[Vote], methods: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """`methods` and `pairs`, those of which anything was asked."""
    alone = [_share(votes, method) for method in methods]
    pairs = [_share(votes, method, over) for method, over in combinations(methods, 2)]
    ranked = sorted(filter(None, alone), key=lambda share: -share["share"])
    return {"methods": ranked, "pairs": [pair for pair in pairs if pair]}


def _share(votes: Sequence[Vote], method: str, over: str | None = None) -> dict[str, Any]:
    """How often a method was preferred, to one other or to all; "can't decide" is one half. Empty without votes."""
    by_participant: dict[str, list[float]] = defaultdict(list)
    for vote in votes:
        if vote.method == method and over in (None, vote.over):
            by_participant[vote.participant].append(vote.value)
    values = [value for own in by_participant.values() for value in own]
    if not values:
        return {}
    interval = clustered_interval(
        [sum(v) for v in by_participant.values()], [len(v) for v in by_participant.values()]
    )
    return {
        "method": method,
        **({} if over is None else {"over": over}),
        "share": sum(values) / len(values),
        "interval": interval,
        "answers": len(values),
        "ties": values.count(0.5),
    }


def clustered_interval(sums: Sequence[float], counts: Sequence[int]) -> tuple[float, float] | None:
    """95 % interval of `sum(sums) / sum(counts)`, None from fewer than four participants.

    Wilson's interval (1927) with the effective number of answers of Rao and Scott (1992, "A simple method for the
    analysis of clustered binary data"): a participant's answers resemble each other, so they count as fewer, by the
    variance between participants over that of independent answers. Student's t with one degree of freedom less than
    participants stands for the normal quantile. A bootstrap of participants gives no width where all agree, and too
    little with few participants. It speaks of people, on these images.

    Args:
        sums: each participant's answers for a side, a tie as one half.
        counts: each participant's answers, at least one.
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
    """97.5 % quantile of Student's t to 0.005, from 3 degrees of freedom on (Abramowitz and Stegun 26.7.5)."""
    return sum(term / float(degrees) ** power for power, term in enumerate(_STUDENT_TERMS))
