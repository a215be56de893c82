"""The flow from noise to data."""

from typing import Literal

Solver = Literal["dpmsolver++", "euler"]
Residency = Literal["all", "active", "lazy"]
"""Where experts wait: "all" on the device; "active" in CPU memory; "lazy" on disk."""
