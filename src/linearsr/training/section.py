"""The base of all sections of a training config: frozen, strict about unknown keys, with one-line errors."""

from collections.abc import Iterable
from dataclasses import fields
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any

from pydantic import BaseModel, ConfigDict

_PACKAGES = {"diffusers": "'linearsr[full]'", "transformers": "'linearsr[full]'", "wandb": "wandb"}
"""Top-level module -> what to install, for modules that the extra `train` does not include."""


class ConfigError(ValueError):
    """A mistake in a training config; the message is one line that names the key."""


class Section(BaseModel):
    """Base of the config models; each is defined next to the class that it configures."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def check_fields(kind: Any, names: Iterable[str], key: str) -> None:
    """Check that all `names`, listed under `key`, are fields of the dataclass `kind`.

    Raises ValueError: when one is not; the message names `key` and suggests a field.
    """
    known = [field.name for field in fields(kind)]
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(known)}"
            raise ValueError(f"{key}: {name} is unknown: {hint}")


def remedy(module: str) -> str:
    """Return the command that installs `module`, or the extra that includes it."""
    package = _PACKAGES.get(module.partition(".")[0], "'linearsr[train]'")
    return f"pip install {package}"


def require(module: str, key: str) -> None:
    """Check that `module` is installed. Raises ConfigError: when it is not; names the `key` that needs it."""
    if find_spec(module) is None:
        raise ConfigError(f"{key}: needs {module}: {remedy(module)}")
