"""What every test needs."""

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _fresh_accelerator_state() -> Iterator[None]:
    """`accelerate` keeps the mixed precision of the first trainer of a process; each test is a process of its own."""
    yield
    if "accelerate.state" in sys.modules:
        sys.modules["accelerate.state"].AcceleratorState._reset_state(True)
