"""Commands on recipes: help from the fields, wrong settings, one real stage run, skipped, refused and forced."""

import json
from pathlib import Path

import pytest

from trivium.base.recipe import load_config
from trivium.cli import main
from trivium.cli.options import builtin_recipes, find_recipe, read_recipe_arguments
from trivium.cli.program import COMMANDS
from trivium.cli.stages import SECTIONS, format_summary
from trivium.stages.pipeline import STAGES, Recipe


def test_every_stage_has_a_command() -> None:
    assert set(STAGES) == SECTIONS.keys() and set(STAGES) < COMMANDS.keys()
    assert {section for sections in SECTIONS.values() for section in sections} < Recipe.model_fields.keys()


def test_every_setting_is_described() -> None:
    """Help is made from the docstrings below the fields: none may be missing."""

    def undescribed(cls: type, above: str = "") -> list[str]:
        found = []
        for name, info in cls.model_fields.items():
            default = info.get_default(call_default_factory=True)
            if hasattr(type(default), "model_fields"):
                found += undescribed(type(default), f"{above}{name}.")
            elif not info.description and name != "type":
                found.append(above + name)
        return found

    assert undescribed(Recipe) == []


@pytest.mark.parametrize("command", ["run", *STAGES])
def test_help_lists_the_settings(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: trivium {command} [RECIPE.toml]")
    assert f"\n  --{command}." in text or command == "run"
    assert max(len(line) for line in text.splitlines()) <= 110
    if command == "run":
        assert all(
            f"\n{section}" in text for section in Recipe.model_fields if section not in ("name", "runs_dir", "seed")
        )


def test_help_shows_the_recipes_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text("[pretrain]\nsteps = 4321\n")
    assert main(["pretrain", str(recipe), "--help"]) == 0
    assert "[4321]" in capsys.readouterr().out


def test_built_in_recipes_are_valid() -> None:
    recipes = builtin_recipes()
    assert "quickstart" in recipes
    for path in recipes.values():
        load_config(Recipe, path)
    assert load_config(Recipe, recipes["quickstart"]).name == "quickstart"


def test_recipes_are_found_by_path_and_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_recipe("quickstart") == builtin_recipes()["quickstart"]
    Path("mine.toml").write_text("")
    assert find_recipe("mine.toml") == Path("mine.toml")
    assert read_recipe_arguments(["--seed", "1", "--json"]).recipe == builtin_recipes()["quickstart"]


def test_arguments_are_taken_apart() -> None:
    arguments = read_recipe_arguments(["quickstart", "--seed", "1", "--force", "--json", "--pretrain.steps", "2"])
    assert arguments.flags == ["--seed", "1", "--pretrain.steps", "2"]
    assert arguments.force and arguments.json and not arguments.help


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("run quikstart", "quikstart: no such recipe file. Did you mean quickstart?"),
        ("run none.toml", "none.toml: cannot read the recipe: No such file or directory."),
        ("run --pretrain.stpes 3", "--pretrain.stpes: no such option. Did you mean --pretrain.steps?"),
        ("pretrain --pretrain.steps many", "--pretrain.steps: expected a whole number, got 'many'."),
        ("pretrain --pretrain.steps 0", "--pretrain.steps: expected a value greater than or equal to 1, got '0'."),
        ("rl quickstart stray", "unexpected argument 'stray'."),
        ("doctor none.toml", "none.toml: cannot read the recipe"),
    ],
)
def test_wrong_recipes(
    line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"trivium: {message}") and captured.err.count("\n") == 1
    assert not Path("runs").exists()


def test_doctor_writes_a_recipe_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "quickstart", "--seed", "7"]) == 0
    text = capsys.readouterr().out
    assert text.rstrip().endswith("is valid; all its settings are above.")
    written = tmp_path / "resolved.toml"
    written.write_text(text.rpartition("\nok ")[0])
    assert load_config(Recipe, written) == load_config(Recipe, find_recipe("quickstart"), ["--seed", "7"])


def test_a_stage_is_run_skipped_refused_and_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("texts").mkdir()
    for number in range(40):
        Path(f"texts/{number}.py").write_text(f"def f{number}(x):\n    return x + {number}\n")
    Path("mine.toml").write_text('name = "mine"\n[data]\nsources = ["texts"]\n[tokenizer]\nvocab_size = 275\n')

    assert main(["tokenizer", "mine.toml", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["tokenizer"]["vocab_size"] == 275 and "tokenizer: done" in captured.err
    assert Path("runs/mine/tokenizer/tokenizer.json").is_file()

    assert main(["tokenizer", "mine.toml"]) == 0
    captured = capsys.readouterr()
    assert "nothing to do" in captured.err and "vocab size 275" in captured.out

    assert main(["tokenizer", "mine.toml", "--tokenizer.vocab_size", "270"]) == 2
    error = capsys.readouterr().err
    assert "config.vocab_size: 275 → 270" in error and "--force" in error
    assert main(["tokenizer", "mine.toml", "--tokenizer.vocab_size", "270", "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokenizer"]["vocab_size"] == 270

    assert main(["runs"]) == 0
    assert "mine  tokenizer" in capsys.readouterr().out
    assert main(["runs", "runs/mine"]) == 0
    assert "tokenizer  done" in capsys.readouterr().out


def test_summaries_as_text() -> None:
    row = {"pass_at_1": 0.5, "pass_at_1_ci": [0.45, 0.55], "pass_at_10": 0.8, "bits_per_byte": 1.8}
    row |= {"L_SFT": 0.1, "L_R": -0.5, "omega": 0.0, "U": 0.25}
    summary = {
        "models": {"M0": dict.fromkeys(row), "M1": row},
        "reward_model": {"accuracy": 0.84, "accuracy_ci": [0.8, 0.88], "ece": None},
        "rl": {"algorithm": "ppo", "steps": 30},
        "wall_seconds": 512.25,
        "seed": 0,
    }
    lines = format_summary(summary).splitlines()
    assert lines[0].split() == ["pass@1", "95%", "interval", "pass@10", "bits/byte", "L_SFT", "L_R", "omega", "U"]
    assert lines[1].split() == ["M0", "-", "-", "-", "-", "-", "-", "-", "-"]
    assert lines[2].split() == [
        "M1",
        "50.0%",
        "45.0%",
        "-",
        "55.0%",
        "80.0%",
        "1.800",
        "0.100",
        "-0.500",
        "0.000",
        "0.250",
    ]
    assert "reward model: accuracy 0.84  accuracy ci 0.8 - 0.88  ece -" in lines
    assert "rl: algorithm ppo  steps 30" in lines and "wall seconds 512.2  seed 0" in lines
    assert format_summary({"sft": {"steps": 3, "val": {"a": 1.5, "b": 2}}}) == "sft: steps 3  val a 1.5  val b 2\n"
    assert format_summary({}) == ""


def test_many_figures_are_shown_in_lines_that_can_be_read() -> None:
    reward = {f"figure_{number}": 0.5 for number in range(12)} | {
        "calibration": [{"predicted": 0.5, "observed": 0.4}],
        "length": {"corr": 0.25, "by_gap": {"longer": {"pairs": 3}, "shorter": {"pairs": 4}}},
        "accuracy_ci": [0.25, 0.75],
    }
    lines = format_summary({"reward": reward}).splitlines()
    assert max(map(len, lines)) <= 110
    assert lines[0].startswith("reward: figure 0 0.5  figure 1 0.5") and lines[1].startswith("    figure ")
    assert lines[1].endswith("accuracy ci 0.25 - 0.75")
    assert lines[2:] == ["  length: corr 0.25  by gap longer pairs 3  by gap shorter pairs 4"], "a table is for --json"
