"""Pictures as jobs: find them, name their results, do one after the other, and report what became of each."""
