"""Recipes: precedence, spelling, types, one-line errors with their place, and the round trip through TOML."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, model_validator

from trivium.base.config import Config
from trivium.base.errors import ConfigError
from trivium.base.flags import option_names
from trivium.base.recipe import dump_config, load_config


class Optim(Config):
    """How weights are updated."""

    lr: Annotated[float, Field(gt=0)] = 3e-4
    """Peak learning rate."""
    warmup_steps: int = 200
    """Linear warm-up, in optimizer steps."""
    kind: Literal["adamw", "muon"] = "muon"
    betas: tuple[float, ...] = (0.9, 0.95)
    compile: bool = True


class Folder(Config):
    type: Literal["folder"] = "folder"
    path: Path
    weight: float = 1.0


class Builtin(Config):
    type: Literal["builtin"] = "builtin"
    weight: float = 1.0


class Fair(Config):
    type: Literal["fair"] = "fair"


class Noisy(Config):
    type: Literal["noisy"] = "noisy"
    noise: float = 0.1


class Data(Config):
    sources: dict[str, Annotated[Folder | Builtin, Field(discriminator="type")]] = {"code": Builtin()}
    """Weighted sources by name."""
    languages: list[str] = []
    cap: int | None = 10
    name: str | None = None
    threads: int | Literal["auto"] = "auto"
    judge: Annotated[Fair | Noisy, Field(discriminator="type")] = Noisy()


class Recipe(Config):
    seed: int = 0
    """Seed of everything random."""
    optim: Optim = Optim()
    data: Data = Data()

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        if self.seed == 13:
            raise ValueError("seed 13 is not lucky. Take another")
        return self


def recipe_file(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_defaults_then_file_then_flags(tmp_path: Path) -> None:
    path = recipe_file(tmp_path, "seed = 3\n[optim]\nlr = 1e-3\nwarmup_steps = 5\n")
    config = load_config(Recipe, path, ["--optim.lr", "0.01"])
    assert (config.seed, config.optim.lr, config.optim.warmup_steps, config.optim.kind) == (3, 0.01, 5, "muon")


@pytest.mark.parametrize(
    ("flags", "field", "value"),
    [
        (["--optim.warmup-steps", "7"], "optim.warmup_steps", 7),
        (["--optim.warmup_steps=7"], "optim.warmup_steps", 7),
        (["--optim.lr", "1e-4"], "optim.lr", 1e-4),
        (["--seed", "-1"], "seed", -1),
        (["--optim.compile"], "optim.compile", True),
        (["--optim.compile", "--seed", "1"], "seed", 1),
        (["--optim.compile", "false"], "optim.compile", False),
        (["--optim.compile=no"], "optim.compile", False),
        (["--no-optim.compile"], "optim.compile", False),
        (["--optim.betas", "0.8", "0.9"], "optim.betas", (0.8, 0.9)),
        (["--optim.betas", "[0.8, 0.9]"], "optim.betas", (0.8, 0.9)),
        (["--optim.betas"], "optim.betas", ()),
        (["--data.languages", "python", "c", "--seed", "2"], "data.languages", ["python", "c"]),
        (["--data.cap", "none"], "data.cap", None),
        (["--data.cap", "3"], "data.cap", 3),
        (["--data.name", "x = y"], "data.name", "x = y"),
        (["--data.threads", "4"], "data.threads", 4),
        (["--data.threads", "auto"], "data.threads", "auto"),
        (["--seed", "1", "--seed", "2"], "seed", 2),
    ],
)
def test_flags(flags: list[str], field: str, value: Any) -> None:
    config: Any = load_config(Recipe, None, flags)
    for part in field.split("."):
        config = getattr(config, part)
    assert config == value and type(config) is type(value)


class Stage(Config):
    first: Optim = Optim(lr=0.5, kind="adamw")
    steps: int = 3


class Chain(Config):
    one: Stage = Stage()
    two: Stage = Stage(first=Optim(lr=0.25), steps=9)


def test_a_section_keeps_its_own_defaults(tmp_path: Path) -> None:
    assert load_config(Chain) == Chain()
    path = recipe_file(tmp_path, "[one.first]\nwarmup_steps = 1\n[two]\nsteps = 10\n")
    config = load_config(Chain, path, ["--two.first.warmup_steps", "2"])
    assert config.one.first == Optim(lr=0.5, kind="adamw", warmup_steps=1)
    assert config.two == Stage(first=Optim(lr=0.25, warmup_steps=2), steps=10)


def test_tables_of_named_parts(tmp_path: Path) -> None:
    path = recipe_file(tmp_path, '[data.sources.mine]\ntype = "folder"\npath = "docs"\n')
    config = load_config(Recipe, path, ["--data.sources.mine.weight", "2", "--data.sources.code.type", "builtin"])
    assert config.data.sources == {"mine": Folder(path=Path("docs"), weight=2.0), "code": Builtin()}
    whole = load_config(Recipe, None, ["--data.sources", '{"a": {"type": "folder", "path": "b"}}'])
    assert whole.data.sources == {"a": Folder(path=Path("b"))}


def test_variants(tmp_path: Path) -> None:
    assert load_config(Recipe, None, ["--data.judge.type", "fair"]).data.judge == Fair()
    assert load_config(Recipe, None, ["--data.judge.noise", "0.5"]).data.judge == Noisy(noise=0.5)
    path = recipe_file(tmp_path, "[data.judge]\nnoise = 0.2\n")
    assert load_config(Recipe, path).data.judge == Noisy(noise=0.2)
    assert load_config(Recipe, path, ["--data.judge.type=noisy", "--data.judge.noise=1"]).data.judge == Noisy(noise=1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data.judge.type", "fare"], "--data.judge.type: expected 'fair' or 'noisy', got 'fare'."),
        (["--data.judge.noise", "x"], "--data.judge.noise: expected a number, got 'x'."),
        (
            ["--data.judge.nois", "1"],
            "--data.judge.nois: no such option of this kind. Kinds are fair, noisy: choose with --data.judge.type.",
        ),
        (["--optim.lrr", "1"], "--optim.lrr: no such option. Did you mean --optim.lr?"),
        (["--lr", "1"], "--lr: no such option. Did you mean --optim.lr?"),
        (["--optimm.warmup-steps", "1"], "--optimm.warmup_steps: no such option. Did you mean --optim.warmup_steps?"),
        (["--zzzz", "1"], "--zzzz: no such option. `trivium run --help` lists all options."),
        (["--optim", "1"], "--optim is a section. Name one of its fields, for example --optim.lr."),
        (["--seed", "many"], "--seed: expected a whole number, got 'many'."),
        (["--seed", "1.5"], "--seed: expected a whole number, got '1.5'."),
        (["--seed"], "--seed needs a value."),
        (["--seed", "--optim.compile"], "--seed needs a value."),
        (["--optim.lr", "-1"], "--optim.lr: expected a value greater than 0, got '-1'."),
        (["--optim.lr", "nan"], "--optim.lr: expected a finite number, got 'nan'."),
        (["--optim.kind", "adam"], "--optim.kind: expected 'adamw' or 'muon', got 'adam'."),
        (["--data.threads", "x"], "--data.threads: expected a whole number or 'auto', got 'x'."),
        (["--data.sources", "{x"], "--data.sources {x: not valid JSON: Expecting property name"),
        (["--seed", "1", "stray"], "unexpected argument 'stray'. Options are written --section.field value."),
        (["--seed", "a", "--optim.lr", "b"], "--seed: expected a whole number, got 'a' (1 more like this)."),
        (["--seed", "13"], "recipe: seed 13 is not lucky. Take another."),
    ],
)
def test_wrong_flags_give_one_line(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Recipe, None, flags)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = 1\n[optim]\nlearning_rate = 1\n", ":3: optim.learning_rate: no such option."),
        ("[optim]\n\nwarmup_step = 1\n", ":3: optim.warmup_step: no such option. Did you mean optim.warmup_steps?"),
        ("[optim]\n# note\nlr = 'fast'\n", ":3: optim.lr: expected a number, got 'fast'."),
        ("[optin]\nlr = 1\n", ":1: optin: no such option."),
        ("optim.lr = -3\n", ":1: optim.lr: expected a value greater than 0, got -3."),
        ("seed = 1\nseed = \n", ":2: not valid TOML: "),
        ("seed = [1,\n", ":2: not valid TOML: "),
        ("seed = 13", ": seed 13 is not lucky. Take another."),
        ("[data.sources.a]\ntype = 'folder'\n", ":1: data.sources.a.path must be given."),
        ("[data.sources.a]\ntype = 'foldr'\n", ":2: data.sources.a.type: expected 'folder' or 'builtin', got 'foldr'."),
        ("[data.sources.a]\ntype = 'folder'\npath = 'b'\nweight = 'x'", ":4: data.sources.a.weight: expected a number"),
    ],
)
def test_wrong_recipes_name_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    path = recipe_file(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(Recipe, path)
    error = str(caught.value)
    assert error.removeprefix(str(path)).startswith(message) and "\n" not in error


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    recipe_file(tmp_path, "seed = 1")
    with pytest.raises(
        ConfigError, match=r"nime\.toml: cannot read the recipe: No such file.*Did you mean .*mine\.toml"
    ):
        load_config(Recipe, tmp_path / "nime.toml")
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.toml: not UTF-8 text \(byte 5\)"):
        load_config(Recipe, tmp_path / "latin.toml")


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--data.cap", "none", "--data.name", "none", "--optim.lr", "1e-30", "--optim.betas"],
        ["--data.name", 'a "quoted" \\ name\nwith ünïcode', "--data.threads", "3", "--no-optim.compile"],
        ["--data.sources", '{"a b": {"type": "folder", "path": "x/y"}, "c": {"type": "builtin", "weight": 0.25}}'],
    ],
)
def test_dump_reads_back_equal(tmp_path: Path, flags: list[str]) -> None:
    config = load_config(Recipe, None, flags)
    assert load_config(Recipe, recipe_file(tmp_path, dump_config(config))) == config


def test_dump_explains_every_field() -> None:
    lines = dump_config(Recipe()).splitlines()
    assert lines[lines.index("lr = 0.0003") - 1] == "# Peak learning rate."
    assert lines[lines.index("[optim]") - 1] == "# How weights are updated."
    assert lines[lines.index("seed = 0") - 1] == "# Seed of everything random."


def test_option_names() -> None:
    names = option_names(Recipe)
    assert names[:3] == ["seed", "optim.lr", "optim.warmup_steps"] and "data.sources" in names
