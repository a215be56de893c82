"""LinearSR in the forms that other libraries expect: a `diffusers` pipeline."""
