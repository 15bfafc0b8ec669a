"""`trivium prefs label --next`: what the command asks first, by reward models and tasks that lie on disk."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from trivium.base.errors import DataError
from trivium.cli import main
from trivium.cli.asking import ask_first, read_question, reward_scores
from trivium.model import Scorer
from trivium.preferences.acquisition import disagreement, uncertainty
from trivium.preferences.audit import read_settings
from trivium.preferences.comparisons import Comparison, fill, load_comparison
from trivium.preferences.desk import LabellingDesk
from trivium.preferences.judgement import Sample, prompt_text
from trivium.preferences.people import add_person
from trivium.preferences.store import PreferenceStore
from trivium.preferences.votes import Vote
from trivium.rewards import RewardModel
from trivium.stages.judging import encode_answer, encode_prompt
from trivium.tokenizer import Tokenizer

SOURCE = "def add(a, b):\n    return a + b\n"


@pytest.fixture
def folders(tmp_path: Path, make_scorer: Callable[..., Scorer]) -> list[Path]:
    """Two reward models that differ, on disk."""
    tokenizer = Tokenizer.train([SOURCE] * 4, vocab_size=280)
    for seed in (1, 2):
        scorer = make_scorer(seed=seed, vocab_size=tokenizer.vocab_size)
        RewardModel(scorer, tokenizer, 0.0, 1.0).save(tmp_path / f"R{seed}")
    return [tmp_path / "R1", tmp_path / "R2"]


@pytest.fixture
def store() -> Iterator[PreferenceStore]:
    """Twelve pairs, of four tasks each of three families."""
    with PreferenceStore(":memory:") as opened:
        add_person(opened, "ada", "owner")
        for at in range(12):
            name = opened.add_prompt(f"def f{at}(x):\n", f"task-{at}")
            opened.add_samples((name, Sample(text=f"    return x{'+' * side}{at}\n", sample=side)) for side in (1, 2))
        fill(opened)
        yield opened


TASKS = [SimpleNamespace(id=f"task-{at}", family="abc"[at % 3]) for at in range(12)]


def comparisons(store: PreferenceStore) -> list[Comparison]:
    return [load_comparison(store, row["id"]) for row in store.db.rows("SELECT id FROM comparisons ORDER BY id")]


def asked(store: PreferenceStore, number: int) -> list[Comparison]:
    """What the page then asks, one after the other."""
    desk, found = LabellingDesk(store), []
    for at in range(number):
        held = desk.next("ada")
        assert held is not None
        found.append(held.comparison)
        desk.vote("ada", held.id, Vote(choice="A"), f"request-{held.id}-{at}")
    return found


def scored(folder: Path, comparison: Comparison) -> list[float]:
    """R's score of each answer, one at a time."""
    model = RewardModel.load(folder)
    prompt = encode_prompt(model.tokenizer, prompt_text(comparison.prompt))
    answers = [encode_answer(model.tokenizer, sample.text, ()) for sample in comparison.samples]
    return [model.raw_scores([prompt], [answer], [0]).item() for answer in answers]


def test_scores_are_those_of_the_model_on_disk(store: PreferenceStore, folders: list[Path]) -> None:
    every = comparisons(store)
    found = reward_scores(folders[0])(every)
    for comparison, scores in zip(every, found, strict=True):
        assert scores == pytest.approx(scored(folders[0], comparison), abs=1e-4)
    assert reward_scores(folders[0])([]) == []


def test_uncertainty_asks_first_what_is_nearest_a_half(
    store: PreferenceStore, folders: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    gaps = {each.id: abs(float.__sub__(*scored(folders[0], each))) for each in comparisons(store)}
    ask_first(store, read_question("uncertainty", folders[:1], None), "ada")
    assert "12 comparisons are asked by uncertainty of 1 reward models" in capsys.readouterr().err
    assert [each.id for each in asked(store, 12)] == sorted(gaps, key=lambda name: gaps[name])
    assert read_settings(store).order == "priority"


def test_disagreement_asks_first_where_models_differ(store: PreferenceStore, folders: list[Path]) -> None:
    scores = {each.id: [scored(folder, each) for folder in folders] for each in comparisons(store)}
    told = {name: disagreement(both) for name, both in scores.items()}
    unsure = {name: uncertainty(both) for name, both in scores.items()}
    order = sorted(told, key=lambda name: -told[name])
    assert order != sorted(unsure, key=lambda name: -unsure[name]), "the two strategies are told apart here"
    ask_first(store, read_question("disagreement", folders, None), "ada")
    assert [each.id for each in asked(store, 12)] == order


def test_family_keeps_families_level(store: PreferenceStore) -> None:
    ask_first(store, read_question("family", [], lambda: iter(TASKS)), "ada")
    families = ["abc"[int(prompt_text(each.prompt)[5:].split("(")[0]) % 3] for each in asked(store, 12)]
    for turn in range(0, 12, 3):
        assert sorted(families[turn : turn + 3]) == ["a", "b", "c"]


def test_random_goes_back_to_the_seeded_order(
    store: PreferenceStore, folders: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    row = store.db.rows("SELECT id FROM comparisons ORDER BY place")
    ask_first(store, read_question("uncertainty", folders[:1], None), "ada")
    ask_first(store, read_question("random", folders, None), "ada")
    assert "comparisons are asked in random order" in capsys.readouterr().err
    assert [each.id for each in asked(store, 12)] == [each["id"] for each in row]


def test_a_model_of_another_tokenizer_is_refused(store: PreferenceStore, folders: list[Path]) -> None:
    name = store.add_prompt("ids")
    store.add_samples((name, Sample(text=f"{at}", ids=(5000 + at,), sample=at)) for at in range(2))
    fill(store)
    with pytest.raises(DataError, match="R1 does not know all token ids of the answers: it is of another tokenizer"):
        ask_first(store, read_question("uncertainty", folders[:1], None), "ada")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--next", "uncertainty"], "R/rm.json cannot be read (No such file or directory). Name a reward model"),
        (["--next", "disagreement", "--reward-model", "nowhere"], "nowhere/rm.json cannot be read (No such file or"),
        (["--next", "family"], "asking by family needs tasks with families. Ask at random or by uncertainty."),
        (["--reward-model", "nowhere"], "--reward-model is for --next uncertainty or disagreement. Name one of them."),
        (["--next", "hardest"], "argument --next: invalid choice: 'hardest'"),
    ],
)
def test_what_a_strategy_lacks_is_told_in_one_line(
    tmp_path: Path, options: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with PreferenceStore(tmp_path / "preferences.db") as store:
        name = store.add_prompt("def one():\n")
        store.add_samples((name, Sample(text=f"    return {at}\n", sample=at)) for at in range(2))
    before = (tmp_path / "preferences.db").read_bytes()
    assert main(["prefs", "label", str(tmp_path), "--no-open", *options]) == 2
    said = capsys.readouterr().err
    assert reason in said and said.count("\n") == 1
    assert (tmp_path / "preferences.db").read_bytes() == before, "nothing is written for a question that cannot be put"
