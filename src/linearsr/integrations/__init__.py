"""LinearSR as other programs expect a model: a `DiffusionPipeline`."""
