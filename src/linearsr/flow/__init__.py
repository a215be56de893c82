"""The flow from noise to data."""

from typing import Literal

Solver = Literal["dpmsolver++", "euler"]
