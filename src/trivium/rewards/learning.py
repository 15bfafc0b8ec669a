"""Fitting a scorer to comparisons: Bradley-Terry at the last token, and two auxiliaries that help it generalise."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from pydantic import Field, model_validator
from torch import Tensor

from trivium.base.config import Config
from trivium.base.ranks import is_main, own_share
from trivium.base.seeding import python_rng
from trivium.batch import LossOutput
from trivium.data.branches import ResponseBatch, length_mask, response_batches
from trivium.model import Scorer
from trivium.objectives.lm import linear_cross_entropy
from trivium.objectives.preference import RankingModel, Ties, outcome_loss, ranking_loss
from trivium.rewards.ties import NU, TieScorer, first_nu, tied_share


@dataclass(frozen=True)
class RankedTokens:
    """One prompt's judged completions as token ids."""

    prompt: list[int]
    completions: list[list[int]]
    """Each with its end token where it finished."""
    tiers: list[int]
    """Rank of each, 0 best, equal for ties, -1 for unranked."""
    outcomes: list[float]
    """1 for passing or chosen, 0 for failing or rejected; NaN where unknown."""
    name: str = ""
    """For messages."""
    source: str = ""
    """Who judged."""
    weight: float = 1.0
    """How much the prompt counts in the ranking term."""
    margin: float = 0.0
    """By how much the judgement puts every better completion above every worse one."""


class RewardLossConfig(Config):
    """The reward model's objective."""

    ranking: RankingModel = "pairs"
    """`pairs`: every better and worse completion of a prompt are a comparison (Bradley-Terry); `plackett_luce`: a
    ranking is a series of choices of the best that is left. They are equal for two completions."""
    ties: Ties = "drop"
    """Completions judged equal: `drop` leaves these pairs out; `davidson` learns from them how near such scores are,
    with one nu of its own; `half` takes a tie for half a win each, which shrinks scores."""
    tie_lr: float = Field(default=0.02, ge=0)
    """Peak learning rate of log nu, for `davidson`; it begins at the likeliest value for equal scores."""
    margins: float = Field(default=0.0, ge=0)
    """Units of reward that one unit of a judgement's `margin` asks for between better and worse; 0 leaves margins
    out. Margins inflate the scale of scores."""
    outcome_weight: float = Field(default=1.0, ge=0)
    """Weight of the token-level outcome loss (Cobbe 2021): the same head read at every response token."""
    lm_weight: float = Field(default=0.5, ge=0)
    """Weight of the language-model loss on passing or chosen completions, which keeps the body's knowledge."""
    centering: float = Field(default=0.01, ge=0)
    """Weight of the pull of each prompt's mean score to zero."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Assumed share of wrong judgements."""

    @model_validator(mode="after")
    def _options_fit(self) -> "RewardLossConfig":
        others = {"ties": self.ties != "drop", "margins": self.margins > 0, "label_smoothing": self.label_smoothing > 0}
        if self.ranking == "plackett_luce" and any(others.values()):
            name = next(name for name, given in others.items() if given)
            raise ValueError(
                f'{name} is for ranking = "pairs", and ranking is "plackett_luce". Leave {name} out, or take pairs'
            )
        return self

    @property
    def keeps_ties(self) -> bool:
        """Whether completions judged equal teach anything."""
        return self.ties != "drop"


class RewardSchedule:
    """Which prompts each step learns from: every epoch is shuffled anew from (seed, epoch).

    Args:
        train: all prompts.
        prompts_per_step: prompts of one step; fewer where there are not so many.
        epochs: passes over them.
    """

    def __init__(self, train: Sequence[RankedTokens], prompts_per_step: int, epochs: float, seed: int):
        self.train, self.seed = train, seed
        self.size = min(prompts_per_step, len(train))
        self.per_epoch = len(train) // self.size
        self.steps = max(1, round(self.per_epoch * epochs))

    def examples(self, step: int) -> list[RankedTokens]:
        """The prompts of a step, a pure function of (seed, step)."""
        epoch, place = divmod(step, self.per_epoch)
        order = python_rng(self.seed, "reward epoch", epoch).sample(range(len(self.train)), len(self.train))
        return [self.train[index] for index in order[place * self.size : (place + 1) * self.size]]


class RewardStep:
    """One step's examples and its loss: every term is divided by its own count over the whole step, then weighted.

    The ranking term is a mean over prompts (weighted, where they have weights) of the mean over their ordered pairs
    (InstructGPT), each completion forwarded once; the auxiliary terms are means over tokens.
    """

    def __init__(
        self, scorer: Scorer, examples: Sequence[RankedTokens], config: RewardLossConfig, max_tokens: int = 4096
    ):
        self.scorer, self.examples, self.config = scorer, examples, config
        self.prompts = [example.prompt for example in examples]
        flat = [(index, place) for index, example in enumerate(examples) for place in range(len(example.completions))]
        self.owner = torch.tensor([index for index, _ in flat])
        self.place = torch.tensor([place for _, place in flat])
        self.responses = [examples[index].completions[place] for index, place in flat]
        self.tiers = torch.tensor([examples[index].tiers[place] for index, place in flat])
        self.outcomes = torch.tensor([examples[index].outcomes[place] for index, place in flat])
        self.batches = list(response_batches(self.prompts, self.responses, self.owner.tolist(), max_tokens))
        lengths = torch.tensor([len(response) for response in self.responses])
        known = ~self.outcomes.isnan()
        self.known_tokens = int(lengths[known].sum())
        self.good_tokens = int(lengths[known & (self.outcomes > 0.5)].sum())
        shares = [tied_share(example.tiers) for example in examples]
        decided = [share is not None and share < 1 for share in shares]
        ranked = [share is not None for share in shares] if config.keeps_ties else decided
        self.decided, self.ranked = sum(decided), sum(ranked)
        self.weights = torch.tensor([example.weight for example in examples])
        self.margins = torch.tensor([example.margin for example in examples])
        self.weight = float(self.weights[torch.tensor(ranked)].sum())

    def losses(self) -> Iterator[LossOutput]:
        """One loss a micro-batch, computed when asked for; sums over all ranks add up to the step's, counts to 1."""
        for number, (batch, counts) in enumerate(own_share(self.batches)):
            loss, metrics = self._terms(batch.to(self.scorer.device))
            if not counts:
                loss, metrics = 0.0 * loss, {}
            yield LossOutput(loss, torch.tensor(1.0 if number == 0 and is_main() else 0.0), metrics)

    def _terms(self, batch: ResponseBatch) -> tuple[Tensor, dict[str, Tensor]]:
        scorer, config = self.scorer, self.config
        members = batch.responses.cpu()
        outcomes = self.outcomes[members]
        known = ~outcomes.isnan()
        good = known & (outcomes > 0.5)
        by_outcome, by_text = config.outcome_weight and known.any(), config.lm_weight and good.any()
        chosen = torch.repeat_interleave(good.to(batch.lengths.device), batch.lengths)
        wanted = [batch.last, *([batch.tokens] if by_outcome else []), *([batch.predictors[chosen]] if by_text else [])]
        hidden = scorer.hidden_at(torch.cat(wanted), batch.ids, batch.positions, batch.branches)
        parts = iter(hidden.split([len(each) for each in wanted]))
        loss, metrics = self._ranking(scorer.scores(next(parts)), members)
        if by_outcome:
            scores = batch.spread(scorer.scores(next(parts)))
            mask = length_mask(batch.lengths.cpu()) & known[:, None]
            term = outcome_loss(scores, outcomes.nan_to_num().to(scores.device), mask.to(scores.device))
            loss = loss + config.outcome_weight * term.loss_sum / max(self.known_tokens, 1)
            metrics["outcome_loss"] = term.loss_sum.detach() / max(self.known_tokens, 1)
        if by_text:
            nll = linear_cross_entropy(next(parts), scorer.head_weight.to(hidden.dtype), batch.targets[chosen])
            loss = loss + config.lm_weight * nll.sum() / max(self.good_tokens, 1)
            metrics["lm_loss"] = nll.detach().sum() / max(self.good_tokens, 1)
        return loss, metrics

    def _ranking(self, scores: Tensor, members: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Share of the ranking loss that a batch's completions, (N,) scores, contribute."""
        owner, place = self.owner[members], self.place[members]
        prompts, row = owner.unique(return_inverse=True)
        width = int(place.max()) + 1
        at = (row.to(scores.device), place.to(scores.device))
        table = scores.new_zeros(len(prompts), width).index_put(at, scores)
        tiers = torch.full((len(prompts), width), -1).index_put((row, place), self.tiers[members]).to(scores.device)
        config, every = self.config, tiers >= 0
        term = ranking_loss(
            table,
            tiers,
            model=config.ranking,
            ties=config.ties,
            log_nu=self.scorer.log_nu[0] if isinstance(self.scorer, TieScorer) else None,
            margin=config.margins * self.margins[prompts].to(scores.device)[:, None, None] if config.margins else 0.0,
            centering=config.centering,
            label_smoothing=config.label_smoothing,
            weights=self.weights[prompts].to(scores.device),
        )
        decided = (every & (tiers != tiers.max(1, keepdim=True).values)).any(1).sum()
        compared = (every.sum(1) > 1).sum() if config.keeps_ties else decided
        metrics = {
            "ranking_nll": term.metrics["ranking_nll"] * compared / max(self.ranked, 1),
            "accuracy": term.metrics["accuracy"] * decided / max(self.decided, 1),
        }
        return term.loss_sum / (self.weight or 1.0), {key: value.detach() for key, value in metrics.items()}


def in_training(
    scorer: Scorer, config: RewardLossConfig, examples: Sequence[RankedTokens], nu: float | None = None
) -> Scorer:
    """The scorer that `RewardStep` trains: the same, or one with nu where ties are Davidson's.

    Args:
        nu: to begin with; None takes the likeliest for the examples while all scores are equal.
    """
    if config.ties != "davidson":
        return scorer
    if nu is None:
        told = [(share, each.weight) for each in examples if (share := tied_share(each.tiers)) is not None]
        nu = first_nu([share for share, _ in told], [weight for _, weight in told])
    return TieScorer.of(scorer, nu)


def learning_rates(scorer: Scorer, config: RewardLossConfig) -> dict[str, float]:
    """Parameters with a rate of their own, for the optimiser."""
    return {NU: config.tie_lr} if isinstance(scorer, TieScorer) else {}


def as_trained(scorer: Scorer) -> tuple[Scorer, dict[str, float]]:
    """What `in_training` gave, once trained: the scorer alone, and the figures that training found beside it."""
    return (scorer.plain(), {"nu": scorer.nu}) if isinstance(scorer, TieScorer) else (scorer, {})
