"""Conversions of a model: from SANA's weights, and to 8 bits."""
