"""LinearSR: photorealistic image super-resolution with linear attention."""

from linearsr._version import __version__

__all__ = ["__version__"]
