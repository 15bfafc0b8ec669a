"""What RLHF costs: PPO and GRPO iterations, a reward model's updates, fine-tuning, against plain PyTorch loops and TRL.

    python benchmarks/rlhf.py
    python benchmarks/rlhf.py --parts ppo --turns 9
    python benchmarks/rlhf.py --no-trl

All models have one shape (10M parameters, vocabulary 4096) and random weights, all compute in bf16 over fp32 weights,
all count the same: responses sampled and learnt from, pairs, real tokens. No response ends before its cap.

- PPO: 64 prompts of 64 tokens, 64 new tokens each; then log-probabilities of policy and reference, values of a separate
  critic, scores of a reward model; four epochs, one update of policy and critic each. Trivium does what `stages/rl.py`
  does (`sample_rollout`, `RewardModel`, `Learner`): old log-probabilities apart from the sampler's, clipped gradients,
  all figures of its log. The plain loop samples with transformers' `generate` and clips too. TRL takes the old
  log-probabilities from the sampler and does not clip.
- GRPO: 8 prompts, 8 responses each, one update, no KL. Trivium runs the prompt of a group once, and runs old policy and
  reference for its log although the loss needs neither; the others run neither.
- Reward model: 32 pairs of two times 128 tokens that share a prompt of 64, Bradley-Terry alone. Trivium runs the prompt
  once, the others run two whole rows.
- Fine-tuning: 8 packed rows of 512, two to six examples each; the first quarter of an example carries no loss. Trivium
  packs by best fit and keeps examples apart. So does `SFTTrainer` with its packing `bfd`, here a row a pass: several
  become one long row, over all of which a processor attends. `wrapped` cuts examples. The plain loop attends over the
  whole row, all of which carries loss.

TRL comes with the extra `bench`; without it its rows are left out.
"""

import itertools
from collections.abc import Callable
from functools import partial

import torch
from peers import hugging_face, ours, plain_steps, products, shape
from plain_rlhf import KL_COEF, LR, Amounts, even_share, plain_grpo, plain_ppo, plain_reward, prompt_share
from trl_peers import missing, trl_grpo, trl_ppo, trl_reward, trl_sft
from turns import OURS, Result, Work, options, publish, results, take_turns

from trivium.base.machine import tune_allocator
from trivium.data.packing import fill_rows, plan_rows
from trivium.model import ModelConfig, Scorer
from trivium.optim import OptimConfig, Optimizer
from trivium.rewards import RewardModel
from trivium.rewards.learning import RankedTokens, RewardLossConfig, RewardStep
from trivium.rl.grpo import GRPO, GRPOConfig
from trivium.rl.learner import Learner, LearnerConfig
from trivium.rl.ppo import PPO, PPOConfig
from trivium.rl.rollout import Rollout, sample_rollout
from trivium.tokenizer import Tokenizer
from trivium.training.losses import micro_losses

TARGETS = {"ppo": 3.0, "grpo": 2.5, "reward": 2.0, "sft": 2.5}
ADAMW = OptimConfig(lr=LR, schedule="constant", warmup_steps=0)
UPDATES = 1_000_000
NO_END = -1
"""An end token that is never drawn."""
QUICK = Amounts(size="3M", prompts=8, length=8, epochs=2, group=4, pairs=4, rows=2, seq_len=64, steps=1)


def scorer(config: ModelConfig) -> Scorer:
    """A reward model's network with random weights."""
    return Scorer.from_decoder(ours(config), torch.Generator().manual_seed(1))


def trivium_ppo(amounts: Amounts) -> Work:
    """A step of `stages/rl.py` with PPO, without its tests, fine-tuning data and files."""
    config = shape(amounts.size)
    policy, reference = ours(config).to(amounts.device), ours(config).to(amounts.device)
    reference.requires_grad_(False)
    no_text = Tokenizer.train(["no text"], vocab_size=300)  # it is given ids
    reward = RewardModel(scorer(config).to(amounts.device), no_text)
    critic = Scorer.from_decoder(reward.scorer, torch.Generator()).to(amounts.device)
    settings = LearnerConfig(
        gamma=KL_COEF,
        epochs=amounts.epochs,
        minibatches=1,
        microbatch_tokens=max(4096, 2 * amounts.length * amounts.micro_rows),
        missing_eos="none",
        optim=ADAMW,
        critic_optim=ADAMW,
    )
    learner = Learner(policy, reference, critic, PPO(PPOConfig()), settings, UPDATES, seed=0)
    prompts = amounts.ids(amounts.prompts, 0)

    def score(rollout: Rollout) -> torch.Tensor:
        return reward.rewards(rollout.prompts, rollout.responses, rollout.prompt_of)

    return learning(learner, prompts, 1, amounts.length, score)


def trivium_grpo(amounts: Amounts) -> Work:
    """The same step with GRPO and rewards that cost nothing."""
    config = shape(amounts.size)
    policy, reference = ours(config), ours(config)
    reference.requires_grad_(False)
    settings = LearnerConfig(gamma=0.0, minibatches=1, missing_eos="none", optim=ADAMW)
    learner = Learner(policy, reference, None, GRPO(GRPOConfig()), settings, UPDATES, seed=0)
    prompts = amounts.ids(amounts.prompts // amounts.group, 0)

    def score(rollout: Rollout) -> torch.Tensor:
        return torch.tensor([even_share(response) for response in rollout.responses])

    return learning(learner, prompts, amounts.group, amounts.length, score)


def learning(
    learner: Learner, prompts: list[list[int]], samples: int, new: int, score: Callable[[Rollout], torch.Tensor]
) -> Work:
    """An iteration a turn: sample, score, prepare, update; its responses are counted."""
    steps, names = itertools.count(), [str(number) for number in range(len(prompts))]

    def work() -> float:
        step = next(steps)
        rollout = sample_rollout(
            learner.policy,
            prompts,
            names,
            samples_per_prompt=samples,
            seed=0,
            step=step,
            max_new_tokens=new,
            eos_id=NO_END,
        )
        raw = score(rollout)
        rollout.valid = torch.ones(len(raw), dtype=torch.bool)
        rollout.scores = learner.config.full_reward(raw, rollout.finished, rollout.lengths, new)
        figures = learner.prepare(rollout)
        learner.update(rollout, step, figures["sigma"])
        assert int(rollout.loss_mask.sum()) == len(prompts) * samples * new
        return len(rollout.responses)

    return work


def trivium_reward(amounts: Amounts) -> Work:
    """Updates as `stages/reward.py` makes them, without the auxiliary losses."""
    model = scorer(shape(amounts.size))
    optimizer = Optimizer(model, ADAMW, UPDATES)
    chosen, rejected = amounts.compared()
    cut, steps = amounts.length, itertools.count()
    examples = [
        RankedTokens(good[:cut], [good[cut:], bad[cut:]], [0, 1], [1.0, 0.0])
        for good, bad in zip(chosen, rejected, strict=True)
    ]
    config = RewardLossConfig(outcome_weight=0.0, lm_weight=0.0, centering=0.0)

    def work() -> float:
        for step in itertools.islice(steps, amounts.steps):
            for loss in RewardStep(model, examples, config).losses():
                loss.loss_sum.backward()
            optimizer.step(step)
        return amounts.steps * amounts.pairs

    return work


def trivium_sft(amounts: Amounts) -> Work:
    """Updates as `training.Trainer` makes them on the rows that `ExampleLoader` packs."""
    model = ours(shape(amounts.size, max_seq_len=amounts.seq_len))
    optimizer = Optimizer(model, ADAMW, UPDATES)
    documents = [document for row in amounts.documents(8 * amounts.rows) for document in row]
    pairs = [(each, [at >= prompt_share(each) for at in range(len(each))]) for each in documents]
    plan = plan_rows([len(each) for each in documents], amounts.seq_len)
    steps = itertools.count()

    def work() -> float:
        tokens = 0
        for step in itertools.islice(steps, amounts.steps):
            rows = [plan[(step * amounts.rows + place) % len(plan)] for place in range(amounts.rows)]
            batch = fill_rows(rows, pairs, amounts.seq_len, pad_id=0)
            for loss in micro_losses(model, batch, amounts.rows):
                loss.loss_sum.backward()
            optimizer.step(step, float(batch.loss_mask.sum()))
            tokens += int((batch.positions >= 0).sum())
        return tokens

    return work


def plain_sft(amounts: Amounts) -> Work:
    """A plain loop over full rows of transformers' Qwen3, examples not kept apart."""
    config = shape(amounts.size, max_seq_len=amounts.seq_len)
    rows = torch.tensor([[token for each in row for token in each] for row in amounts.documents(8 * amounts.rows)])
    steps = plain_steps(hugging_face(config, "qwen3"), itertools.cycle(rows.split(amounts.rows)), LR)
    return lambda: sum(itertools.islice(steps, amounts.steps))


Contestant = Callable[[Amounts], Work]
PLAIN = "plain PyTorch, transformers qwen3"
PARTS: dict[str, tuple[str, str, Contestant, Contestant, dict[str, Contestant]]] = {
    "ppo": ("PPO iteration", "responses/s", trivium_ppo, plain_ppo, {"TRL PPOTrainer": trl_ppo}),
    "grpo": ("GRPO iteration", "responses/s", trivium_grpo, plain_grpo, {"TRL GRPOTrainer": trl_grpo}),
    "reward": ("reward model", "pairs/s", trivium_reward, plain_reward, {"TRL RewardTrainer": trl_reward}),
    "sft": (
        "fine-tuning",
        "tokens/s",
        trivium_sft,
        plain_sft,
        {
            "TRL SFTTrainer, bfd, a row a pass": partial(trl_sft, packing="bfd", micro_rows=1),
            "TRL SFTTrainer, wrapped": partial(trl_sft, packing="wrapped", micro_rows=8),
        },
    ),
}
"""Name, unit, ours, the plain loop, TRL's."""


def work_of(part: str, amounts: Amounts) -> float:
    """1e9 floating-point operations of the products that a unit of a part needs, each pass done once."""
    config, new = shape(amounts.size), amounts.length
    prompt = amounts.length if part != "grpo" else amounts.length / amounts.group
    policy = products(config, prompt + new - 1, new)
    critic = products(config, prompt + new - 1, new, head=False)
    match part:
        case "ppo":  # sampled, by the reference; valued, scored; learnt from
            score = products(config, prompt + new, 1, head=False)
            return 2 * policy + critic + score + 3 * amounts.epochs * (policy + critic)
        case "grpo":  # sampled, learnt from
            return policy + 3 * policy
        case "reward":
            return 3 * products(config, amounts.length + 2 * new, 2, head=False)
        case _:
            return 3 * products(config, 1, 1 - prompt_share([0] * 100) / 100)


MODULES = {"ppo": "trl.experimental.ppo"}
"""What a part needs of TRL beside its core."""


def compare(part: str, amounts: Amounts, turns: int, why_not: str | None) -> list[Result]:
    """One part; without TRL where there is a reason."""
    name, unit, trivium, plain, trl = PARTS[part]
    contestants = {OURS: trivium(amounts), PLAIN: plain(amounts)}
    if why_not is None:
        contestants |= {baseline: make(amounts) for baseline, make in trl.items()}
    settings = vars(amounts) | {"vocabulary": amounts.vocab_size, "dtype": "bf16"}
    return results(name, take_turns(contestants, turns), unit, settings, TARGETS[part], work_of(part, amounts))


def main() -> None:
    """Compare part by part."""
    parser = options(__doc__)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--no-trl", action="store_true", help="leave TRL out, installed or not")
    chosen = parser.parse_args()
    tune_allocator()
    amounts, turns = (QUICK, 2) if chosen.quick else (Amounts(), chosen.turns)
    found: list[Result] = []
    left_out: list[str] = []
    for part in chosen.parts:
        why_not = "--no-trl" if chosen.no_trl else missing(MODULES.get(part, ""))
        if why_not:
            left_out += [f"{PARTS[part][0]}, {baseline}: {why_not}" for baseline in PARTS[part][4]]
        found += compare(part, amounts, turns, why_not)
    publish(found, chosen, left_out)


if __name__ == "__main__":
    main()
