from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from worlds import EOS, SHAPE, World

from trivium.data.branches import ResponseBatch
from trivium.model import Decoder, Scorer, save_model
from trivium.rl.rollout import over_rollout, response_logprobs, response_values, sample_rollout

CPU = torch.device("cpu")


@pytest.mark.parametrize("temperature", [1.0, 0.8])
def test_rlhf_01_log_probs_are_those_of_transformers(
    make_decoder: Callable[..., Decoder], make_scorer: Callable[..., Scorer], tmp_path: Path, temperature: float
) -> None:
    """Each action's, the end token's included; and the values are read one place before."""
    transformers = pytest.importorskip("transformers", reason="parity needs the `hf` extra")
    model, critic = make_decoder(), make_scorer(seed=1)
    save_model(model, tmp_path, pad_id=0, bos_id=1, eos_id=2)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    prompts = [[1, 7, 9], [1, 30], [1, 5, 5, 5, 5]]
    rollout = sample_rollout(
        model, prompts, ["a", "b", "c"], samples_per_prompt=6, seed=2, step=0, max_new_tokens=40, eos_id=2,
        temperature=temperature,
    )  # fmt: skip
    assert rollout.finished.any() and not rollout.finished.all()
    logprobs = over_rollout(rollout, lambda batch: response_logprobs(model, batch, temperature), CPU, 300)
    values = over_rollout(rollout, lambda batch: response_values(critic, batch), CPU, 300)
    for row, response in enumerate(rollout.responses):
        prompt = prompts[rollout.prompt_of[row]]
        ids = torch.tensor([prompt + response])
        assert rollout.finished[row] == (response[-1] == 2)
        with torch.no_grad():
            expected = (theirs(ids).logits[0, len(prompt) - 1 : -1] / temperature).log_softmax(-1)
            states = critic.scores(critic.hidden(ids))[0, len(prompt) - 1 : -1]
        picked = expected.gather(1, torch.tensor(response)[:, None])[:, 0]
        length = len(response)
        torch.testing.assert_close(logprobs[row, :length], picked, atol=1e-4, rtol=0)
        torch.testing.assert_close(rollout.sampler_logprobs[row, :length], picked, atol=1e-4, rtol=0)
        torch.testing.assert_close(values[row, :length], states, atol=1e-5, rtol=0)
        assert logprobs[row, length:].count_nonzero() == values[row, length:].count_nonzero() == 0


def test_draws_are_a_function_of_seed_step_prompt_and_sample(make_decoder: Callable[..., Decoder]) -> None:
    model = make_decoder()

    def draw(names: list[str], **options: int) -> dict[tuple[str, int], list[int]]:
        settings = {"samples_per_prompt": 3, "seed": 0, "step": 4, "batch_size": 64} | options
        rollout = sample_rollout(model, [[1, 9]] * len(names), names, max_new_tokens=12, eos_id=2, **settings)  # type: ignore[arg-type]
        count = settings["samples_per_prompt"]
        return {(names[k // count], k % count): ids for k, ids in enumerate(rollout.responses)}

    base = draw(["x", "y", "z"])
    assert draw(["z", "x", "y"], batch_size=2) == base
    assert draw(["y"], samples_per_prompt=2).items() <= base.items()
    assert draw(["x", "y", "z"], step=5) != base != draw(["x", "y", "z"], seed=1)


def test_masks_come_from_lengths_and_validity(make_decoder: Callable[..., Decoder]) -> None:
    rollout = World().sample(make_decoder(**SHAPE), 8)
    lengths = rollout.lengths.tolist()
    assert rollout.loss_mask.sum(1).tolist() == lengths and min(lengths) < max(lengths) == 3
    assert [response[-1] == EOS for response in rollout.responses] == rollout.finished.tolist()
    rollout.valid[3] = False
    assert rollout.loss_mask.sum(1).tolist() == [*lengths[:3], 0, *lengths[4:]]


def test_batches_of_chosen_rows_name_them(make_decoder: Callable[..., Decoder]) -> None:
    rollout = World().sample(make_decoder(**SHAPE), 8)
    seen: dict[int, list[int]] = {}

    def note(batch: ResponseBatch) -> None:
        pieces = batch.targets.split(batch.lengths.tolist())
        seen.update(zip(batch.responses.tolist(), (piece.tolist() for piece in pieces), strict=True))

    for batch in rollout.batches([2, 3, 9, 15], max_tokens=8):
        note(batch)
    assert seen == {row: rollout.responses[row] for row in (2, 3, 9, 15)}
