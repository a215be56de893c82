"""Upscaling in strips of rows, in bounded memory; a whole image is a single strip."""
