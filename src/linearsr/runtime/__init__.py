"""What every room stands on: weights and files on disk, where to compute, memory."""
