"""Train a code language model end to end: pretraining, supervised fine-tuning, RLHF. Start at docs/index.md."""
