"""The page of a study: one HTML file with everything in it, and the key to its opaque ids."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from linearsr.evaluation.sources import Pixels
from linearsr.evaluation.study.answers import Candidate, Key
from linearsr.evaluation.study.scenes import Shown
from linearsr.runtime.files import whole_file

_ASSETS = Path(__file__).parent
_PLACE = re.compile(r"\{\{(\w+)\}\}")


@dataclass(frozen=True)
class StudyPlan:
    """What participants are asked."""

    title: str = "Which image looks better?"
    questions: Sequence[str] = ("Which one do you prefer?",)
    trials: int = 40
    """For each participant, each with all questions; at most one for each image and pair of methods."""
    repeats: int | None = None
    """How many of them come a second time, mirrored, at most half; None: one for every ten, and at least two."""
    ties: bool = True
    contact: str = "the person who gave you this page"
    seed: int = 0
    quality: int | None = None
    """Of lossy WebP, 1 to 100; None: lossless."""
    crop: int = 384


class Page(NamedTuple):
    """The HTML text, and what it does not tell."""

    html: str
    key: Key


class PageMaker:
    """Takes one scene after the other, so that only encoded pictures are held."""

    def __init__(self, methods: Sequence[str], plan: StudyPlan) -> None:
        """Raises ValueError: a method's name can be read in the title, a question or the contact."""
        for text in (plan.title, plan.contact, *plan.questions):
            for method in methods:
                if re.search(rf"(?<!\w){re.escape(method)}(?!\w)", text, re.IGNORECASE):
                    raise ValueError(f"'{text}' names the method {method}, which participants must not know")
        self.methods, self.plan = list(methods), plan
        self._random = np.random.default_rng(plan.seed)
        self._scenes: list[dict[str, str | None]] = []
        self._results: dict[str, str] = {}
        self._candidates: dict[str, Candidate] = {}
        self._pools: dict[tuple[str, str], list[dict[str, Any]]] = {
            pair: [] for pair in combinations(self.methods, 2)
        }

    def add(self, name: str, shown: Shown) -> None:
        """One scene, with the results of all methods."""
        ids: dict[str, str] = {}
        for method in self.methods:
            while (new := self._random.bytes(6).hex()) in self._candidates:
                pass
            ids[method] = new
            self._candidates[new] = Candidate(image=name, method=method)
            self._results[new] = self._url(shown.results[method])
        for pair, pool in self._pools.items():
            results = self._random.permutation([ids[method] for method in pair]).tolist()
            pool.append({"scene": len(self._scenes), "results": results})
        hr = None if shown.hr is None else self._url(shown.hr)
        self._scenes.append({"lr": self._url(shown.lr), "hr": hr})

    def finish(self) -> Page:
        """The same scenes and plan give the same page. Raises ValueError: no scenes."""
        if not self._scenes:
            raise ValueError("no image is left to show")
        plan = self.plan
        trials = min(plan.trials, len(self._scenes) * len(self._pools))
        wanted = max(2, round(trials / 10)) if plan.repeats is None else plan.repeats
        pools = [pool for pool in self._pools.values() if pool]
        asked: dict[str, Any] = {
            "questions": list(plan.questions),
            "ties": plan.ties,
            "trials": trials,
            "repeats": min(wanted, trials // 2),
        }
        data: dict[str, Any] = {
            **asked,
            "contact": plan.contact,
            # in an order that says nothing about the methods
            "pools": [pools[index] for index in self._random.permutation(len(pools))],
            "scenes": self._scenes,
            "results": dict(sorted(self._results.items())),
        }
        study = hashlib.blake2b(json.dumps([plan.title, data]).encode(), digest_size=8).hexdigest()
        about = {"study": study, "title": plan.title, "seed": plan.seed, "crop": plan.crop}
        key = Key(**about, **asked, methods=self.methods, candidates=self._candidates)
        return Page(_fill(plan.title, {"study": study, **data}), key)

    def _url(self, image: Pixels) -> str:
        stream, quality = BytesIO(), self.plan.quality
        settings = {"lossless": True, "quality": 50} if quality is None else {"quality": quality}
        Image.fromarray(image).save(stream, "WEBP", method=4, **settings)
        return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"


def write_page(page: Page, html_file: Path, key_file: Path) -> None:
    """Each file by rename; the key first, as a page without a key is worth nothing. Raises OSError."""
    for file, text in ((key_file, page.key.model_dump_json(indent=1)), (html_file, page.html)):
        with whole_file(file) as draft:
            draft.write_text(text, encoding="utf-8")


def _fill(title: str, data: dict[str, Any]) -> str:
    texts = {name: (_ASSETS / f"page.{name}").read_text(encoding="utf-8") for name in ("html", "css", "js")}
    # a "</script>" in a question must not end the element
    parts = {"title": html.escape(title), "style": texts["css"], "script": texts["js"]}
    parts["data"] = json.dumps(data).replace("<", "\\u003c")
    return _PLACE.sub(lambda match: parts[match[1]], texts["html"])
