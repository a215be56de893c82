"""Foundations of the other packages: weights and files on disk, devices and memory."""
