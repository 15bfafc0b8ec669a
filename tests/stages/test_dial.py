import json
import re
from pathlib import Path
from typing import Any

import check_resume
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivium.base.errors import ConfigError, RunDirError
from trivium.base.recipe import dump_config, load_config
from trivium.model import Decoder, ModelConfig
from trivium.runs import RunDir, read_manifest
from trivium.stages import dial
from trivium.stages.pipeline import Recipe, run_pipeline

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "pretrain.md").read_text()


def turned(depth: int, *flags: str) -> Recipe:
    return load_config(Recipe, None, ["--model.depth", str(depth), *flags])


def at(recipe: Recipe, name: str) -> Any:
    value: Any = recipe
    for part in name.split("."):
        value = getattr(value, part)
    return value


def rows_of_the_page() -> list[list[str]]:
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if line.startswith("|")]
    return [row for row in cells if len(row) == 8 and row[0].isdecimal()]


def test_the_page_has_the_models_that_the_dial_makes() -> None:
    rows = rows_of_the_page()
    assert len(rows) >= 6
    for row in rows:
        recipe = turned(int(row[0]))
        model, pretrain = recipe.model, recipe.pretrain
        made = [recipe.model.n_layers, model.d_model, model.d_ff, recipe.parameter_count]
        made += [pretrain.batch_size, pretrain.steps]
        assert [int(cell.replace(",", "")) for cell in (*row[:4], *row[5:7])] == [model.depth, *made[1:]], row
        assert float(row[4]) == pretrain.optim.lr
        assert model.n_layers == model.n_heads == model.n_kv_heads == model.depth
        assert pretrain.optim.muon_lr == Recipe().pretrain.optim.muon_lr


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_parameters_are_those_of_the_model(depth: int) -> None:
    recipe = turned(depth)
    assert Decoder(recipe.model.model_copy(update={"vocab_size": 2048})).parameter_count() == recipe.parameter_count


def test_without_the_dial_nothing_follows() -> None:
    assert Recipe().model.depth is None and Recipe().implied() == {}
    assert load_config(Recipe) == Recipe() == load_config(Recipe, None, ["--model.depth", "none"])
    plain = Recipe().pretrain
    assert (plain.steps, plain.batch_size, plain.optim.lr) == (90, 64, 3e-3)


def test_the_rules_give_the_default_recipe_its_own_values() -> None:
    plain = Recipe()
    assert plain.model.d_model == dial.BASE_WIDTH and dial.width_factor(dial.BASE_WIDTH) == 1.0
    tokens = plain.pretrain.steps * plain.pretrain.batch_size * plain.pretrain.seq_len
    assert tokens == dial.BASE_TOKENS and dial.batch_rows(tokens, 128) == plain.pretrain.batch_size
    assert dial.steps_of(tokens, 64, 128) == plain.pretrain.steps


@given(st.floats(1, 1e15), st.floats(1, 1e3), st.integers(2, 10_000))
def test_batches_are_powers_of_two_that_grow_with_the_tokens(tokens: float, more: float, seq_len: int) -> None:
    rows = dial.batch_rows(tokens, seq_len)
    assert rows >= 8 and rows & (rows - 1) == 0
    assert dial.batch_rows(tokens * more, seq_len) >= rows >= dial.batch_rows(tokens, 2 * seq_len)


@pytest.mark.parametrize("depth", [1, 2, 3, 5, 8, 13, 40])
def test_a_deeper_model_is_larger_and_learns_longer_at_lower_rates(depth: int) -> None:
    small, large = turned(depth), turned(depth + 1)
    assert large.parameter_count > small.parameter_count
    for path in dial.RATES:
        assert 0 < at(large, ".".join(path)) < at(small, ".".join(path))
    for recipe in (small, large):
        step = recipe.pretrain.batch_size * recipe.pretrain.seq_len
        assert abs(recipe.pretrain.steps * step - 20 * recipe.parameter_count) <= step / 2


EXPLICIT = {
    "model.n_layers": 3,
    "model.d_model": 96,
    "model.n_heads": 2,
    "model.n_kv_heads": 1,
    "model.head_dim": 16,
    "model.d_ff": 100,
    "pretrain.steps": 7,
    "pretrain.batch_size": 5,
    "pretrain.tokens_per_parameter": 2.5,
    "pretrain.optim.lr": 3e-3,
    "sft.optim.lr": 2e-3,
    "reward.optim.lr": 1e-3,
    "rl.learner.optim.lr": 5e-5,
}
"""Some of them are the defaults, which count as given all the same."""


@pytest.mark.parametrize("name", EXPLICIT)
def test_what_is_given_wins(name: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    section, _, field = name.rpartition(".")
    header = "" if section == "model" else f"[{section}]\n"
    path.write_text(f"[model]\ndepth = 4\n{header}{field} = {EXPLICIT[name]}\n")
    for recipe in (turned(4, f"--{name}", str(EXPLICIT[name])), load_config(Recipe, path)):
        assert at(recipe, name) == EXPLICIT[name]
    others = set(EXPLICIT) - {name}
    moved = {other for other in others if at(recipe, other) != at(turned(4), other)}
    follows = {
        "model.n_layers": {"pretrain.steps", "pretrain.batch_size"},
        "model.d_model": others - {"model.n_layers", "pretrain.tokens_per_parameter"},
        "model.n_heads": {"model.n_kv_heads", "model.head_dim"},
        "pretrain.batch_size": {"pretrain.steps"},
        "pretrain.tokens_per_parameter": {"pretrain.steps", "pretrain.batch_size"},
    }
    assert moved <= follows.get(name, {"pretrain.steps", "pretrain.batch_size"}), moved


def test_all_that_is_given_wins_at_once_and_is_told() -> None:
    recipe = turned(4, *(word for name, value in EXPLICIT.items() for word in (f"--{name}", str(value))))
    assert {name: at(recipe, name) for name in EXPLICIT} == EXPLICIT
    told = dial.told(recipe)
    assert "3 layers of width 96" in told and "7 steps of 5 x 128 tokens" in told
    assert "given otherwise: model.n_layers, model.d_model" in told and "pretrain.steps" in told
    assert "otherwise" not in dial.told(turned(4))


def test_tokens_per_parameter_sets_the_steps_without_the_dial_too() -> None:
    recipe = load_config(Recipe, None, ["--pretrain.tokens_per_parameter", "4"])
    assert recipe.pretrain.steps == round(4 * recipe.parameter_count / (64 * 128)) != 90
    assert recipe.model_copy(update={"pretrain": Recipe().pretrain}) == Recipe()


@pytest.mark.parametrize("flags", [(), ("--pretrain.steps", "9"), ("--model.n_layers", "7", "--model.d_model", "128")])
def test_a_written_recipe_has_every_value_and_reads_back_the_same(flags: tuple[str, ...], tmp_path: Path) -> None:
    recipe, path = turned(6, *flags), tmp_path / "recipe.toml"
    path.write_text(dump_config(recipe))
    assert load_config(Recipe, path) == recipe
    assert re.search(rf"^steps = {recipe.pretrain.steps}$", path.read_text(), re.MULTILINE)


def test_a_model_takes_its_shape_from_a_depth() -> None:
    shape = ModelConfig(depth=3, vocab_size=100)
    assert shape.model_copy(update={"depth": None}) == ModelConfig(n_layers=3, d_model=192, vocab_size=100)
    assert ModelConfig(depth=3, d_model=128).d_model == 128


@pytest.mark.parametrize("value", ["0", "-1", "2.5", "deep", "true", "1025"])
def test_senseless_depths_are_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="--model.depth: expected a"):
        load_config(Recipe, None, ["--model.depth", value])


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.chdir(tmp_path)
    words = check_resume.FLAGS.split()
    kept = [pair for pair in zip(words[::2], words[1::2], strict=False) if pair[0].split(".")[0] in KEPT]
    return (*(word for pair in kept for word in pair), *SHORT.split())


KEPT = ("--compute", "--data", "--tokenizer")
SHORT = "--pretrain.eval_rows 8 --pretrain.tokens_per_parameter 0.2 --pretrain.batch_size 8 --pretrain.seq_len 64"


def test_a_run_knows_the_numbers_not_the_dial_they_came_from(small: tuple[str, ...]) -> None:
    recipe = turned(1, *small)
    for stage in ("tokenizer", "data", "pretrain"):
        run_pipeline(recipe, only=stage)
    run = RunDir(recipe.directory)
    written = load_config(Recipe, run.recipe_path)
    assert written == recipe and written.model.depth == 1 and written.pretrain.steps == recipe.pretrain.steps
    shape = json.loads((run.artifact("M0") / "config.json").read_text())
    assert (shape["num_hidden_layers"], shape["hidden_size"]) == (1, 64)
    manifest = read_manifest(run.stage("pretrain"))
    assert manifest is not None and manifest.status == "done" and manifest.config["steps"] == recipe.pretrain.steps

    model = recipe.model.model_copy(update={"depth": None})
    pretrain = recipe.pretrain.model_copy(update={"tokens_per_parameter": None})
    same = recipe.model_copy(update={"model": model, "pretrain": pretrain})
    run_pipeline(same, only="pretrain")
    again = read_manifest(run.stage("pretrain"))
    assert again is not None and (again.started, again.finished) == (manifest.started, manifest.finished)
    with pytest.raises(RunDirError, match="steps"):
        run_pipeline(turned(2, *small), only="pretrain")
