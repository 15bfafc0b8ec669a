"""Commands that use a model directory, on a tiny random model with a real tokenizer."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from trivium import load_weights
from trivium.cli import main
from trivium.generation import generate
from trivium.generation.completer import sample_seeds
from trivium.model import Decoder, ModelConfig, load_model, save_model
from trivium.tokenizer import Tokenizer

CONTEXT = 96


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer.train(["def add(a, b):\n    return a + b\n"] * 3, vocab_size=300)
    model = Decoder(
        ModelConfig(vocab_size=tokenizer.vocab_size, n_layers=2, d_model=16, n_heads=2, max_seq_len=CONTEXT)
    )
    model.initialise(torch.Generator().manual_seed(0))
    save_model(model, folder, pad_id=tokenizer.pad_id, bos_id=tokenizer.bos_id or 0, eos_id=tokenizer.eos_id or 0)
    tokenizer.save(folder)
    return folder


def out(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    capsys.readouterr()
    result = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert result == code, captured.err
    return captured.out if code == 0 else captured.out + captured.err


def test_generate_is_a_function_of_prompt_seed_and_sample(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ("generate", folder, "def f(x):", "--max-new-tokens", 8, "--json")
    answers = json.loads(out(capsys, *call, "--n", 3, "--seed", 5))
    assert len({answer["text"] for answer in answers}) == 3
    assert all(answer["finish"] in ("stop", "length") and answer["tokens"] <= 8 for answer in answers)
    (alone,) = json.loads(out(capsys, *call, "--n", 1, "--seed", 5))
    assert alone["text"] == answers[0]["text"] and alone["logprob"] == pytest.approx(answers[0]["logprob"], abs=1e-4)
    assert json.loads(out(capsys, *call, "--n", 1, "--seed", 6))[0]["text"] != answers[0]["text"]


def test_generate_agrees_with_the_python_front_door(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ("generate", folder, "def f(x):", "--max-new-tokens", 8, "--n", 2, "--seed", 3, "--json")
    answers = json.loads(out(capsys, *call))
    responses = load_weights(folder).generate(["def f(x):"] * 2, max_new_tokens=8, seed=3)
    assert [answer["text"] for answer in answers] == [response.text for response in responses]


def test_generate_streams_what_it_returns(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ("generate", folder, r"def f(x):\n", "--max-new-tokens", 12)
    (answer,) = json.loads(out(capsys, *call, "--json"))
    assert answer["prompt"] == "def f(x):\n"
    assert out(capsys, *call) == answer["prompt"] + answer["text"] + "\n"


def test_generate_reads_prompts_from_stdin_and_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a = 1\n\nb = 2\n"))
    answers = json.loads(out(capsys, "generate", folder, "-", "--max-new-tokens", 2, "--json", "--n", 2))
    assert [answer["prompt"] for answer in answers] == ["a = 1", "a = 1", "b = 2", "b = 2"]
    (tmp_path / "p.py").write_text("def g():\n    ")
    (answer,) = json.loads(
        out(
            capsys, "generate", folder, "--file", tmp_path / "p.py", "--max-new-tokens", 2, "--json", "--temperature", 0
        )
    )
    assert answer["prompt"] == "def g():\n    "
    text = out(capsys, "generate", folder, "x", "--n", 2, "--max-new-tokens", 2)
    assert text.startswith("--- 1 of 2 (") and "--- 2 of 2 (" in text


def test_generate_asks_in_a_conversation_and_fills_gaps(
    folder: Path, make_decoder: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = Tokenizer.load(folder)
    model = make_decoder(vocab_size=tokenizer.vocab_size)
    save_model(model, tmp_path, pad_id=0, bos_id=1, eos_id=2)
    tokenizer.save(tmp_path)
    (tmp_path / "rest.py").write_text("    return y\n")
    call = ("generate", tmp_path, "def f(x):", "--max-new-tokens", 8)
    kinds = ((), ("--system", "be brief"), ("--chat",), ("--suffix-file", tmp_path / "rest.py"))
    answers = [json.loads(out(capsys, *call, *kind, "--json"))[0] for kind in kinds]
    id_of = tokenizer.token_id
    user, rest = tokenizer.encode("def f(x):"), tokenizer.encode("    return y\n")
    turn = [id_of("<|user|>"), *user, id_of("<|end_of_turn|>"), id_of("<|assistant|>")]
    prompts = [
        [1, *user],
        [1, id_of("<|system|>"), *tokenizer.encode("be brief"), id_of("<|end_of_turn|>"), *turn],
        [1, *turn],
        [1, id_of("<|fim_prefix|>"), *user, id_of("<|fim_suffix|>"), *rest, id_of("<|fim_middle|>")],
    ]
    expected = generate(model, prompts, seeds=sample_seeds(["def f(x):"], 0) * 4, max_new_tokens=8, stop_ids=[2])
    assert [each["text"] for each in answers] == [tokenizer.decode(each.ids) for each in expected]
    assert len({each["text"] for each in answers}) == 4
    assert out(capsys, *call, "--suffix-file", tmp_path / "rest.py") == f"def f(x):{answers[3]['text']}    return y\n\n"
    assert out(capsys, *call, "--chat") == f"{answers[2]['text']}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is no prompt."),
        (["x", "--file", "y"], "give a prompt or --file, not both."),
        (["--file", "nowhere.txt"], "nowhere.txt: No such file or directory."),
        (["x", "--n", "0"], "argument --n: expected a whole number from 1 to 1000000, got '0'."),
        (["x", "--temperature", "-1"], "argument --temperature: expected a number of at least 0, got '-1'."),
        (["x", "--temprature", "1"], "--temprature: no such option. Did you mean --temperature?"),
        (["x " * 200], "prompt 0 has "),
    ],
)
def test_generate_refuses(arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = out(capsys, "generate", folder, *arguments, code=2)
    assert error.startswith(f"trivium: {message}") and error.count("\n") == 1


def test_generate_needs_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = out(capsys, "generate", tmp_path, "x", code=2)
    assert "is not a model directory: it has no config.json" in error


def test_chat_completes_each_input(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "sys.stdin", io.StringIO("def f(x):\n    y = 1\n\n/temperature 0\n/nonsense\na\n\n/quit\nignored\n")
    )
    capsys.readouterr()
    assert main(["chat", str(folder), "--max-new-tokens", "3"]) == 0
    captured = capsys.readouterr()
    assert "each input is completed on its own" in captured.err and "/reset" in captured.err
    assert captured.out.count("\n") >= 2


def test_chat_keeps_turns_and_says_what_it_forgets(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("return a + b\n\n" * 6 + "x" * 400 + "\n\n/reset\n"))
    capsys.readouterr()
    assert main(["chat", str(folder), "--mode", "chat", "--max-new-tokens", "20"]) == 0
    errors = capsys.readouterr().err
    assert "a conversation." in errors
    assert "warning: the conversation outgrew the model: its oldest turn is forgotten" in errors
    assert "warning: prompt 0 has " in errors  # a single message beyond the context is refused, the talk goes on
    assert errors.rstrip().endswith("forgotten")


def test_convert_keeps_logits(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = json.loads(out(capsys, "convert", folder, tmp_path / "copy", "--json"))
    half = json.loads(out(capsys, "convert", folder, tmp_path / "half", "--dtype", "bfloat16", "--json"))
    assert 0.45 < half["bytes"] / result["bytes"] < 0.7
    ids = torch.tensor([[1, 40, 41, 42]])
    with torch.no_grad():
        logits = [load_model(path)(ids) for path in (folder, tmp_path / "copy", tmp_path / "half")]
    assert torch.equal(logits[0], logits[1])
    assert torch.allclose(logits[0], logits[2], atol=1e-2) and not torch.equal(logits[0], logits[2])
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    assert Tokenizer.load(tmp_path / "half").fingerprint == Tokenizer.load(folder).fingerprint


def test_doctor_checks_a_model(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checks = json.loads(out(capsys, "doctor", "model", folder, "--json"))
    assert {check["status"] for check in checks} == {"ok"} and checks[-1]["about"] == "forward pass"

    tokenizer = Tokenizer.load(folder)
    model = load_model(folder)
    with torch.no_grad():
        model.norm.weight[0] = float("nan")
    save_model(model, tmp_path, pad_id=7, bos_id=1, eos_id=2)
    text = out(capsys, "doctor", "model", tmp_path, code=2)
    assert "problem  model: " in text and "tensor 'model.norm.weight' holds NaN or infinite numbers." in text
    save_model(load_model(folder), tmp_path, pad_id=7, bos_id=1, eos_id=2)
    text = out(capsys, "doctor", "model", tmp_path, code=2)
    assert "problem  tokenizer: " in text and "has no tokenizer.json" in text
    tokenizer.save(tmp_path)
    text = out(capsys, "doctor", "model", tmp_path)
    assert "warning  pad token: id 0 in the tokenizer, 7 in config.json." in text


def test_doctor_shows_which_tokens_carry_loss(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sft.jsonl"
    rows = [
        {"prompt": "def add(a, b):\n", "response": "    return a + b\n"},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
        {"prompt": "x", "response": "y" * 2 * CONTEXT},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = out(capsys, "doctor", "data", file, "--model", folder)
    assert "<|bos|>def add(a, b):\n⟦    return a + b\n<|eos|>⟧" in text
    assert "<|user|>hi<|end_of_turn|><|assistant|>⟦hello<|end_of_turn|>" in text
    assert "warning: 1 examples are longer than the model's 96 tokens." in text
    result = json.loads(out(capsys, "doctor", "data", file, "--model", folder, "--json", "--rows", 1))
    assert result["examples"] == 3 and len(result["rows"]) == 1
    assert sum(result["rows"][0]["loss_mask"]) < len(result["rows"][0]["ids"])

    file.write_text('{"prompt": "a", "response": "b"}\n{"prompt": "a", "reponse": "b"}\n{"prompt"\n')
    text = out(capsys, "doctor", "data", file, "--model", folder, code=2)
    assert f"problem: {file}:2: " in text and f"problem: {file}:3: " in text and "reponse" in text
