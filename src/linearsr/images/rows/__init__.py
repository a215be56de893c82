"""Pictures too large for memory, read and written by rows, with all that is kept of pictures read whole."""
