"""The reward model: a scorer of whole responses, with the normalisation that was frozen when it was trained."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trivium.base.errors import ModelError
from trivium.base.files import write_json
from trivium.data.branches import response_batches
from trivium.model import Scorer, load_scorer, save_model
from trivium.tokenizer import Tokenizer


class RewardModel:
    """R: raw score r = w · h at a response's last token; normalised reward (r - mean) / std.

    Args:
        mean, std: of raw scores on M1's samples (Ziegler 2019), frozen.
        figures: held-out accuracy and the rest of `rm.json`.
    """

    def __init__(
        self,
        scorer: Scorer,
        tokenizer: Tokenizer,
        mean: float = 0.0,
        std: float = 1.0,
        figures: Mapping[str, Any] | None = None,
    ):
        self.scorer, self.tokenizer = scorer, tokenizer
        self.mean, self.std, self.figures = mean, std, dict(figures or {})

    @torch.no_grad()
    def raw_scores(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], prompt_of: Sequence[int]
    ) -> Tensor:
        """(N,) raw scores of responses given as token ids, the end token included; computed on the exact ids."""
        scores = torch.zeros(len(responses))
        for batch in response_batches(prompts, responses, prompt_of):
            rows = batch.to(self.scorer.device)
            hidden = self.scorer.hidden(rows.ids, rows.positions, branches=rows.branches).flatten(0, 1)
            scores[batch.responses] = self.scorer.scores(hidden[rows.last]).cpu()
        return scores

    def rewards(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], prompt_of: Sequence[int]
    ) -> Tensor:
        """(N,) normalised rewards."""
        return (self.raw_scores(prompts, responses, prompt_of) - self.mean) / self.std

    def freeze_normalisation(self, raw_scores: Tensor) -> None:
        """Take mean and standard deviation from raw scores of M1's samples."""
        self.mean = raw_scores.double().mean().item()
        self.std = max(raw_scores.double().std(unbiased=False).item(), 1e-6)

    def save(self, folder: Path) -> None:
        """A Hugging Face sequence classifier with one label, its tokenizer, and rm.json."""
        tokenizer = self.tokenizer
        save_model(self.scorer, folder, pad_id=tokenizer.pad_id, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id)
        tokenizer.save(folder)
        write_json(folder / "rm.json", {"mean": self.mean, "std": self.std} | self.figures)

    @classmethod
    def load(cls, folder: Path) -> "RewardModel":
        """Read what `save` wrote."""
        path = folder / "rm.json"
        try:
            figures = json.loads(path.read_text())
            mean, std = float(figures.pop("mean")), float(figures.pop("std"))
        except OSError as error:
            raise ModelError(f"{path} cannot be read ({error.strerror}). Name a reward model made here.") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ModelError(f"{path} holds no mean and std of scores. Train R again, or name another.") from None
        if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
            raise ModelError(f"{path}: mean {mean} and std {std} cannot normalise a score. Train R again.")
        return cls(load_scorer(folder), Tokenizer.load(folder), mean, std, figures)
