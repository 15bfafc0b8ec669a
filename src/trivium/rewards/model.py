"""The reward model: a scorer of whole responses, with the normalisation that was frozen when it was trained."""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from trivium.base.errors import ModelError
from trivium.base.files import write_json
from trivium.data.branches import response_batches
from trivium.model import Scorer, load_scorer, save_model
from trivium.rewards.ensemble import Aggregate, aggregate_scores
from trivium.tokenizer import Tokenizer

Normalisation = Literal["scale", "shift"]


@dataclass(frozen=True)
class Ensemble:
    """Reward models that answer together."""

    members: list["RewardModel"]
    aggregate: Aggregate
    sd_coef: float = 1.0
    """Of `mean_minus_sd`."""


class RewardModel:
    """R: raw score r = w · h at a response's last token; normalised reward (r - mean) / std.

    Of an ensemble, r combines the members' scores, each from its own mean on M1's samples: what comparisons leave
    free is a constant, and without it the members share their unit, the log-odds of being preferred.

    Args:
        scorer: of an ensemble, its first member's, or the mean of the members' weights.
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
        ensemble: Ensemble | None = None,
    ):
        self.scorer, self.tokenizer, self.ensemble = scorer, tokenizer, ensemble
        self.mean, self.std, self.figures = mean, std, dict(figures or {})

    def raw_scores(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], prompt_of: Sequence[int]
    ) -> Tensor:
        """(N,) raw scores of responses given as token ids, the end token included; computed on the exact ids."""
        together = self.ensemble
        if together is None or together.aggregate == "weight_average":
            return self._own_scores(prompts, responses, prompt_of)
        scores = self.member_scores(prompts, responses, prompt_of)
        return aggregate_scores(scores, together.aggregate, together.sd_coef)

    def member_scores(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], prompt_of: Sequence[int]
    ) -> Tensor:
        """(n, N) raw scores of each member, from its own mean on M1's samples; of this model alone where it is one."""
        rows = []
        for member in self.ensemble.members if self.ensemble else [self]:
            # Who places R on a device places its scorer; the members go with it.
            member.scorer.to(self.scorer.device).compute_dtype = self.scorer.compute_dtype
            rows.append(member.raw_scores(prompts, responses, prompt_of) - member.mean)
        return torch.stack(rows)

    @torch.no_grad()
    def _own_scores(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], prompt_of: Sequence[int]
    ) -> Tensor:
        scores = torch.zeros(len(responses))
        for batch in response_batches(prompts, responses, prompt_of):
            rows = batch.to(self.scorer.device)
            hidden = self.scorer.hidden_at(rows.last, rows.ids, rows.positions, rows.branches)
            scores[batch.responses] = self.scorer.scores(hidden).cpu()
        return scores

    def rewards(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], prompt_of: Sequence[int]
    ) -> Tensor:
        """(N,) normalised rewards."""
        return (self.raw_scores(prompts, responses, prompt_of) - self.mean) / self.std

    def freeze_normalisation(self, raw_scores: Tensor, kind: Normalisation = "scale") -> None:
        """Take the mean, and with `scale` the standard deviation, from raw scores of M1's samples."""
        self.mean = raw_scores.double().mean().item()
        self.std = max(raw_scores.double().std(unbiased=False).item(), 1e-6) if kind == "scale" else 1.0

    def save(self, folder: Path) -> None:
        """A Hugging Face sequence classifier with one label, its tokenizer, and rm.json.

        An ensemble's members stand in `members/1`, `members/2`, ..., each in the same way.
        """
        tokenizer, together = self.tokenizer, self.ensemble
        shutil.rmtree(folder / MEMBERS, ignore_errors=True)
        save_model(self.scorer, folder, pad_id=tokenizer.pad_id, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id)
        tokenizer.save(folder)
        values: dict[str, Any] = {"mean": self.mean, "std": self.std} | self.figures
        found = values.pop("ensemble", {})
        if together is not None:
            for number, member in enumerate(together.members, start=1):
                member.save(folder / MEMBERS / str(number))
            told = {"members": len(together.members), "aggregate": together.aggregate, "sd_coef": together.sd_coef}
            values["ensemble"] = found | told
        write_json(folder / "rm.json", values)

    @classmethod
    def load(cls, folder: Path) -> "RewardModel":
        """Read what `save` wrote; of an ensemble that is the mean of weights, its members stay where they are."""
        mean, std, figures = _read_figures(folder / "rm.json")
        tokenizer, together = Tokenizer.load(folder), figures.get("ensemble")
        if together is None or together["aggregate"] == "weight_average":
            return cls(load_scorer(folder), tokenizer, mean, std, figures)
        members = [RewardModel.load(each) for each in member_folders(folder)]
        ensemble = Ensemble(members, together["aggregate"], float(together["sd_coef"]))
        return cls(members[0].scorer, tokenizer, mean, std, figures, ensemble)


MEMBERS = "members"


def member_folders(folder: Path) -> list[Path]:
    """Where the members of an ensemble are; the folder itself where it holds one model.

    Raises:
        ModelError: the folder's `rm.json` is not that of a reward model.
    """
    together = _read_figures(folder / "rm.json")[2].get("ensemble")
    if together is None:
        return [folder]
    return [folder / MEMBERS / str(number) for number in range(1, together["members"] + 1)]


def _read_figures(path: Path) -> tuple[float, float, dict[str, Any]]:
    """Mean, deviation and the other figures of an `rm.json`."""
    try:
        figures = json.loads(path.read_text())
        mean, std = float(figures.pop("mean")), float(figures.pop("std"))
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}). Name a reward model made here.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{path} holds no mean and std of scores. Train R again, or name another.") from None
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
        raise ModelError(f"{path}: mean {mean} and std {std} cannot normalise a score. Train R again.")
    if "ensemble" in figures and not _is_ensemble(figures["ensemble"]):
        raise ModelError(
            f"{path}: `ensemble` does not say how many members there are and how their scores are combined. "
            "Train R again, or name another."
        )
    return mean, std, figures


def _is_ensemble(value: Any) -> bool:
    if not isinstance(value, dict) or value.get("aggregate") not in get_args(Aggregate):
        return False
    count, coefficient = value.get("members"), value.get("sd_coef")
    return type(count) is int and count > 0 and isinstance(coefficient, (int, float)) and math.isfinite(coefficient)
