"""Prompts with several responses as one row each: the prompt is computed once, its responses are branches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ResponseBatch:
    """Rows of a prompt followed by its responses, and where each response's tokens lie in the flattened rows.

    M is the number of response tokens of all N responses together, in order of response and time.
    """

    ids: Tensor
    """(B, T) int64."""
    positions: Tensor
    """(B, T): a response's positions go on from its prompt's; pads have -1."""
    branches: Tensor
    """(B, T): 0 on the prompt, k on its k-th response."""
    responses: Tensor
    """(N,) which of the caller's responses these are."""
    lengths: Tensor
    """(N,) tokens of each, the end token included."""
    predictors: Tensor
    """(M,) flat index of the hidden state that predicts each response token."""
    tokens: Tensor
    """(M,) flat index of each response token itself."""

    @property
    def targets(self) -> Tensor:
        """(M,) the response tokens' ids."""
        return self.ids.flatten()[self.tokens]

    @property
    def last(self) -> Tensor:
        """(N,) flat index of each response's last token."""
        return self.tokens[self.lengths.cumsum(0) - 1]

    def spread(self, flat: Tensor, width: int | None = None) -> Tensor:
        """Response-aligned (N, L) from one value a response token (M,); zeros beyond each response's end."""
        mask = length_mask(self.lengths, width)
        out = torch.zeros(mask.shape, dtype=flat.dtype, device=flat.device)
        return out.masked_scatter(mask.to(flat.device), flat)

    def to(self, device: torch.device | str) -> "ResponseBatch":
        """The same batch on another device."""
        return ResponseBatch(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def length_mask(lengths: Tensor, width: int | None = None) -> Tensor:
    """(N, L) bool, True at the first `lengths` places of each row; L is the longest, or `width`."""
    width = int(lengths.max()) if width is None else width
    return torch.arange(width, device=lengths.device)[None] < lengths[:, None]


def response_batches(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    prompt_of: Sequence[int],
    max_tokens: int = 4096,
) -> Iterator[ResponseBatch]:
    """Group responses by prompt, sort the rows by size, and cut them into batches of at most `max_tokens`.

    Args:
        prompts: token ids of each distinct prompt, not empty.
        responses: token ids of each response, not empty.
        prompt_of: index of each response's prompt.
        max_tokens: rows times width of a batch, at least one row.
    """
    members: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompt_of):
        members.setdefault(prompt, []).append(index)
    size = {prompt: len(prompts[prompt]) + sum(len(responses[i]) for i in group) for prompt, group in members.items()}
    rows: list[int] = []
    for prompt in sorted(members, key=lambda prompt: (size[prompt], prompt)):
        if rows and (len(rows) + 1) * size[prompt] > max_tokens:
            yield _batch(rows, members, prompts, responses, size)
            rows = []
        rows.append(prompt)
    if rows:
        yield _batch(rows, members, prompts, responses, size)


def _batch(
    rows: list[int],
    members: dict[int, list[int]],
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    size: dict[int, int],
) -> ResponseBatch:
    width = max(size[prompt] for prompt in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    positions = torch.full((len(rows), width), -1)
    branches = torch.zeros(len(rows), width, dtype=torch.long)
    order, lengths, predictors, tokens = [], [], [], []
    for row, prompt in enumerate(rows):
        trunk = len(prompts[prompt])
        ids[row, :trunk] = torch.as_tensor(prompts[prompt])
        positions[row, :trunk] = torch.arange(trunk)
        start = trunk
        for branch, index in enumerate(members[prompt], start=1):
            length = len(responses[index])
            span = slice(start, start + length)
            ids[row, span] = torch.as_tensor(responses[index])
            positions[row, span] = torch.arange(trunk, trunk + length)
            branches[row, span] = branch
            at = row * width + torch.arange(start, start + length)
            tokens.append(at)
            predictors.append(torch.cat((torch.tensor([row * width + trunk - 1]), at[:-1])))
            order.append(index)
            lengths.append(length)
            start += length
    return ResponseBatch(
        ids, positions, branches, torch.tensor(order), torch.tensor(lengths), torch.cat(predictors), torch.cat(tokens)
    )
