"""The entry point. From here on Ctrl-C and SIGTERM end the program cleanly, even while it imports modules."""

import os
import signal
import sys
from importlib import import_module

from linearsr import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

_IMPORTS = "<frozen importlib._bootstrap>"
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_INTERRUPTED = 130
_heard: list[int] = []


def main() -> None:
    """Run the command. Signals that are ignored, such as SIGINT for a background job, stay ignored."""
    for number in _SIGNALS:
        if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
            signal.signal(number, _leave)
    try:
        import_module("linearsr.cli.app").main()  # imported late, because it imports this module
    except SystemExit as error:
        sys.exit(128 + _heard[-1] if _heard and error.code == _INTERRUPTED else error.code)


def hand_over() -> None:
    """Turn both signals into KeyboardInterrupt from now on.

    During an import they still end the process, because an exception there may be swallowed or printed.
    """
    for number in _SIGNALS:
        if signal.getsignal(number) is _leave:
            signal.signal(number, _interrupt)


def _leave(number: int, frame: "FrameType | None") -> "NoReturn":
    sys.stderr.write("linearsr: interrupted\n")
    sys.stderr.flush()
    os._exit(128 + number)


def _interrupt(number: int, frame: "FrameType | None") -> "NoReturn":
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTS:
            _leave(number, frame)
        frame = frame.f_back
    _heard.append(number)
    raise KeyboardInterrupt
