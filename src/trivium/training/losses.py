"""Next-token losses of a module over a batch, in micro-batches."""

from collections.abc import Iterator

from trivium.batch import Batch, LossOutput
from trivium.model import Decoder
from trivium.objectives.lm import linear_lm_loss


def micro_losses(model: Decoder, batch: Batch, rows: int) -> Iterator[LossOutput]:
    """The loss of a batch, `rows` rows at a time; sums and counts add up to those of the whole."""
    for start in range(0, len(batch.ids), rows):
        part = slice(start, start + rows)
        micro = Batch(batch.ids[part], batch.loss_mask[part], batch.positions[part]).to(model.device)
        hidden = model.hidden(micro.ids, micro.positions)
        loss = linear_lm_loss(hidden, model.head_weight.to(hidden.dtype), micro.ids, micro.loss_mask)
        yield LossOutput(loss.loss_sum, loss.count)
