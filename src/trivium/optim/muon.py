"""Muon with its orthogonalisation in batches and in the precision that the machine is fast in."""

from collections.abc import Callable

import torch
from torch import Tensor

from trivium.base.ranks import local, part_of, whole


def orthogonalise(
    matrices: Tensor, coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315), steps: int = 5
) -> Tensor:
    """Bring all singular values of each matrix near 1, by the quintic Newton-Schulz iteration.

    Source: Jordan 2024, Muon: X <- a X + (b X X' + c (X X')^2) X, from X of Frobenius norm 1.

    Args:
        matrices: (N, R, C).
        coefficients: a, b, c. The default lifts small singular values fastest and leaves those near 1 in 0.7 to 1.2.
        steps: of the iteration.
    Returns:
        (N, R, C) of the same dtype; singular vectors are kept.
    """
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.transpose(1, 2) if tall else x


class Muon(torch.optim.Muon):
    """`torch.optim.Muon`, its iteration run for all matrices of a shape at once, in `dtype()`.

    PyTorch's runs matrix by matrix and always in bf16, which a processor without bf16 arithmetic emulates: there it
    took 1.6 s of a 2.6 s training step of the quickstart, and in fp32 takes 0.1 s. Of matrices that are spread over
    the ranks, each rank orthogonalises the whole and updates its share.
    """

    def __init__(
        self,
        parameters: list[Tensor],
        lr: float,
        momentum: float,
        weight_decay: float,
        dtype: Callable[[], torch.dtype],
    ):
        super().__init__(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update: momentum (Nesterov's), orthogonalisation, decoupled decay, and the step scaled by shape."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in shapes.items():
                directions = torch.stack([whole(self._direction(p, group["momentum"])) for p in parameters])
                updates = orthogonalise(directions.to(self._dtype()), group["ns_coefficients"], group["ns_steps"])
                rate = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    local(parameter).add_(part_of(update, parameter), alpha=-rate)

    def _direction(self, parameter: Tensor, momentum: float) -> Tensor:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        return gradient.lerp(state["momentum_buffer"].lerp_(gradient, 1 - momentum), momentum)
