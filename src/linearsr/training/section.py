"""What every section of a training config is: frozen, closed to keys it does not know, and its mistakes one line."""

from collections.abc import Iterable
from dataclasses import fields
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any

from pydantic import BaseModel, ConfigDict

_PACKAGES = {"diffusers": "'linearsr[full]'", "transformers": "'linearsr[full]'", "wandb": "wandb"}
"""What to install for a module that the extra `train` does not bring."""


class ConfigError(ValueError):
    """A mistake in a training config, as one line that names the key."""


class Section(BaseModel):
    """Base of the config models; each lies beside the class that it configures."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def check_fields(kind: Any, names: Iterable[str], key: str) -> None:
    """Raises ValueError, naming the `key` that lists them, if one of the names is no field of the dataclass `kind`."""
    known = [field.name for field in fields(kind)]
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(known)}"
            raise ValueError(f"{key}: {name} is unknown: {hint}")


def remedy(module: str) -> str:
    """The command that installs `module`, with what else its extra holds."""
    package = _PACKAGES.get(module.partition(".")[0], "'linearsr[train]'")
    return f"pip install {package}"


def require(module: str, key: str) -> None:
    """Raises ConfigError, naming the `key` that asks for it, if `module` is not installed."""
    if find_spec(module) is None:
        raise ConfigError(f"{key}: needs {module}: {remedy(module)}")
