"""Small studies, and participants who answer as told."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from commands import done, linearsr
from linearsr.evaluation.study.score import Answer, Answers, Key

METHODS = ("bicubic", "LinearSR", "Rival-7")
SIDE, SCALE = 96, 4


study = partial(linearsr, "study")


def save(pixels: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_folders(folder: Path, images: int = 3) -> list[str]:
    """Results of three methods, LR and HR photos; the methods as arguments."""
    random = np.random.default_rng(5)
    for number in range(images):
        photo = random.integers(0, 256, (SIDE // SCALE, SIDE // SCALE, 3), dtype=np.uint8)
        save(photo, folder / "lr" / f"photo{number}.png")
        large = photo.repeat(SCALE, 0).repeat(SCALE, 1)
        save(large, folder / "hr" / f"photo{number}_HR.png")
        for shift, method in enumerate(METHODS):
            noise = random.integers(0, 9, large.shape)
            result = (large.astype(int) + shift * noise).clip(0, 255).astype(np.uint8)
            save(result, folder / method / f"photo{number}_x{SCALE}.png")
    return [f"{method}={folder / method}" for method in METHODS]


def build(tmp_path: Path, folders: list[str], *more: object) -> tuple[str, Key]:
    """The page of a study, and its key."""
    page = tmp_path / "study.html"
    done(study(*folders, "--lr", tmp_path / "lr", "-o", page, "--crop", 64, "--overwrite", *more))
    return page.read_text(), Key.model_validate_json((tmp_path / "study.key.json").read_bytes())


def answers_to(
    key: Key,
    participant: str,
    prefer: Callable[[str, str, int], str | None],
    again: Callable[[str, str, int], str | None] | None = None,
    seed: int = 0,
) -> Answers:
    """Of a participant who says of two methods and a question's number which one is better, or None.

    again: the same for repeats.
    """
    random = np.random.default_rng(seed)
    by_image: dict[str, dict[str, str]] = {}
    for name, candidate in key.candidates.items():
        by_image.setdefault(candidate.image, {})[candidate.method] = name
    pool = [(ids[a], ids[b]) for ids in by_image.values() for a, b in combinations(key.methods, 2)]
    trials: list[tuple[str, str, int | None]] = []
    for index in random.permutation(len(pool))[: key.trials]:
        left, right = pool[index] if random.random() < 0.5 else pool[index][::-1]
        trials.append((left, right, None))
    trials += [(trials[first][1], trials[first][0], first) for first in range(key.repeats)]
    answers = []
    for number, (left, right, repeats) in enumerate(trials):
        for question in range(len(key.questions)):
            judge = prefer if repeats is None or again is None else again
            a, b = (key.candidates[side].method for side in (left, right))
            better = judge(a, b, question)
            choice = "none" if better is None else "left" if better == a else "right"
            answers.append(
                Answer(
                    trial=number,
                    question=question,
                    left=left,
                    right=right,
                    repeats=repeats,
                    choice=choice,
                    seconds=2.5,
                )
            )
    return Answers(
        format="preference-study-answers",
        version=1,
        study=key.study,
        participant=participant,
        seed=seed,
        started="2026-01-01T10:00:00.000Z",
        finished="2026-01-01T10:10:00.000Z",
        answers=answers,
    )


def write_all(folder: Path, files: Sequence[Answers]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"answers-{number}.json" for number in range(len(files))]
    for path, answers in zip(paths, files, strict=True):
        path.write_text(answers.model_dump_json())
    return paths
