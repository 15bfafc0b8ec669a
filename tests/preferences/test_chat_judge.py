"""A chat model as a judge, behind a real HTTP server."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import check_resume
import pytest

from trivium.base.chat_client import ChatError
from trivium.cli import main
from trivium.preferences.chat_judge import HttpJudge, judge_comparisons
from trivium.preferences.comparisons import fill
from trivium.preferences.judgement import Sample, prompt_text
from trivium.preferences.store import PreferenceStore

Decide = Callable[[str, str], str | None]
"""Answers A and B to the letter, or None for a broken server."""


@pytest.fixture
def serve(chat_server: Callable[..., tuple[str, list[dict[str, Any]]]]) -> Callable[[Decide], HttpJudge]:
    """`serve(decide)`: the judge that asks a server that decides so."""

    def start(decide: Decide) -> HttpJudge:
        def reply(body: dict[str, Any]) -> str | None:
            asked = body["messages"][1]["content"]
            a, b = (re.findall(f"<answer {side}>\n(.*)\n</answer {side}>", asked, re.DOTALL)[0] for side in ("A", "B"))
            letter = decide(a, b)
            return None if letter is None else f'So: {{"better": "{letter}"}}'

        url, _ = chat_server(reply)
        return HttpJudge(url=url, model="m", key_variable="", wait_seconds=0)

    return start


def samples(*texts: str) -> list[Sample]:
    return [Sample(text=text, sample=at) for at, text in enumerate(texts)]


def longer(a: str, b: str) -> str:
    return "tie" if len(a) == len(b) else "A" if len(a) > len(b) else "B"


def test_ranks_any_number_of_answers(serve: Callable[[Decide], HttpJudge]) -> None:
    assert serve(longer).rank("p", samples("xx", "xxxx", "x", "yy")) == ((1,), (0, 3), (2,))


def test_a_liking_for_a_side_cancels(serve: Callable[[Decide], HttpJudge]) -> None:
    judge = serve(lambda a, b: "A" if abs(len(a) - len(b)) < 2 else longer(a, b))
    found = judge.compare([("p", samples("x", "xx", "xxxx"))])[0]
    assert found.wins == {(0, 1): 0.5, (0, 2): 0.0, (1, 2): 0.0} and found.inconsistent == 1
    assert found.ranking(3) == ((2,), (0, 1))


def test_what_is_not_answered_stays_unjudged(serve: Callable[[Decide], HttpJudge]) -> None:
    judge = serve(lambda a, b: None if "?" in a + b else "maybe" if "!" in a + b else longer(a, b))
    assert judge.rank("p", samples("x", "xx", "x?")) == ((1,), (0,)), "the answer whose pairs failed is left out"
    assert judge.rank("p", samples("x", "x!")) == (), "no verdict is no tie"
    found = judge.compare([("p", samples("x", "x!")), ("p", samples("x", "?"))])
    assert "no verdict" in found[0].problem and "status 400" in found[1].problem


def filled(location: str | Path, prompts: int = 5) -> PreferenceStore:
    store = PreferenceStore(location)
    for at in range(prompts):
        name = store.add_prompt(f"prompt {at}")
        store.add_samples((name, sample) for sample in samples("x", "xx" if at else "?"))
    fill(store)
    return store


def test_judgements_go_to_the_store_once(serve: Callable[[Decide], HttpJudge]) -> None:
    judge = serve(lambda a, b: None if "?" in a + b else longer(a, b))
    with filled(":memory:") as store:
        report = judge_comparisons(store, judge, limit=5)
        assert (report.judged, report.unjudged, len(report.problems)) == (4, 1, 1)
        again = judge_comparisons(store, judge)
        assert (again.judged, again.unjudged) == (0, 1), "only what is unjudged is asked again"
        pairs = list(store.pairs(source="ai:m"))
        assert [(pair.chosen, pair.rejected, pair.annotator) for pair in pairs] == [("xx", "x", "m")] * 4


def test_a_dead_server_is_given_up_and_the_command_says_so(
    serve: Callable[[Decide], HttpJudge], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = serve(lambda a, b: None)
    with filled(tmp_path / "p.db", prompts=60) as store, pytest.raises(ChatError, match="0 comparisons judged"):
        judge_comparisons(store, judge)
    with_server = ["--store", str(tmp_path / "p.db"), "--key-variable", ""]
    assert main(["prefs", "judge", "--url", judge.url, "--model", "m", *with_server]) == 1
    assert "status 400" in capsys.readouterr().err
    works = serve(longer)
    assert main(["prefs", "judge", "--url", works.url, "--model", "m", *with_server, "--limit", "7"]) == 0
    assert "7 comparisons judged" in capsys.readouterr().out
    assert main(["prefs", "judge", "--url", "nowhere", "--model", "m", *with_server]) == 2


@pytest.mark.slow
def test_a_recipe_collects_with_a_chat_model_and_fails_where_it_never_answers(
    serve: Callable[[Decide], HttpJudge],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)

    def stage(name: str, url: str, *more: str) -> int:
        judge = f"--collect.judge.type http --collect.judge.url {url} --collect.judge.model m --collect.judge.tries 1"
        flags = check_resume.FLAGS.replace("--collect.judge.type simulated", judge).split()
        return main([name, *flags, "--collect.judge.key_variable", "", "--name", "judged", *more])

    works, broken = serve(longer), serve(lambda a, b: None)
    for name in ("tokenizer", "data", "pretrain", "sft", "collect"):
        assert stage(name, works.url) == 0, capsys.readouterr().err
    with PreferenceStore(tmp_path / "runs/judged/preferences.db", create=False) as store:
        judged = [stored.judgement for stored in store.judgements()]
        assert judged and {(each.source, each.annotator) for each in judged} == {("ai:m", "m")}
        for each in judged:
            assert each.ranking == works.rank(prompt_text(each.prompt), each.completions)
        assert store.unjudged("ai:m", 0) == []
    capsys.readouterr()
    assert stage("collect", broken.url, "--force") == 1
    assert f"collect: {broken.url} judged none of 8 prompts. See that it serves m;" in capsys.readouterr().err
