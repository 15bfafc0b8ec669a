"""A decoder that answers with one number a token: the reward model and the critic."""

import torch
from torch import Tensor

from trivium.model.config import ModelConfig
from trivium.model.layers import Linear
from trivium.model.transformer import Decoder


class Scorer(Decoder):
    """A decoder body with a scalar head: r_t = w · h_t, computed in fp32.

    As a reward model only the last token's number counts (Ouyang et al. 2022); as a critic the number at
    the position before an action is that action's value.
    """

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.score = Linear(config.d_model, 1, bias=False)

    @torch.no_grad()
    def initialise_score(self, generator: torch.Generator) -> None:
        """W ~ N(0, 1 / (d + 1)) (Stiennon et al. 2020, arXiv:2009.01325)."""
        width = self.config.d_model
        self.score.weight.copy_(torch.randn(1, width, generator=generator) * (width + 1) ** -0.5)

    def scores(self, hidden: Tensor) -> Tensor:
        """(..., d_model) -> (...,) in fp32."""
        return self.score(hidden.float())[..., 0]

    @classmethod
    def from_decoder(cls, decoder: Decoder, generator: torch.Generator) -> "Scorer":
        """A scorer with a copy of another model's body and a fresh head."""
        assert decoder.adapter is None, "adapters would be left behind: merge them first"
        scorer = cls(decoder.config)
        scorer.load_state_dict(decoder.state_dict(), strict=False)
        if not isinstance(decoder, Scorer):
            scorer.initialise_score(generator)
        scorer.compute_dtype = decoder.compute_dtype
        return scorer
