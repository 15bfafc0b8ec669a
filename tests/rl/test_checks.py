"""Each self-check lets a sound rollout pass and stops at the breach it is there for."""

from collections.abc import Callable

import pytest
import torch
from worlds import EOS, SHAPE, World, make_learner

from trivium.base.errors import StageFailed
from trivium.model import Decoder, Scorer
from trivium.rl.checks import check_first_update, check_reference, check_responses, check_whitening, weights_print
from trivium.rl.rollout import Rollout

VOCAB = SHAPE["vocab_size"]


@pytest.fixture
def rollout(make_decoder: Callable[..., Decoder], make_scorer: Callable[..., Scorer]) -> Rollout:
    policy = make_decoder(**SHAPE)
    drawn = World().sample(policy, 8)
    make_learner(policy, make_decoder(seed=1, **SHAPE), make_scorer(**SHAPE)).prepare(drawn)
    return drawn


def test_a_sound_rollout_passes(rollout: Rollout) -> None:
    check_responses(rollout, EOS, VOCAB)
    check_whitening(rollout, 1.0)


def test_a_response_whose_end_is_recorded_wrongly_is_found(rollout: Rollout) -> None:
    rollout.finished[3] = ~rollout.finished[3]
    with pytest.raises(StageFailed, match="response 3 is recorded as"):
        check_responses(rollout, EOS, VOCAB)


def test_tokens_after_the_end_are_found(rollout: Rollout) -> None:
    ended = next(index for index, response in enumerate(rollout.responses) if response[-1] == EOS)
    rollout.responses[ended] = [EOS, *rollout.responses[ended]]
    with pytest.raises(StageFailed, match=f"response {ended} is recorded as finished"):
        check_responses(rollout, EOS, VOCAB)


def test_an_id_that_the_model_does_not_have_is_found(rollout: Rollout) -> None:
    rollout.responses[0][0] = VOCAB
    with pytest.raises(StageFailed, match="response 0 is empty or holds an id outside"):
        check_responses(rollout, EOS, VOCAB)


def test_a_mask_that_is_not_the_lengths_is_found(rollout: Rollout, monkeypatch: pytest.MonkeyPatch) -> None:
    short = rollout.loss_mask.clone()
    short[0, 0] = False
    monkeypatch.setattr(Rollout, "loss_mask", short)
    with pytest.raises(StageFailed, match="the loss mask covers"):
        check_responses(rollout, EOS, VOCAB)


def test_a_reward_that_is_no_number_counts_only_as_invalid(rollout: Rollout) -> None:
    rollout.scores[2], rollout.valid[2] = float("nan"), False
    check_responses(rollout, EOS, VOCAB)
    rollout.valid[2] = True
    with pytest.raises(StageFailed, match="the reward of response 2 is nan"):
        check_responses(rollout, EOS, VOCAB)


@pytest.mark.parametrize("change", [lambda a: a * 1.1, lambda a: a + 0.1])
def test_advantages_that_are_not_white_are_found(rollout: Rollout, change: Callable[..., torch.Tensor]) -> None:
    rollout.advantages = change(rollout.advantages)
    with pytest.raises(StageFailed, match="whitened advantages have mean"):
        check_whitening(rollout, 1.0)


def test_a_sampler_or_ratio_that_is_off_is_found() -> None:
    good = {"ratio/first_deviation": 0.0, "sampler/gap_mean": 5e-4}
    check_first_update(good, full_precision=True)
    for key in good:
        with pytest.raises(StageFailed, match="on the first minibatch"):
            check_first_update(good | {key: 0.01}, full_precision=True)
        check_first_update(good | {key: 0.01}, full_precision=False)
        with pytest.raises(StageFailed, match="on the first minibatch"):
            check_first_update(good | {key: 0.2}, full_precision=False)


def test_a_reference_that_moves_is_found(make_decoder: Callable[..., Decoder]) -> None:
    reference = make_decoder(**SHAPE)
    before = weights_print(reference)
    check_reference(reference, before)
    with torch.no_grad():
        next(reference.parameters())[0, 0] += 1e-6
    with pytest.raises(StageFailed, match="weights have changed"):
        check_reference(reference, before)
