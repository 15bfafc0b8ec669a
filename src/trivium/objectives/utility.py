"""U = alpha * L_SFT + beta * L_R + gamma * Omega: the one number that the whole pipeline lowers."""

import math
from typing import TypeVar

import torch
from torch import Tensor

from trivium.objectives.tokens import Aggregate

Number = TypeVar("Number", float, Tensor)


def utility(sft: Number, reward: Number, omega: Number, alpha: float, beta: float, gamma: float) -> Number:
    """The weighted sum alpha * sft + beta * reward + gamma * omega; lower is better.

    Args:
        sft: L_SFT, mean NLL per supervised token in nats.
        reward: L_R = -E[normalised reward of a response].
        omega: E[KL(M || M1)] summed over the response, in nats.
        alpha, beta, gamma: the configured weights.
    Returns:
        A float for floats, a tensor for tensors.
    """
    return alpha * sft + beta * reward + gamma * omega


def utility_log(
    terms: dict[str, tuple[float, float]], *, alpha: float, beta: float, gamma: float, n: int
) -> dict[str, float]:
    """The `utility/*` entries of an evaluation; the total is computed from the very numbers that are logged.

    Args:
        terms: (value, standard error) under each of "sft", "reward" and "omega".
        alpha, beta, gamma: the configured weights.
        n: sampled responses behind `reward` and `omega`.
    Returns:
        utility/{sft,reward,omega}, the same with _se, utility/{total,total_se,alpha,beta,gamma,n}. `total_se` takes the
        L_SFT term as independent of the other two, and these as fully correlated: an upper bound.
    """
    weights = {"sft": alpha, "reward": beta, "omega": gamma}
    row = {f"utility/{name}": float(terms[name][0]) for name in weights}
    row |= {f"utility/{name}_se": float(terms[name][1]) for name in weights}
    row["utility/total"] = utility(row["utility/sft"], row["utility/reward"], row["utility/omega"], alpha, beta, gamma)
    sampled = abs(beta) * row["utility/reward_se"] + abs(gamma) * row["utility/omega_se"]
    row["utility/total_se"] = math.hypot(alpha * row["utility/sft_se"], sampled)
    return row | {"utility/alpha": alpha, "utility/beta": beta, "utility/gamma": gamma, "utility/n": n}


def mean_and_se(values: Tensor, clusters: Tensor) -> tuple[float, float]:
    """Mean of values (n,) and its standard error, where values of one cluster are alike.

    Args:
        values: (n,) such as the rewards of responses.
        clusters: (n,) integers, such as the prompt of each response. Where all differ, the error is the plain one.
    Returns:
        The mean and its error, as of `ratio_and_se`.
    """
    _, rows = clusters.unique(return_inverse=True)
    values = values.double()
    sums = values.new_zeros(int(rows.max()) + 1 if len(rows) else 0).index_add(0, rows, values)
    return ratio_and_se(sums, torch.bincount(rows))


def ratio_and_se(sums: Tensor, counts: Tensor) -> tuple[float, float]:
    """sum(sums) / sum(counts) with its standard error over clusters, e.g. NLL per token over documents.

    Tokens of one document are not independent, documents are: the error is the ratio estimator's (Cochran, "Sampling
    Techniques", chapter 6).

    Args:
        sums: (n,) one total per cluster.
        counts: (n,) terms per cluster.
    Returns:
        The ratio and its standard error (NaN for one cluster).
    """
    sums, counts = sums.double(), counts.double()
    n, ratio = sums.numel(), (sums.sum() / counts.sum()).item()
    if n < 2:
        return ratio, math.nan
    residual = sums - ratio * counts
    return ratio, (residual.square().sum() * n / (n - 1)).sqrt().item() / counts.sum().item()


def effective_weight(
    weight: float,
    *,
    sigma: float = 1.0,
    aggregate: Aggregate = "seq_sum",
    n: int = 1,
    l_max: int = 1,
    token_count: int = 1,
) -> float:
    """What a weight of U becomes in an update whose policy term has been rescaled.

    Whitening divides the policy term, and with it beta and gamma, by sigma; `const` divides it by l_max, `token` by the
    mean length token_count / n. alpha must be divided by the same, so that U keeps its proportions. No constant makes
    `seq_mean` proportional to the gradient of U; the mean length matches its scale.

    Args:
        weight: as in U.
        sigma: standard deviation by which advantages were divided; 1 without whitening. 0 means they were all zero and
            nothing was divided: the policy term is absent and no weight is rescaled for it.
        aggregate: as in `aggregate_loss`.
        n: sequences in the batch over which the policy term is averaged.
        l_max: the cap on response length.
        token_count: real tokens in the same batch.
    Returns:
        The multiplier of the gradient of the weight's term; for alpha, of mean L_SFT.
    Raises:
        ValueError: sigma is negative, or a count that is needed is not positive.
    """
    if sigma < 0 or min(n, l_max, token_count) < 1:
        raise ValueError(f"sigma {sigma}, n {n}, l_max {l_max}, token_count {token_count}: expected >= 0 and >= 1.")
    scale = weight / sigma if sigma > 0 else weight
    if aggregate == "const":
        return scale / l_max
    if aggregate in ("token", "seq_mean"):
        return scale * n / token_count
    return scale
