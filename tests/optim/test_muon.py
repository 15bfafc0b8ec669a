import pytest
import torch
from torch import Tensor

from trivium.optim.muon import Muon, orthogonalise


def one_by_one(matrix: Tensor, steps: int) -> Tensor:
    """The iteration on one matrix through its singular values: each step maps s to a s + b s^3 + c s^5."""
    a, b, c = 3.4445, -4.7750, 2.0315
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = values / values.norm()
    for _ in range(steps):
        values = a * values + b * values**3 + c * values**5
    return left @ values.diag() @ right


@pytest.mark.parametrize("shape", [(3, 4, 7), (3, 7, 4), (2, 5, 5)])
def test_the_iteration_acts_on_singular_values_alone(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for steps in (0, 1, 5):
        ours = orthogonalise(matrices, steps=steps)
        expected = torch.stack([one_by_one(matrix, steps) for matrix in matrices])
        torch.testing.assert_close(ours, expected, atol=1e-10, rtol=0)
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert values.min() > 0.6 and values.max() < 1.3
    assert orthogonalise(torch.zeros(1, 3, 2)).eq(0).all()


def test_a_matrix_moves_alike_alone_and_among_others_of_its_shape() -> None:
    draw = torch.Generator().manual_seed(0)
    shapes = [(4, 6), (6, 4), (4, 6), (5, 5)]
    start, gradients = ([torch.randn(shape, generator=draw) for shape in shapes] for _ in range(2))

    def after_two_steps(indices: list[int]) -> dict[int, Tensor]:
        parameters = {i: torch.nn.Parameter(start[i].clone()) for i in indices}
        muon = Muon(list(parameters.values()), lr=0.1, momentum=0.9, weight_decay=0.1, dtype=lambda: torch.float32)
        for scale in (1.0, -0.5):
            for i, parameter in parameters.items():
                parameter.grad = gradients[i] * scale
            muon.step()
        return {i: parameter.detach() for i, parameter in parameters.items()}

    together = after_two_steps([0, 1, 2, 3])
    for i in range(4):
        torch.testing.assert_close(after_two_steps([i])[i], together[i], atol=1e-6, rtol=1e-5)


def test_the_update_by_hand_for_a_diagonal_matrix() -> None:
    parameter = torch.nn.Parameter(torch.eye(2, dtype=torch.float64))
    parameter.grad = torch.diag(torch.tensor([3.0, 4.0], dtype=torch.float64))
    Muon([parameter], lr=0.1, momentum=0.5, weight_decay=0.2, dtype=lambda: torch.float64).step()
    # Momentum from zero: 0.5 g; Nesterov: 0.75 g; of norm 1: (0.6, 0.8); then five steps of the quintic.
    values = [0.6, 0.8]
    for _ in range(5):
        values = [3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5 for s in values]
    expected = torch.diag(torch.tensor([1 - 0.1 * 0.2 - 0.1 * s for s in values], dtype=torch.float64))
    torch.testing.assert_close(parameter.detach(), expected, atol=1e-12, rtol=0)
