"""LinearSR as other programs expect a model: a `DiffusionPipeline`, and a descriptor for tools that upscale tensors."""
