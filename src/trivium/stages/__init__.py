"""The stages of the pipeline. Each has a `Config` and a `run`; `pipeline` chains them."""
