"""Cheap proofs, made while the stage runs, that its numbers mean what they say; a breach ends the run."""

import hashlib

import torch
from torch import nn

from trivium.base.errors import StageFailed
from trivium.rl.rollout import Rollout


def check_responses(rollout: Rollout, eos_id: int, vocab_size: int) -> None:
    """Masks against recorded lengths, ends against recorded finishes, and rewards against validity.

    Raises:
        StageFailed: one of them does not hold; says which response.
    """
    real = rollout.lengths[rollout.valid].sum()
    if rollout.loss_mask.sum() != real:
        raise _breach(f"the loss mask covers {int(rollout.loss_mask.sum())} tokens, the valid responses have {real}")
    for index, (response, finished) in enumerate(zip(rollout.responses, rollout.finished.tolist(), strict=True)):
        if not response or min(response) < 0 or max(response) >= vocab_size:
            raise _breach(f"response {index} is empty or holds an id outside the vocabulary of {vocab_size}")
        if finished != (response[-1] == eos_id) or eos_id in response[:-1]:
            raise _breach(f"response {index} is recorded as {'' if finished else 'un'}finished, its ids say otherwise")
    odd = (~rollout.scores.isfinite() & rollout.valid).nonzero()[:, 0].tolist()
    if odd:
        raise _breach(f"the reward of response {odd[0]} is {rollout.scores[odd[0]].item()}, but it counts as valid")


def check_whitening(rollout: Rollout, sigma: float, tolerance: float = 1e-3) -> None:
    """Whitened advantages have mean 0 and variance 1 over the real tokens of the whole rollout.

    Raises:
        StageFailed: they have not.
    """
    real = rollout.advantages[rollout.loss_mask]
    if sigma <= 0 or len(real) < 2:
        return
    mean, std = real.mean().item(), real.std(unbiased=False).item()
    if abs(mean) > tolerance or abs(std - 1) > tolerance:
        raise _breach(f"whitened advantages have mean {mean:.3g} and deviation {std:.3g}, expected 0 and 1")


def check_first_update(values: dict[str, float], full_precision: bool) -> None:
    """On the first minibatch sampler, old and new policy are one: the ratio is 1, the log-probabilities the same.

    Raises:
        StageFailed: they are not.
    """
    tolerance = 1e-3 if full_precision else 0.1
    deviation, gap = values.get("ratio/first_deviation", 0.0), values["sampler/gap_mean"]
    if deviation > tolerance or gap > tolerance:
        raise _breach(
            f"on the first minibatch the ratio is off 1 by {deviation:.2g} and the sampler's log-probs are off the "
            f"trainer's by {gap:.2g} on average; both must be about 0. Look at temperature, precision and packing"
        )


@torch.no_grad()
def weights_print(module: nn.Module) -> str:
    """Digest of a module's weights, to notice that something has changed them."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_reference(reference: nn.Module, expected: str) -> None:
    """The reference in memory is still M1.

    Raises:
        StageFailed: its weights have changed since the stage began.
    """
    if weights_print(reference) != expected:
        raise _breach("the reference's weights have changed since the stage began: Ω is measured from a moving point")


def _breach(what: str) -> StageFailed:
    return StageFailed(f"self-check: {what}. This is a bug; no figure of this stage can be trusted.")
