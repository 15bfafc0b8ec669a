"""Train a code language model end to end: pretraining, supervised fine-tuning, RLHF. Start at docs/index.md."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trivium.front import (
        LoRAConfig,
        ModelConfig,
        Response,
        RewardModel,
        Tokenizer,
        TransformerModel,
        batches,
        generate_tasks,
        load_weights,
        ppo_update,
        run,
        sample_prompts,
        save_weights,
        tokenize,
    )

__version__ = "0.1.0"

__all__ = [
    "LoRAConfig",
    "ModelConfig",
    "Response",
    "RewardModel",
    "Tokenizer",
    "TransformerModel",
    "batches",
    "generate_tasks",
    "load_weights",
    "ppo_update",
    "run",
    "sample_prompts",
    "save_weights",
    "tokenize",
]


def __getattr__(name: str) -> Any:
    """Public names are loaded when first used, so that `import trivium` and the command line start at once."""
    if name in __all__:
        from trivium import front

        return getattr(front, name)
    raise AttributeError(f"module 'trivium' has no attribute {name!r}")
