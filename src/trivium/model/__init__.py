"""The decoder, its scalar-headed sibling, low-rank adapters, and Hugging Face directories."""

from trivium.model.config import ModelConfig
from trivium.model.heads import Scorer
from trivium.model.hf import load_model, load_scorer, save_model
from trivium.model.lora import LoRAConfig
from trivium.model.transformer import Decoder

__all__ = ["Decoder", "LoRAConfig", "ModelConfig", "Scorer", "load_model", "load_scorer", "save_model"]
