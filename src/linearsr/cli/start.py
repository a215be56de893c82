"""The first thing that runs: Ctrl-C ends the program cleanly from here on, also while modules are imported."""

import os
import signal
import sys
from importlib import import_module

from linearsr import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

_IMPORTS = "<frozen importlib._bootstrap>"
_INTERRUPTED = 130


def main() -> None:
    """The console entry point. Where SIGINT is ignored, as for a job in the background, it stays so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    import_module("linearsr.cli.app").main()  # which imports this file


def hand_over() -> None:
    """From now on, Ctrl-C is a KeyboardInterrupt, but during an import, where it may be swallowed or printed."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, _interrupt)


def _leave(number: int, frame: "FrameType | None") -> "NoReturn":
    sys.stderr.write("linearsr: interrupted\n")
    sys.stderr.flush()
    os._exit(_INTERRUPTED)


def _interrupt(number: int, frame: "FrameType | None") -> "NoReturn":
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTS:
            _leave(number, frame)
        frame = frame.f_back
    raise KeyboardInterrupt
