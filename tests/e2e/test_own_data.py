"""docs/own-data.md as it stands: a folder, prompts with responses, comparisons and tasks of a user's own."""

import json
import re
from pathlib import Path

import pytest

from trivium.cli import main
from trivium.preferences.audit import write_settings
from trivium.preferences.comparisons import fill
from trivium.preferences.desk import LabellingDesk
from trivium.preferences.people import add_person
from trivium.preferences.store import PreferenceStore
from trivium.preferences.votes import LabelSettings, Vote

DOCS = Path(__file__).resolve().parents[2] / "docs"
FILE = re.compile(r"^`([\w./-]+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
"""A file shown on a page: its name, and a block with what it holds."""

SETTINGS = """
--tokenizer.vocab_size 280 --model.n_layers 1 --model.d_model 32 --compute.threads 1 --compute.precision fp32
--pretrain.steps 2 --pretrain.batch_size 4 --pretrain.seq_len 64 --pretrain.eval_rows 4
--reward.allow_chance true --reward.normalise_samples 4 --reward.max_new_tokens 8 --reward.epochs 1
--rl.steps 1 --rl.prompts_per_step 2 --rl.samples_per_prompt 2 --rl.max_new_tokens 8 --rl.gold_responses 2
--rl.eval_tasks 2 --evaluate.samples 1 --evaluate.max_new_tokens 8 --evaluate.utility_prompts 2
--evaluate.bits_per_byte_rows 2 --evaluate.seq_len 64
"""
TINY = SETTINGS.split()


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's files, and more of the kind in its corpus and comparisons, so that some are held out."""
    monkeypatch.chdir(tmp_path)
    shown = dict(FILE.findall((DOCS / "own-data.md").read_text()))
    assert sorted(shown) == [
        "my-data/answers.jsonl", "my-data/exam.jsonl", "my-data/practice.jsonl", "my-data/preferences.jsonl", "my.toml",
    ]  # fmt: skip
    corpus = tmp_path / "my-data/corpus/deeper"
    corpus.mkdir(parents=True)
    for name, text in shown.items():
        (tmp_path / name).write_text(text)
    for index in range(60):
        code = f"def scale_{index}(x):\n    '''Scale x by {index}.'''\n    return {index} * x\n\n\n"
        (corpus / f"scale_{index}.py").write_text(code * 3)
    (corpus.parent / "notes.md").write_text("# Notes\n\nScaling is linear; areas are products.\n" * 8)
    (corpus.parent / "picture.png").write_bytes(b"\x89PNG")
    pairs = [
        {
            "prompt": f"def scale(x):\n    '''Scale by {n}.'''\n",
            "chosen": f"    return {n} * x\n",
            "rejected": "    x\n",
        }
        for n in range(24)
    ]
    with open("my-data/preferences.jsonl", "a") as file:
        file.writelines(json.dumps(pair) + "\n" for pair in pairs)
    return tmp_path


def test_own_data_from_corpus_to_m2(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "my.toml", *TINY]) == 0, capsys.readouterr().err
    run = own / "runs/mine"
    corpus = json.loads((run / "data/shards/manifest.json").read_text())
    assert sum(corpus["documents"].values()) == 61 and corpus["documents"]["validation"] > 0
    assert corpus["left_out"] == {"suffix": 1}
    result = {path.parent.name: json.loads(path.read_text())["result"] for path in run.glob("*/manifest.json")}
    assert result["sft"]["examples"] == 3
    assert result["collect"]["prompts"] == 26
    assert result["reward"]["pairs_train"] + result["reward"]["pairs_heldout"] == 24 + 1 + 2
    assert "collect-2" not in result
    figures = json.loads((run / "R/rm.json").read_text())
    probes = {name: each["n"] for name, each in figures["probes"].items()}
    assert {"shuffled", "truncated", "empty"} <= set(probes) and min(probes.values()) > 0
    assert sum(each["pairs"] for each in figures["sources"].values()) == figures["pairs_heldout"]
    answered = [json.loads(line) for line in (run / "evaluate/samples/counts.jsonl").read_text().splitlines()]
    assert {row["task_id"] for row in answered} == {"square", "add"}
    assert {row["model"] for row in answered} == {"M0", "M1", "M2"}
    assert set(json.loads((run / "summary.json").read_text())["models"]) == {"M0", "M1", "M2"}

    capsys.readouterr()
    for stage in ("tokenizer", "data", "pretrain", "sft", "collect", "reward", "rl", "evaluate"):
        assert main([stage, "my.toml", *TINY]) == 0
        assert f"{stage}: done before" in "".join(capsys.readouterr()), stage
    assert main(["prefs", "stats", "--store", str(run / "preferences.db")]) == 0
    assert main(["doctor", "my.toml"]) == 0
    assert main(["doctor", "data", "my-data/answers.jsonl", "--model", str(run / "M1")]) == 0
    assert main(["report", str(run)]) == 0

    capsys.readouterr()
    judge_by_hand(run / "preferences.db", 5)
    assert main(["reward", "my.toml", *TINY]) == 2
    assert "input judgements changed. Start it again with --force" in capsys.readouterr().err
    assert main(["reward", "my.toml", *TINY, "--force"]) == 0
    figures = json.loads((run / "reward/manifest.json").read_text())["result"]
    assert figures["pairs_train"] + figures["pairs_heldout"] == 24 + 1 + 2 + 5
    assert main(["reward", "my.toml", *TINY]) == 0, "and then it is done"

    strict = ["--reward.gate_on_probes", "true", "--reward.probe_floor", "1", "--force"]
    assert main(["reward", "my.toml", *TINY, *strict]) == 1
    assert "R prefers good answers to damaged copies too rarely (" in capsys.readouterr().err


def judge_by_hand(path: Path, votes: int) -> None:
    """What somebody says on the labelling page: so many judgements, and one that only checks them."""
    with PreferenceStore(path) as store:
        add_person(store, "ada", "owner")
        write_settings(store, LabelSettings(overlap_share=0, repeat_share=0, gold_share=0), "ada")
        fill(store)
        desk = LabellingDesk(store)
        for number in range(votes + 1):
            if number == votes:
                repeats = LabelSettings(overlap_share=0, repeat_share=0.5, repeat_after=1, gold_share=0, seed=2)
                write_settings(store, repeats, "ada")
            held = desk.next("ada")
            assert held is not None and held.purpose == ("repeat" if number == votes else "first")
            desk.vote("ada", held.id, Vote(choice="A"), f"request {number}")


@pytest.mark.parametrize(
    ("file", "record", "told"),
    [
        ("answers", '{"prompt": "a", "reponse": "b"}', "answers.jsonl:4: has no field 'response'"),
        ("preferences", '{"prompt": "a", "chosen": 1, "rejected": "b"}', "preferences.jsonl:27: chosen"),
    ],
    ids=["answers", "preferences"],
)
def test_a_bad_record_is_named_before_anything_is_trained(
    own: Path, capsys: pytest.CaptureFixture[str], file: str, record: str, told: str
) -> None:
    path = own / f"my-data/{file}.jsonl"
    path.write_text(path.read_text() + record + "\n")
    assert main(["run", "my.toml", *TINY]) == 2
    assert told in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (own / "runs/mine").exists()
