"""Which extra of the package brings a module that not everybody installs."""

from importlib.util import find_spec

from linearsr.training.section import ConfigError

_EXTRAS = {"peft": "lora", "diffusers": "full", "transformers": "full"}


def remedy(module: str) -> str:
    """The command that installs `module`, with what else its extra holds."""
    return f"pip install 'linearsr[{_EXTRAS.get(module.partition('.')[0], 'train')}]'"


def require(module: str, key: str) -> None:
    """Raises ConfigError, naming the `key` that asks for it, if `module` is not installed."""
    if find_spec(module) is None:
        raise ConfigError(f"{key}: needs {module}: {remedy(module)}")
