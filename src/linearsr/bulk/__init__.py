"""`linearsr batch`: `plan` finds images, `run` starts workers, `worker` upscales, `report` lists outcomes."""
