"""Next-token losses of a module over a batch, in micro-batches."""

from collections.abc import Iterator

import torch

from trivium.base.ranks import rank, world
from trivium.batch import Batch, LossOutput
from trivium.model import Decoder
from trivium.objectives.lm import linear_nll_sum, predicted


def next_token_loss(model: Decoder, batch: Batch) -> LossOutput:
    """`lm_loss` of a model over a batch: nothing is computed for tokens without loss that can be left out."""
    places, targets = predicted(batch.ids, batch.loss_mask)
    hidden = model.hidden_at(places, batch.ids, batch.positions)
    return linear_nll_sum(hidden, model.head_weight.to(hidden.dtype), targets)


def own_rows(batch: Batch) -> Batch:
    """This rank's rows of a batch; where they do not come out even, an inert one fills up, for ranks go in step."""
    if world() == 1:
        return batch
    count = len(batch.ids)
    mine = torch.arange(rank(), count, world())
    if len(mine) < -(-count // world()):
        mine = torch.cat([mine, torch.tensor([0])])
        mask = batch.loss_mask[mine].clone()
        mask[-1] = False
        return Batch(batch.ids[mine], mask, batch.positions[mine])
    return Batch(batch.ids[mine], batch.loss_mask[mine], batch.positions[mine])


def micro_losses(model: Decoder, batch: Batch, rows: int) -> Iterator[LossOutput]:
    """The loss of this rank's share of a batch, `rows` rows at a time; sums and counts add up to those of the whole."""
    batch = own_rows(batch)
    for start in range(0, len(batch.ids), rows):
        part = slice(start, start + rows)
        micro = Batch(batch.ids[part], batch.loss_mask[part], batch.positions[part]).to(model.device)
        loss = next_token_loss(model, micro)
        yield LossOutput(loss.loss_sum, loss.count)
