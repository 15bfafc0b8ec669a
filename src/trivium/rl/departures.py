"""Where an update, as configured, is not exactly a step down U; see docs/rlhf.md for what each is worth."""

from typing import Any

from trivium.rl.dpo import DPOConfig
from trivium.rl.learner import LearnerConfig
from trivium.rl.ppo import PPOConfig


def departures(algorithm: str, switches: Any, learner: LearnerConfig) -> list[str]:
    """One short line for each reason why the expected update differs from -∇U; none means it is exact.

    Args:
        algorithm: its name.
        switches: its own section of the recipe.
        learner: what all algorithms share.
    """
    found = []
    if isinstance(switches, DPOConfig):
        return [f"{algorithm}: comparisons that were drawn before, in place of the policy's own answers"]
    if isinstance(switches, PPOConfig):
        if switches.gae_lambda < 1:
            found.append(f"gae_lambda {switches.gae_lambda}: advantages lean on the critic")
        if switches.discount < 1:
            found.append(f"discount {switches.discount}: later rewards count less")
        if switches.value_clip is not None:
            found.append("value_clip: the critic moves slower than its loss asks")
        if switches.whiten:
            found.append("whiten: every step is scaled by its own σ (α with it)")
        if switches.truncation == "mask":
            found.append("truncation mask: responses cut by the cap are left out")
    elif algorithm in ("grpo", "dapo", "gspo", "cispo"):
        found.append("division by the group's deviation: prompts of low variance count more")
    elif algorithm == "reinforce":
        found.append("whitening: every step is scaled by its own σ (α with it)")
    if getattr(switches, "filter_groups", False):
        found.append("filter_groups: prompts whose responses earned the same lose their KL penalty")
    if switches.aggregate in ("token", "seq_mean"):
        found.append(f"aggregate {switches.aggregate}: long and short responses are weighted unlike their probability")
    if switches.kl != "reward" and learner.gamma > 0:
        found.append(f"kl {switches.kl}: in the loss, where its gradient is not that of Ω")
    if learner.kl_target is not None:
        found.append("kl_target: the coefficient moves away from U's γ")
    if learner.epochs * learner.minibatches > 1:
        found.append(f"{learner.epochs * learner.minibatches} updates a rollout: all but the first are off-policy")
    if learner.importance in ("token", "icepop", "old"):
        found.append(f"importance {learner.importance}: weights per token are biased")
    if learner.importance == "sequence" and learner.importance_cap is not None:
        found.append(f"importance_cap {learner.importance_cap:g}: weights above it are cut")
    return found
