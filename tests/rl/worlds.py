"""A task small enough to enumerate for a transformer: every response to every prompt, its score and its probability."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trivium.model import Decoder, Scorer
from trivium.rl.learner import Learner, LearnerConfig
from trivium.rl.ppo import PPO, PPOConfig
from trivium.rl.rollout import Rollout, sample_rollout

EOS = 0
SHAPE = {"vocab_size": 4, "max_seq_len": 8}


@dataclass
class World:
    """Responses of at most `cap` tokens over a vocabulary of four, 0 ending them; one random score each."""

    prompts: list[list[int]] = field(default_factory=lambda: [[3, 1], [2, 3]])
    cap: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        ended = [(*p, EOS) for length in range(self.cap) for p in itertools.product((1, 2, 3), repeat=length)]
        self.responses = [list(each) for each in ended + list(itertools.product((1, 2, 3), repeat=self.cap))]
        self.index = {tuple(response): place for place, response in enumerate(self.responses)}
        generator = torch.Generator().manual_seed(self.seed)
        self.scores = torch.randn(len(self.prompts), len(self.responses), generator=generator)

    def log_p(self, model: Decoder) -> Tensor:
        """(prompts, responses) log-probability of each, by plain full forwards."""
        return torch.stack([self._log_p(model, prompt) for prompt in self.prompts])

    def _log_p(self, model: Decoder, prompt: list[int]) -> Tensor:
        rows = [prompt + response + [EOS] * (self.cap - len(response)) for response in self.responses]
        logprobs = model(torch.tensor(rows)).log_softmax(-1)[:, len(prompt) - 1 : -1]
        targets = torch.tensor([row[len(prompt) :] for row in rows])
        mask = torch.arange(self.cap) < torch.tensor([len(response) for response in self.responses])[:, None]
        return (logprobs.gather(2, targets[..., None])[..., 0] * mask).sum(1)

    def sample(self, policy: Decoder, count: int, *, step: int = 0, copies: int = 1, seed: int = 0) -> Rollout:
        """`count` scored responses a prompt, in `copies` groups each (smaller rows are faster)."""
        prompts = [prompt for prompt in self.prompts for _ in range(copies)]
        names = [f"{index}" for index in range(len(prompts))]
        rollout = sample_rollout(
            policy, prompts, names, samples_per_prompt=count // copies, seed=seed, step=step,
            max_new_tokens=self.cap, eos_id=EOS, batch_size=1024,
        )  # fmt: skip
        owners = [owner // copies for owner in rollout.prompt_of]
        places = [self.index[tuple(response)] for response in rollout.responses]
        rollout.scores = self.scores[owners, places]
        rollout.valid = torch.ones(len(places), dtype=torch.bool)
        return rollout


def make_learner(
    policy: Decoder,
    reference: Decoder,
    critic: Scorer | None,
    *,
    total: int = 10,
    ppo: PPOConfig | None = None,
    seed: int = 0,
    **config: object,
) -> Learner:
    """A learner with PPO and one update a rollout unless told otherwise."""
    settings = LearnerConfig.model_validate({"minibatches": 1, "missing_eos": "none"} | config)
    return Learner(policy, reference, critic, PPO(ppo or PPOConfig()), settings, total, seed)


def learn(learner: Learner, rollout: Rollout, step: int = 0, **options: object) -> dict[str, float]:
    """Prepare and update; all figures."""
    figures = learner.prepare(rollout)
    return figures | learner.update(rollout, step, figures["sigma"], **options)  # type: ignore[arg-type]


def first_gradient(learner: Learner) -> dict[str, Tensor]:
    """The gradient of the first update, from Adam's first moment (grad_clip must be off)."""
    decay = learner.config.optim.betas[0]
    moments = learner.optimizer.state_tensors()
    return {name: moments[f"{name}/exp_avg"] / (1 - decay) for name, _ in learner.policy.named_parameters()}


def drop_rows(rollout: Rollout, keep: Sequence[int]) -> Rollout:
    """The same rollout as if only these responses had been drawn."""
    rows = torch.tensor(keep)
    responses = [rollout.responses[k] for k in keep]
    width = max(map(len, responses))
    return Rollout(
        rollout.prompts,
        responses,
        [rollout.prompt_of[k] for k in keep],
        rollout.finished[rows],
        rollout.sampler_logprobs[rows, :width],
        rollout.temperature,
        scores=rollout.scores[rows],
        valid=rollout.valid[rows],
    )
