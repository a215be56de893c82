"""Pictures of any size, exactly: passes over strips of rows in bounded memory."""

from linearsr.images.resize import scaled_size as output_size
from linearsr.streaming.memory import buffer_bytes, strip_bytes, whole_bytes
from linearsr.streaming.source import RowReader, RowWriter
from linearsr.streaming.upscale import stream_upscale

__all__ = [
    "RowReader",
    "RowWriter",
    "buffer_bytes",
    "output_size",
    "stream_upscale",
    "strip_bytes",
    "whole_bytes",
]
