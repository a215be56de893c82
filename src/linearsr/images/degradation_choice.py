"""Lookup of a degradation by name: a preset, or your own YAML file.

A file is a YAML mapping of the fields of `Degradation`. `effects` is a list in which each item has the `kind`
of effect beside its fields; `orders` is a list of the fields of `Order`. Omitted fields have the defaults of
the classes.
"""

import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from linearsr.images.degradation import PRESETS, Degradation, ResizeMode, degrade
from linearsr.images.degradation_effects import Effect
from linearsr.images.degradation_rounds import Order
from linearsr.runtime.files import from_json, prefixed

FILE_SUFFIXES = (".yaml", ".yml")

EFFECTS = {
    re.sub("(?<=[a-z])(?=[A-Z])", "-", kind.__name__).lower(): kind
    for kind in sorted(Effect.__subclasses__(), key=lambda kind: kind.__name__)
}
"""Classes of effects by the `kind` that names them in a file, such as "sensor-noise"."""

_LARGEST_KERNEL = 21
_Part = TypeVar("_Part")


@dataclass(frozen=True)
class _File:
    """The content of a file: the fields of `Degradation`, with effects and orders as plain mappings."""

    effects: list[dict[str, Any]] = field(default_factory=list)
    orders: list[dict[str, Any]] = field(default_factory=list)
    filters: tuple[ResizeMode, ...] = Degradation.filters
    final_sinc_prob: float = Degradation.final_sinc_prob


def named_degradation(name: str) -> Degradation:
    """Look up a degradation by name: a preset, or your own YAML file.

    Raises:
        ImportError: the name is that of a file, and PyYAML is not installed.
        ValueError: neither a preset nor a file, or an unreadable or unusable file; one line that says where.
    """
    if name in PRESETS:
        return PRESETS[name]
    if not name.endswith(FILE_SUFFIXES):
        raise ValueError(
            f"unknown degradation {name!r}: choose from {', '.join(PRESETS)}, or name a .yaml file of your own"
        )
    with prefixed(f"{name}: ", ValueError):
        return _read(Path(name))


def label(name: str) -> str:
    """Return the name of a degradation in results: a preset's, or a file's without folder and suffix."""
    return Path(name).stem if name.endswith(FILE_SUFFIXES) else name


def identity(name: str) -> str:
    """Return a preset's name, or a file's with a checksum of its settings. Raises as `named_degradation`."""
    degradation = named_degradation(name)
    return name if name in PRESETS else f"{name} ({zlib.crc32(repr(degradation).encode()):08x})"


def _read(file: Path) -> Degradation:
    import yaml

    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError("no such file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"cannot be read as YAML ({' '.join(str(error).split())})") from None
    if file.stem in PRESETS:
        raise ValueError(f"{file.stem} is the name of a preset: choose another name")
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise ValueError("must be a mapping of settings")
    whole = _part(_File, raw, "")
    effects = [_effect(values, f"effects, number {n}: ") for n, values in enumerate(whole.effects, 1)]
    orders = [_order(values, f"orders, number {n}: ") for n, values in enumerate(whole.orders, 1)]
    if not whole.filters:
        raise ValueError("filters: name at least one")
    if effects and not orders:
        raise ValueError("effects: they come before rounds, so give at least one of these in orders")
    made = Degradation(filters=whole.filters, final_sinc_prob=whole.final_sinc_prob)
    return _tried(replace(made, effects=tuple(effects), orders=tuple(orders)))


def _effect(values: Mapping[str, Any], place: str) -> Any:
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in EFFECTS:
        raise ValueError(f"{place}kind is {kind!r}: choose from {', '.join(EFFECTS)}")
    return _part(EFFECTS[kind], {key: value for key, value in values.items() if key != "kind"}, place)


def _part(kind: type[_Part], values: Mapping[str, Any], place: str) -> _Part:
    known = [known.name for known in fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ValueError(f"{place}unknown setting {key!r}: choose from {', '.join(known)}")
    with prefixed(place, ValueError, (TypeError, ValueError)):
        part = from_json(kind, values)
    for key, value in values.items():
        inner = getattr(part, key)
        if is_dataclass(inner):
            _part(type(inner), value, f"{place}{key}: ")
        else:
            _check(place + key, key, inner)
    return part


def _order(values: Mapping[str, Any], place: str) -> Order:
    order = _part(Order, values, place)
    (up, down, _), (low, high) = order.resize_probs, order.resize_range
    if (up and high < 1) or (down and low > 1):
        raise ValueError(
            f"{place}resize_range: from {low} to {high} does not reach 1, from where resize_probs go up or down"
        )
    return order


def _check(place: str, key: str, value: Any) -> None:
    """Check that numbers are finite and not negative, ranges rise, and probabilities are at most 1."""
    numbers = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(number, int | float) for number in numbers):
        return
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise ValueError(f"{place}: {value}: must not be below 0")
    if key.endswith(("prob", "share")) and value > 1:
        raise ValueError(f"{place}: {value}: a probability is at most 1")
    if key.endswith("probs"):
        count = len(getattr(Order(), key))
        if len(numbers) != count or not math.isclose(sum(numbers), 1, abs_tol=1e-6):
            raise ValueError(f"{place}: must be {count} probabilities with a sum of 1")
    elif len(numbers) == 2 and numbers[0] > numbers[1]:
        raise ValueError(f"{place}: a range must rise, from {numbers[1]} to {numbers[0]}")
    if key == "kernel_sizes" and not all(3 <= side <= _LARGEST_KERNEL and side % 2 for side in numbers):
        raise ValueError(f"{place}: kernels have odd sides from 3 to {_LARGEST_KERNEL} pixels")
    if key in ("jpeg_range", "quality") and not (numbers[0] >= 1 and numbers[1] <= 100):
        raise ValueError(f"{place}: the quality of a JPEG is from 1 to 100")


@cache
def _tried(degradation: Degradation) -> Degradation:
    """Return the degradation if it works on test images: some meaningless values show only then.

    A file is read whenever it is named, because it may have changed, but the same settings are tried only
    once.
    """
    hr = np.random.default_rng(0).random((64, 64, 3), dtype=np.float32)
    always = replace(
        degradation,
        effects=tuple(replace(e, prob=1.0) if hasattr(e, "prob") else e for e in degradation.effects),  # type: ignore[type-var]
        orders=tuple(replace(order, blur_prob=1.0, jpeg_prob=1.0) for order in degradation.orders),
    )
    with np.errstate(all="ignore"):
        for seed in range(8):
            try:
                lr = degrade(hr, always, np.random.default_rng(seed))
            except (ValueError, ArithmeticError, RuntimeError) as error:
                raise ValueError(f"cannot be done ({' '.join(str(error).split())})") from None
            if not np.isfinite(lr).all():
                raise ValueError(
                    "gives values that are not numbers (NaN or infinite): check the settings that are 0"
                )
    return degradation
