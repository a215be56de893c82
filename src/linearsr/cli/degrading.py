"""From `--degrade` or `--preset` to a degradation, or one line that says why not."""

from typing import TYPE_CHECKING

from linearsr.cli.console import debugging, failure, stop

if TYPE_CHECKING:
    from linearsr.images.degradation import Degradation


def check_degradation(option: str, name: str) -> "Degradation":
    """The degradation of that name. Ends the command if there is none, or its file cannot be used."""
    from linearsr.images.degradation_choice import named_degradation

    try:
        return named_degradation(name)
    except ImportError:
        stop(f"{option} {name} needs PyYAML: pip install 'linearsr[train]'")
    except ValueError as error:
        if debugging():
            raise
        stop(f"{option}: {failure(error)}")
