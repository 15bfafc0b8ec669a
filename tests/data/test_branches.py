"""A prompt with its responses in one row gives what separate rows give."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trivium.data.branches import ResponseBatch, length_mask, response_batches
from trivium.model import Scorer
from trivium.objectives.lm import linear_cross_entropy

PROMPTS = [[1, 7, 9], [1], [1, 3, 3, 3, 5]]
RESPONSES = [[4, 2], [8, 9, 10, 2], [11], [5, 6, 7, 8, 9], [2], [12, 2], [4, 2]]
OWNERS = [0, 2, 0, 2, 1, 1, 2]


def test_a_row_by_hand() -> None:
    (batch,) = response_batches([[1, 7, 9]], [[4, 2], [8]], [0, 0])
    assert batch.ids.tolist() == [[1, 7, 9, 4, 2, 8]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4, 3]]
    assert batch.branches.tolist() == [[0, 0, 0, 1, 1, 2]]
    assert batch.predictors.tolist() == [2, 3, 2] and batch.tokens.tolist() == [3, 4, 5]
    assert batch.targets.tolist() == [4, 2, 8] and batch.last.tolist() == [4, 5]
    assert batch.spread(torch.tensor([1.0, 2.0, 3.0]), 3).tolist() == [[1, 2, 0], [3, 0, 0]]
    assert length_mask(batch.lengths).tolist() == [[True, True], [True, False]]


def forward(model: Scorer, batches: list[ResponseBatch]) -> list[Tensor]:
    """Log-probs, values and last score of each response, in the caller's order."""
    found = [torch.empty(0)] * len(RESPONSES)
    for batch in batches:
        hidden = model.hidden(batch.ids, batch.positions, branches=batch.branches).flatten(0, 1)
        logprobs = -linear_cross_entropy(hidden[batch.predictors], model.head_weight, batch.targets)
        values, scores = model.scores(hidden[batch.predictors]), model.scores(hidden[batch.last])
        parts = zip(
            logprobs.split(batch.lengths.tolist()), values.split(batch.lengths.tolist()), scores.split(1), strict=True
        )
        for response, part in zip(batch.responses.tolist(), parts, strict=True):
            found[response] = torch.cat(part)
    return found


def gradients(model: Scorer, found: list[Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    weights = torch.randn(sum(map(len, found)), generator=torch.Generator().manual_seed(3))
    (torch.cat(found) * weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", ["qwen3", "qwen2", "llama"])
def test_rlhf_02_shared_prompts_change_nothing(make_scorer: Callable[..., Scorer], family: str) -> None:
    model = make_scorer(family=family)
    apart = []
    for response, owner in zip(RESPONSES, OWNERS, strict=True):
        ids = torch.tensor([PROMPTS[owner] + response])
        hidden = model.hidden(ids)[0]  # no positions, no branches: a plain causal row
        before = hidden[len(PROMPTS[owner]) - 1 : -1]
        logprobs = -linear_cross_entropy(before, model.head_weight, torch.tensor(response))
        apart.append(torch.cat((logprobs, model.scores(before), model.scores(hidden[-1:]))))
    slopes = gradients(model, apart)
    for max_tokens in (1, 40, 8192):
        found = forward(model, list(response_batches(PROMPTS, RESPONSES, OWNERS, max_tokens)))
        for expected, actual in zip(apart, found, strict=True):
            torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
        for name, slope in gradients(model, found).items():
            torch.testing.assert_close(slope, slopes[name], atol=1e-5 * slopes[name].abs().max().item(), rtol=0)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_batches_hold_every_response_once_and_keep_to_their_size(data: st.DataObject) -> None:
    token_lists = st.lists(st.integers(1, 9), min_size=1, max_size=6)
    prompts = data.draw(st.lists(token_lists, min_size=1, max_size=5))
    responses = data.draw(st.lists(token_lists, min_size=1, max_size=10))
    owners = [data.draw(st.integers(0, len(prompts) - 1)) for _ in responses]
    max_tokens = data.draw(st.integers(1, 60))
    seen: list[int] = []
    for batch in response_batches(prompts, responses, owners, max_tokens):
        rows, width = batch.ids.shape
        assert rows == 1 or rows * width <= max_tokens
        pieces = zip(
            batch.responses.tolist(),
            batch.targets.split(batch.lengths.tolist()),
            (batch.positions.flatten()[batch.tokens]).split(batch.lengths.tolist()),
            batch.predictors.split(batch.lengths.tolist()),
            strict=True,
        )
        for response, tokens, positions, predictors in pieces:
            start = len(prompts[owners[response]])
            assert tokens.tolist() == responses[response]
            assert positions.tolist() == list(range(start, start + len(tokens)))
            assert batch.positions.flatten()[predictors].tolist() == [place - 1 for place in positions.tolist()]
            seen.append(response)
    assert sorted(seen) == list(range(len(responses)))
