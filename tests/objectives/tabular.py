"""A policy small enough to enumerate: one row of logits per prefix, every response with its probability."""

import itertools
import math

import torch
from torch import Tensor

from trivium.objectives.tokens import token_logprobs

EOS = 0


class Tabular:
    """All responses over `symbols` tokens (0 is EOS) of at most `steps` actions, in fp64."""

    def __init__(self, symbols: int = 3, steps: int = 3) -> None:
        self.symbols, self.steps = symbols, steps
        letters = range(1, symbols)
        prefixes = [p for length in range(steps) for p in itertools.product(letters, repeat=length)]
        self.state_of = {prefix: index for index, prefix in enumerate(prefixes)}
        ended = [prefix + (EOS,) for prefix in prefixes]
        self.responses = sorted(ended + list(itertools.product(letters, repeat=steps)))
        self.ids = torch.zeros(len(self.responses), steps, dtype=torch.long)
        self.states = torch.zeros_like(self.ids)
        self.mask = torch.zeros_like(self.ids, dtype=torch.bool)
        for row, response in enumerate(self.responses):
            for t, token in enumerate(response):
                self.ids[row, t], self.states[row, t], self.mask[row, t] = token, self.state_of[response[:t]], True

    def logits(self, seed: int, scale: float = 1.0) -> Tensor:
        """Random parameters (states, symbols), the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        return scale * torch.randn(len(self.state_of), self.symbols, dtype=torch.float64, generator=generator)

    def scores(self, seed: int) -> Tensor:
        """A random reward (responses,) for each response."""
        return torch.randn(
            len(self.responses), dtype=torch.float64, generator=torch.Generator().manual_seed(1000 + seed)
        )

    def logprobs(self, theta: Tensor) -> Tensor:
        """(responses, steps) per action; meaningless outside `mask`."""
        return token_logprobs(theta[self.states], self.ids)

    def log_p(self, theta: Tensor) -> Tensor:
        """(responses,) log-probability of each response."""
        return (self.logprobs(theta) * self.mask).sum(-1)

    def p(self, theta: Tensor) -> Tensor:
        """(responses,) probabilities; they add up to 1."""
        return self.log_p(theta).exp()

    def kl(self, theta: Tensor, ref: Tensor) -> Tensor:
        """() exact KL between the distributions over whole responses."""
        return (self.p(theta) * (self.log_p(theta) - self.log_p(ref))).sum()

    def optimum(self, ref: Tensor, scores: Tensor, temperature: float) -> Tensor:
        """Logits (states, symbols) of pi* ~ pi_ref exp(scores / temperature)."""
        weight = self.p(ref) * (scores / temperature).exp()
        theta = torch.full_like(ref, -math.inf)
        for prefix, state in self.state_of.items():
            for token in range(self.symbols):
                path = prefix + (token,)
                rows = [row for row, response in enumerate(self.responses) if response[: len(path)] == path]
                theta[state, token] = weight[rows].sum().log()
        return theta

    def values(self, theta: Tensor, returns: Tensor) -> Tensor:
        """(responses, steps) exact value of the state before each action; `returns` (responses, steps) to go."""
        p = self.p(theta)
        value = torch.zeros(len(self.state_of), dtype=torch.float64)
        for state in range(len(value)):
            here = (self.states == state) & self.mask
            reach = (p.unsqueeze(1) * here).sum()
            value[state] = ((p.unsqueeze(1) * returns)[here]).sum() / reach
        return value[self.states] * self.mask


def grad_of(loss: Tensor, theta: Tensor) -> Tensor:
    """Gradient of a scalar with respect to `theta`."""
    return torch.autograd.grad(loss, theta, retain_graph=True)[0]


def assert_close(actual: Tensor, expected: Tensor, atol: float) -> None:
    """Equal within an absolute tolerance alone."""
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)
