"""The flow from noise to data."""

from typing import Literal

Solver = Literal["dpmsolver++", "euler"]
Residency = Literal["all", "active", "lazy"]
"""Where experts are kept while not in use: "all" on the device; "active" in CPU memory; "lazy" on disk."""
