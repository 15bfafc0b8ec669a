"""`trivium prefs label` as a user runs it: link, Ctrl-C, SIGKILL and what is refused."""

import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from trivium.cli import main
from trivium.preferences.judgement import Sample
from trivium.preferences.store import PreferenceStore

pytest.importorskip("uvicorn", reason="the `label` extra is not installed")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with PreferenceStore(tmp_path / "preferences.db") as store:
        for prompt in ("def one():\n", "def two():\n"):
            name = store.add_prompt(prompt)
            store.add_samples((name, Sample(text=f"    return {at}\n", sample=at)) for at in range(4))
    return tmp_path


@contextmanager
def serving(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "trivium", "prefs", "label", *map(str, arguments), "--no-open"]
    environment = os.environ | {"PYTHONPATH": "src"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def fetch(opener: Any, url: str, **form: str) -> str:
    with opener.open(url, urlencode(form).encode() if form else None, timeout=20) as answer:
        return answer.read().decode()


def form_of(page: str) -> dict[str, str]:
    part = page[page.index('<form id="vote"') :]
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', part))


def test_a_judgement_and_the_pair_in_view_outlive_sigkill_and_ctrl_c_ends_cleanly(run: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    with serving(run, "--annotator", "ada") as (process, link):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/start\?token=[\w-]{20,}", link)
        base = link.split("/start")[0]
        page = fetch(opener, link)
        following = fetch(opener, f"{base}/label", **form_of(page), choice="A")
        assert "Saved: A is better." in following
        process.send_signal(signal.SIGKILL)
    port = base.rpartition(":")[2]
    with serving(run, "--annotator", "ada", "--port", port) as (process, link):
        again = fetch(opener, f"{base}/label")
        assert form_of(again)["assignment"] == form_of(following)["assignment"], (
            "the cookie and the pair are still good"
        )
        fetch(opener, f"{base}/label", **form_of(following), choice="tie")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 0 and "Traceback" not in said
        assert said.splitlines()[-1] == "the page is closed; every judgement that it said was saved is on disk"
    with PreferenceStore(run / "preferences.db") as store:
        assert [each.judgement.annotator for each in store.judgements()] == ["ada", "ada"]


def test_the_runs_models_can_be_played_with(run: Path) -> None:
    from trivium.model import Decoder, ModelConfig, save_model
    from trivium.tokenizer import Tokenizer

    tokenizer = Tokenizer.train(["a"], vocab_size=267)
    model = Decoder(ModelConfig(vocab_size=267, n_layers=1, d_model=16, max_seq_len=64))
    save_model(model, run / "M1", pad_id=0, bos_id=1, eos_id=2)
    tokenizer.save(run / "M1")
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    with serving(run, "--annotator", "ada") as (_, link):
        assert 'href="/play"' in fetch(opener, link)
        page = fetch(opener, f"{link.split('/start')[0]}/play")
        assert re.findall(r"<option[^>]*>(.*?)</option>", page) == ["M1", "nobody", "M1"]
        form = {"csrf": re.findall(r'name="csrf" value="(\w+)"', page)[0], "first": "M1", "prompt": "x"}
        answer = fetch(opener, f"{link.split('/start')[0]}/play", **form, max_new_tokens="4")
        assert "Answer: M1" in answer and f"trivium generate {run}/M1 --file /dev/stdin" in answer


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nowhere"], "nowhere/preferences.db does not exist. Collect or import preferences first."),
        (["{run}", "--host", "0.0.0.0"], "--host 0.0.0.0 lets other machines in, so people need accounts"),
        (["{run}", "--port", "70000"], "expected a port from 1 to 65535"),
        (["{run}", "--completions", "12"], "expected 2 to 9, got 12"),
        (["{run}", "--tls-cert", "a.pem"], "--tls-key is missing"),
        (["{run}", "--store", "postgresql://localhost:1/none"], "cannot be reached"),
        (["{run}/empty.db"], "no two answers to one prompt"),
    ],
)
def test_what_cannot_be_served_is_told_in_one_line(
    run: Path, arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    PreferenceStore(run / "empty.db").close()
    assert main(["prefs", "label", *(each.replace("{run}", str(run)) for each in arguments)]) == 2
    said = capsys.readouterr().err
    assert reason in said and said.count("\n") == 1
