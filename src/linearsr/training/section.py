"""What every section of a training config is: frozen, and closed to keys it does not know."""

from pydantic import BaseModel, ConfigDict


class ConfigError(ValueError):
    """A mistake in a training config, as one line that names the key."""


class Section(BaseModel):
    """Base of the config models; each lies beside the class that it configures."""

    model_config = ConfigDict(extra="forbid", frozen=True)
