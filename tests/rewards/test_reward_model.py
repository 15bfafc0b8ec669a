import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trivium.base.errors import ModelError
from trivium.model import Decoder, Scorer
from trivium.rewards import RewardModel
from trivium.tokenizer import Tokenizer

PROMPTS = [[1, 7, 9], [1]]
RESPONSES = [[40, 2], [80, 90, 100, 2], [11], [250, 251, 2]]
OWNERS = [0, 1, 1, 0]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["def add(a, b):\n    return a + b\n"] * 4, vocab_size=280)


@pytest.fixture
def reward_model(make_scorer: Callable[..., Scorer], tokenizer: Tokenizer) -> RewardModel:
    return RewardModel(make_scorer(vocab_size=tokenizer.vocab_size), tokenizer, 0.3, 2.5, {"accuracy": 0.75})


def test_scores_are_read_at_the_last_token_and_normalised(reward_model: RewardModel) -> None:
    scorer = reward_model.scorer
    raw = reward_model.raw_scores(PROMPTS, RESPONSES, OWNERS)
    assert raw.dtype == torch.float32
    for score, response, owner in zip(raw, RESPONSES, OWNERS, strict=True):
        with torch.no_grad():
            alone = scorer.scores(scorer.hidden(torch.tensor([PROMPTS[owner] + response])))[0, -1]
        torch.testing.assert_close(score, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(reward_model.rewards(PROMPTS, RESPONSES, OWNERS), (raw - 0.3) / 2.5)


def test_a_fresh_head_has_the_variance_of_its_formula(make_decoder: Callable[..., Decoder]) -> None:
    """w ~ N(0, 1/(d + 1)); drawn by the generator alone."""
    body, draws = make_decoder(), []
    for seed in range(300):
        draws.append(Scorer.from_decoder(body, torch.Generator().manual_seed(seed)).score.weight.detach())
    weights = torch.cat(draws)
    assert weights.square().mean().item() == pytest.approx(1 / 33, rel=0.06)  # 9,600 draws: a deviation of 1.4%
    assert abs(weights.mean().item()) < 4 * (1 / 33 / 9600) ** 0.5
    again = Scorer.from_decoder(body, torch.Generator().manual_seed(0)).score.weight
    assert torch.equal(again, draws[0]) and not torch.equal(draws[0], draws[1])


def test_frozen_normalisation_gives_mean_0_and_deviation_1(reward_model: RewardModel) -> None:
    raw = reward_model.raw_scores(PROMPTS, RESPONSES, OWNERS)
    reward_model.freeze_normalisation(raw)
    rewards = reward_model.rewards(PROMPTS, RESPONSES, OWNERS)
    assert rewards.mean().item() == pytest.approx(0, abs=1e-6)
    assert rewards.std(unbiased=False).item() == pytest.approx(1, abs=1e-5)
    reward_model.freeze_normalisation(torch.full((5,), 3.0))  # no spread: no division by zero
    assert reward_model.rewards(PROMPTS, RESPONSES, OWNERS).isfinite().all()


def test_a_saved_model_is_the_same_model(tmp_path: Path, reward_model: RewardModel) -> None:
    reward_model.save(tmp_path / "R")
    again = RewardModel.load(tmp_path / "R")
    assert (again.mean, again.std, again.figures) == (0.3, 2.5, {"accuracy": 0.75})
    assert again.tokenizer.fingerprint == reward_model.tokenizer.fingerprint
    expected = reward_model.rewards(PROMPTS, RESPONSES, OWNERS)
    assert torch.equal(again.rewards(PROMPTS, RESPONSES, OWNERS), expected)
    assert json.loads((tmp_path / "R/rm.json").read_text()) == {"mean": 0.3, "std": 2.5, "accuracy": 0.75}


def test_scores_are_those_of_transformers_classifier(tmp_path: Path, reward_model: RewardModel) -> None:
    transformers = pytest.importorskip("transformers", reason="parity needs the `hf` extra")
    reward_model.save(tmp_path / "R")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "R", dtype=torch.float32)
    rows = [PROMPTS[owner] + response for response, owner in zip(RESPONSES, OWNERS, strict=True)]
    width = max(map(len, rows))
    pad = reward_model.tokenizer.pad_id
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    with torch.no_grad():
        logits = theirs(ids, attention_mask=(ids != pad).long()).logits
    assert logits.shape == (4, 1)
    raw = reward_model.raw_scores(PROMPTS, RESPONSES, OWNERS)
    torch.testing.assert_close(logits[:, 0], raw, atol=1e-4, rtol=0)


@pytest.mark.parametrize("content", [None, "", "{}", '{"mean": 0.1}', '{"mean": "much", "std": 1}', "[1]"])
def test_a_folder_that_is_no_reward_model_is_refused_in_one_line(
    tmp_path: Path, reward_model: RewardModel, content: str | None
) -> None:
    reward_model.save(tmp_path / "R")
    path = tmp_path / "R/rm.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(ModelError, match="rm.json (cannot be read|holds no mean and std)") as caught:
        RewardModel.load(tmp_path / "R")
    assert "\n" not in str(caught.value)
