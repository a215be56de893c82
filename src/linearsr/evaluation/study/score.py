"""From participants' answers to preference shares."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import NamedTuple

from linearsr.evaluation.study.intervals import clustered_interval
from linearsr.evaluation.study.records import Answer, Answers, Key

ONE_SIDED = 10
"""So many answers, all for one side: by chance in one of 512 files, as sides are random."""


class Share(NamedTuple):
    """How often the first of `names` was preferred: to the second one, or to all others if it is alone.

    share: in [0, 1]; "can't decide" counts as one half.
    interval: 95 %, see `clustered_interval`; None from fewer than four participants.
    """

    names: tuple[str, ...]
    share: float
    interval: tuple[float, float] | None
    answers: int
    ties: int


class QuestionScore(NamedTuple):
    """The shares of one question; `methods` from the most to the least preferred one."""

    question: str
    methods: list[Share]
    pairs: list[Share]


@dataclass(frozen=True)
class Score:
    """What a study says."""

    participants: int
    left_out: dict[str, str]
    """Why, by the name of the file."""
    repeats: int
    """Questions answered a second time, by the participants who count."""
    consistent: int
    """How many of them were answered as the first time."""
    seconds: float | None
    """Median for one answer."""
    questions: list[QuestionScore]


class _Vote(NamedTuple):
    participant: str
    pair: tuple[str, str]
    """In the order of the key's methods."""
    first: float
    """For the first of the pair: 1, 0, or one half."""


def check_answers(answers: Answers, key: Key) -> None:
    """Raises ValueError, one line, if the answers do not belong to the key."""
    if answers.study != key.study:
        raise ValueError(f"answers another study ({answers.study}; the key is for {key.study})")
    seen: set[tuple[int, int]] = set()
    firsts = {(answer.trial, answer.question): answer for answer in answers.answers}
    for number, answer in enumerate(answers.answers, 1):
        problem = _problem(answer, key, firsts)
        if (answer.trial, answer.question) in seen:
            problem = "is there twice"
        seen.add((answer.trial, answer.question))
        if problem:
            raise ValueError(f"answer {number} {problem}: the file has been changed")


def _problem(answer: Answer, key: Key, firsts: dict[tuple[int, int], Answer]) -> str | None:
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
        first = firsts.get((answer.repeats, answer.question))
        if (
            first is None
            or first.repeats is not None
            or (first.right, first.left) != (answer.left, answer.right)
        ):
            return "repeats what was not asked"
    return None


def score(files: dict[str, Answers], key: Key, min_consistency: float = 0.0) -> Score:
    """Shares of all methods and pairs, for each question; repeats only count for the consistency.

    Left out are: a second file of one participant, unfinished files, files with at least ten decided answers that are
    all for one side, and participants who answered fewer than `min_consistency` of their repeats as the first time.

    Args:
        files: answers by the name of their file, checked by `check_answers`.
        min_consistency: in [0, 1]. Above 0 it also takes out honest people where methods look alike; fix it beforehand.
    """
    used: dict[str, Answers] = {}
    left_out: dict[str, str] = {}
    for name, answers in files.items():
        other = next((file for file, one in used.items() if one.participant == answers.participant), None)
        reason = _reason(answers, key, min_consistency)
        if other is not None:
            reason = f"the same participant as {other}"
        if reason is None:
            used[name] = answers
        else:
            left_out[name] = reason
    everything = [answer for answers in used.values() for answer in answers.answers]
    again = [_repeats(answers.answers) for answers in used.values()]
    return Score(
        participants=len(used),
        left_out=left_out,
        repeats=sum(asked for asked, _ in again),
        consistent=sum(same for _, same in again),
        seconds=median(answer.seconds for answer in everything) if everything else None,
        questions=[
            _question(text, _votes(used.values(), key, number), key.methods)
            for number, text in enumerate(key.questions)
        ],
    )


def _reason(answers: Answers, key: Key, min_consistency: float) -> str | None:
    wanted = (key.trials + key.repeats) * len(key.questions)
    if len(answers.answers) < wanted:
        return f"unfinished: {len(answers.answers)} of {wanted} answers"
    decided = Counter(answer.choice for answer in answers.answers if answer.choice != "none")
    if len(decided) == 1 and decided.total() >= ONE_SIDED:
        return f"always {next(iter(decided))}, {decided.total()} times"
    asked, same = _repeats(answers.answers)
    if asked and same < min_consistency * asked:
        return f"answered {same} of {asked} repeats as the first time"
    return None


def _repeats(answers: Sequence[Answer]) -> tuple[int, int]:
    """(how many repeats, how many of them answered as the first time)"""
    firsts = {(answer.trial, answer.question): answer for answer in answers}
    pairs = [
        (firsts[answer.repeats, answer.question], answer) for answer in answers if answer.repeats is not None
    ]
    return len(pairs), sum(_chosen(first) == _chosen(again) for first, again in pairs)


def _chosen(answer: Answer) -> str | None:
    return {"left": answer.left, "right": answer.right, "none": None}[answer.choice]


def _votes(files: Iterable[Answers], key: Key, question: int) -> list[_Vote]:
    votes = []
    for file in files:
        for answer in file.answers:
            if answer.question != question or answer.repeats is not None:
                continue
            left, right = (key.candidates[side].method for side in (answer.left, answer.right))
            value = {"left": 1.0, "right": 0.0, "none": 0.5}[answer.choice]
            if key.methods.index(left) > key.methods.index(right):
                left, right, value = right, left, 1 - value
            votes.append(_Vote(file.participant, (left, right), value))
    return votes


def _question(text: str, votes: Sequence[_Vote], methods: Sequence[str]) -> QuestionScore:
    alone: dict[tuple[str, ...], list[_Vote]] = {
        (method,): [
            vote if vote.pair[0] == method else vote._replace(first=1 - vote.first)
            for vote in votes
            if method in vote.pair
        ]
        for method in methods
    }
    pairs: dict[tuple[str, ...], list[_Vote]] = {
        pair: [vote for vote in votes if vote.pair == pair] for pair in combinations(methods, 2)
    }
    ranked = sorted(_shares(alone), key=lambda found: -found.share)
    return QuestionScore(text, ranked, _shares(pairs))


def _shares(groups: Mapping[tuple[str, ...], Sequence[_Vote]]) -> list[Share]:
    """Of each group in which anything was asked; a vote's `first` is for the group's first name."""
    shares = []
    for names, votes in groups.items():
        by_participant: dict[str, list[float]] = defaultdict(list)
        for vote in votes:
            by_participant[vote.participant].append(vote.first)
        if votes:
            sums = [sum(values) for values in by_participant.values()]
            interval = clustered_interval(sums, [len(values) for values in by_participant.values()])
            ties = sum(vote.first == 0.5 for vote in votes)
            shares.append(Share(names, sum(sums) / len(votes), interval, len(votes), ties))
    return shares
