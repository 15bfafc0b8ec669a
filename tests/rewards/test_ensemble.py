"""Several reward models as one: by hand, as files, and in what the labelling page asks."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trivium.base.errors import ModelError
from trivium.cli.asking import member_scores
from trivium.model import Scorer
from trivium.preferences.comparisons import Comparison
from trivium.preferences.judgement import Sample
from trivium.preferences.rows import StoredSample
from trivium.rewards import RewardModel
from trivium.rewards.ensemble import aggregate_scores, average_weights, score_deviation
from trivium.rewards.model import Ensemble, member_folders
from trivium.tokenizer import Tokenizer

PROMPTS, RESPONSES, OWNERS = [[1, 7, 9], [1]], [[40, 2], [80, 90, 100, 2], [11], [250, 251, 2]], [0, 1, 1, 0]
SCORES = torch.tensor([[1.0, 4.0], [3.0, 4.0], [5.0, 1.0]])


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["def add(a, b):\n    return a + b\n"] * 4, vocab_size=280)


@pytest.fixture
def ensemble(make_scorer: Callable[..., Scorer], tokenizer: Tokenizer) -> RewardModel:
    members = [
        RewardModel(make_scorer(seed=seed, vocab_size=tokenizer.vocab_size), tokenizer, mean=0.5 * seed, std=1.0 + seed)
        for seed in (1, 2, 3)
    ]
    return RewardModel(members[0].scorer, tokenizer, 0.2, 1.7, {}, Ensemble(members, "mean_minus_sd", 0.7))


def test_aggregates_by_hand() -> None:
    deviation = torch.tensor([(8 / 3) ** 0.5, 2**0.5])
    torch.testing.assert_close(score_deviation(SCORES), deviation)
    torch.testing.assert_close(aggregate_scores(SCORES, "mean"), torch.tensor([3.0, 3.0]))
    torch.testing.assert_close(aggregate_scores(SCORES, "min"), torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(aggregate_scores(SCORES, "mean_minus_sd", 2.0), 3 - 2 * deviation)
    with pytest.raises(ValueError, match="expected one of mean, min, mean_minus_sd"):
        aggregate_scores(SCORES, "weight_average")


def test_members_that_agree_are_one_and_two_at_one_deviation_are_the_lower() -> None:
    same = SCORES[:1].expand(5, -1)
    for kind in ("mean", "min", "mean_minus_sd"):
        torch.testing.assert_close(aggregate_scores(same, kind, 3.0), SCORES[0])
        shuffled = aggregate_scores(SCORES[[2, 0, 1]], kind, 0.3)
        torch.testing.assert_close(aggregate_scores(SCORES, kind, 0.3), shuffled)
    torch.testing.assert_close(aggregate_scores(SCORES[:2], "mean_minus_sd"), aggregate_scores(SCORES[:2], "min"))


def test_the_mean_of_weights_is_taken_tensor_by_tensor(make_scorer: Callable[..., Scorer]) -> None:
    scorers = [make_scorer(seed=seed) for seed in (1, 2, 3)]
    scorers[0].compute_dtype = torch.bfloat16
    average = average_weights(scorers)
    assert average.compute_dtype is torch.bfloat16
    for name, tensor in average.state_dict().items():
        torch.testing.assert_close(tensor, sum(scorer.state_dict()[name] for scorer in scorers) / 3)
    once = average_weights(scorers[:1])
    assert all(torch.equal(tensor, scorers[0].state_dict()[name]) for name, tensor in once.state_dict().items())


def test_scores_are_the_members_each_from_its_own_mean(ensemble: RewardModel) -> None:
    assert ensemble.ensemble is not None
    each = torch.stack([m.raw_scores(PROMPTS, RESPONSES, OWNERS) - m.mean for m in ensemble.ensemble.members])
    assert torch.equal(ensemble.member_scores(PROMPTS, RESPONSES, OWNERS), each)
    raw = each.mean(0) - 0.7 * each.std(0, unbiased=False)
    torch.testing.assert_close(ensemble.raw_scores(PROMPTS, RESPONSES, OWNERS), raw)
    torch.testing.assert_close(ensemble.rewards(PROMPTS, RESPONSES, OWNERS), (raw - 0.2) / 1.7)
    ensemble.ensemble.members[1].mean += 5.0
    torch.testing.assert_close(ensemble.member_scores(PROMPTS, RESPONSES, OWNERS)[1], each[1] - 5.0)


def test_a_saved_ensemble_is_the_same_ensemble(tmp_path: Path, ensemble: RewardModel) -> None:
    ensemble.save(tmp_path / "R")
    again = RewardModel.load(tmp_path / "R")
    assert again.ensemble is not None and again.scorer is again.ensemble.members[0].scorer
    assert [member.mean for member in again.ensemble.members] == [0.5, 1.0, 1.5]
    assert torch.equal(again.rewards(PROMPTS, RESPONSES, OWNERS), ensemble.rewards(PROMPTS, RESPONSES, OWNERS))
    alone = RewardModel.load(tmp_path / "R/members/2")
    assert ensemble.ensemble is not None and alone.ensemble is None
    second = ensemble.ensemble.members[1]
    assert torch.equal(alone.rewards(PROMPTS, RESPONSES, OWNERS), second.rewards(PROMPTS, RESPONSES, OWNERS))


def test_fewer_members_leave_none_of_the_old_ones(tmp_path: Path, ensemble: RewardModel) -> None:
    ensemble.save(tmp_path / "R")
    assert ensemble.ensemble is not None
    ensemble.ensemble.members.pop()
    ensemble.save(tmp_path / "R")
    assert sorted(path.name for path in (tmp_path / "R/members").iterdir()) == ["1", "2"]
    ensemble.ensemble.members[0].save(tmp_path / "R")
    assert not (tmp_path / "R/members").exists() and member_folders(tmp_path / "R") == [tmp_path / "R"]


def test_members_compute_as_the_scorer_that_was_placed_does(ensemble: RewardModel) -> None:
    exact = ensemble.raw_scores(PROMPTS, RESPONSES, OWNERS)
    ensemble.scorer.compute_dtype = torch.bfloat16
    assert (ensemble.raw_scores(PROMPTS, RESPONSES, OWNERS) - exact).abs().max() > 0
    assert ensemble.ensemble is not None
    assert {member.scorer.compute_dtype for member in ensemble.ensemble.members} == {torch.bfloat16}


def test_the_labelling_page_asks_by_what_members_think(tmp_path: Path, ensemble: RewardModel) -> None:
    ensemble.save(tmp_path / "R")
    answers = [StoredSample(text, "p", Sample(text=text)) for text in ("return a", "return a + b")]
    comparison = Comparison("c", "p", "def add(a, b):", "", tuple(answers), None)
    found = [model([comparison])[0] for model in member_scores(tmp_path / "R")]
    assert len(found) == 3 and len({tuple(scores) for scores in found}) == 3
    assert len(member_scores(tmp_path / "R/members/2")) == 1


@pytest.mark.parametrize(
    "spoilt", [None, [], {}, {"members": 0}, {"members": "3"}, {"aggregate": "vote"}, {"sd_coef": "1"}]
)
def test_figures_that_describe_no_ensemble_are_refused(tmp_path: Path, ensemble: RewardModel, spoilt: object) -> None:
    ensemble.save(tmp_path / "R")
    path = tmp_path / "R/rm.json"
    figures = json.loads(path.read_text())
    told = figures["ensemble"] | spoilt if isinstance(spoilt, dict) and spoilt else spoilt
    path.write_text(json.dumps(figures | {"ensemble": told}))
    with pytest.raises(ModelError, match="`ensemble` does not say how many members there are") as caught:
        RewardModel.load(tmp_path / "R")
    assert "\n" not in str(caught.value)
