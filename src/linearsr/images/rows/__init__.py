"""Pictures too large to be held: rows of a file in, rows out, with all that the whole-picture way keeps."""
