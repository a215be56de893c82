"""Pictures as jobs: find them, name their results, run one after the other, and report each as a record."""
