"""The decoder, its scalar-headed sibling, and Hugging Face directories."""

from trivium.model.config import ModelConfig
from trivium.model.heads import Scorer
from trivium.model.hf import load_model, load_scorer, save_model
from trivium.model.transformer import Decoder

__all__ = ["Decoder", "ModelConfig", "Scorer", "load_model", "load_scorer", "save_model"]
