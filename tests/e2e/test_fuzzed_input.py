"""Recipes, flags, records and model files at random: they are taken, or refused by an error that names them."""

import json
import math
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trivium.base.errors import ConfigError, DataError, InputError, ModelError, RunDirError
from trivium.base.flags import option_names
from trivium.base.recipe import dump_config, load_config
from trivium.base.toml import dump_toml
from trivium.data.config import SourceConfig
from trivium.data.drops import Drops
from trivium.data.examples import load_examples
from trivium.data.sources import read_source
from trivium.model.hf import read_config
from trivium.preferences.formats import import_preferences
from trivium.preferences.store import PreferenceStore
from trivium.runs import RunDir, read_manifest
from trivium.stages.pipeline import Recipe
from trivium.tasks.formats import load_tasks
from trivium.tokenizer import Tokenizer

many = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
few = settings(many, max_examples=60)

TEXTS = st.one_of(st.text(max_size=12), st.sampled_from(["", "none", "true", "nan", "1e400", "../..", "def f(:", "\0"]))
NUMBERS = st.one_of(st.integers(), st.sampled_from([0, -1, 2**31, 2**63, 10**30]), st.floats())
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3))


@st.composite
def spoilt(draw: st.DrawFn, *originals: Any) -> Any:
    """One of the originals with a few of its parts replaced, removed or doubled."""
    value = deepcopy(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(0, 3))):
        part = value
        while isinstance(part, dict | list) and part:
            key = draw(st.sampled_from(list(part) if isinstance(part, dict) else range(len(part))))
            if isinstance(part[key], dict | list) and part[key] and draw(st.booleans()):
                part = part[key]
                continue
            match draw(st.sampled_from(["replace", "replace", "remove", "add"])):
                case "replace":
                    part[key] = draw(VALUES)
                case "remove":
                    del part[key]
                case _ if isinstance(part, dict):
                    part[draw(TEXTS)] = draw(VALUES)
                case _:
                    part.append(draw(VALUES))
            break
    return value


def one_line(error: Exception) -> bool:
    return 10 < len(str(error)) < 2000


# ---------------------------------------------------------------- recipes and flags

DEFAULTS = Recipe().model_dump(mode="json")


@many
@given(table=spoilt(DEFAULTS, {}, {"pretrain": {"steps": 3}, "data": {"sources": [{"path": "a", "weight": 2}]}}))
def test_recipes(table: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    try:
        path.write_text(dump_toml(table))
    except (UnicodeEncodeError, ValueError):  # text of lone surrogates, numbers of thousands of digits
        return
    try:
        recipe = load_config(Recipe, path)
    except ConfigError as error:
        assert one_line(error)
        return
    path.write_text(dump_config(recipe))
    assert load_config(Recipe, path) == recipe


@few
@given(data=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(lambda text: text.encode("utf-8", "ignore"))))
def test_recipes_of_any_bytes(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(data)
    try:
        load_config(Recipe, path)
    except ConfigError as error:
        assert one_line(error)


NAMES = st.one_of(st.sampled_from(option_names(Recipe)), st.text(max_size=8))
FLAGS = st.one_of(
    st.tuples(NAMES.map(lambda name: f"--{name}"), st.one_of(TEXTS, NUMBERS.map(str), VALUES.map(str))),
    st.tuples(NAMES, TEXTS).map(lambda pair: (f"--{pair[0]}={pair[1]}",)),
    st.tuples(TEXTS),
)


@many
@given(flags=st.lists(FLAGS, max_size=4))
def test_flags(flags: list[tuple[str, ...]]) -> None:
    try:
        load_config(Recipe, None, [word for flag in flags for word in flag])
    except ConfigError as error:
        assert len(str(error)) < 2000


# ---------------------------------------------------------------- records

CALL = "def half(x):\n"
EXAMPLES = (
    {"prompt": CALL, "response": "    return x / 2\n", "id": "a"},
    {"instruction": "Halve it.", "input": "4", "output": "2"},
    {"question": "6 times 7?", "answer": "42"},
    {"messages": [{"role": "user", "content": "6 times 7?"}, {"role": "assistant", "content": "42"}]},
)
TREE = {"role": "prompter", "text": "a", "message_id": "m", "replies": []}
TREE["replies"] = [{"role": "assistant", "text": text, "rank": rank} for rank, text in enumerate("bc")]
PREFERENCES = (
    {"prompt": CALL, "chosen": "    return x / 2\n", "rejected": "    pass\n", "margin": 1.0, "split": "train"},
    {"prompt": CALL, "completions": [{"text": "a", "ids": [1, 2]}, "b"], "ranking": [[0], [1]], "details": {"n": 1}},
    {"instruction": "a", "input": "", "response1": "b", "response2": "c", "annotator1": 1, "annotator2": 0},
    {"message_tree_id": "t", "prompt": TREE},
)
TASKS = (
    {"id": "half", "prompt": CALL, "entry_point": "half", "tests": ["assert half(4) == 2"], "solution": "    pass\n"},
    {"task_id": "h/1", "prompt": CALL, "entry_point": "half", "test": "def check(f):\n    assert f(4) == 2\n"},
    {"task_id": 11, "text": "Halve it.", "code": "def half(x):\n    pass\n", "test_list": ["assert half(4) == 2"]},
)
DOCUMENTS = ({"text": "x = 1\n", "language": "python", "license": "MIT", "path": "a.py"}, {"text": "two"})


def read_answers(path: Path, on_error: Any) -> None:
    load_examples(path, on_error)


def read_preferences(path: Path, on_error: Any) -> None:
    with PreferenceStore(":memory:") as store:
        import_preferences(path, store, on_error)
        list(store.pairs())


def read_tasks(path: Path, on_error: Any) -> None:
    load_tasks(path, on_error=on_error)


def read_corpus(path: Path, on_error: Any) -> None:
    list(read_source(SourceConfig(path=str(path)), Drops(on_error)))


READERS = [(read_answers, EXAMPLES), (read_preferences, PREFERENCES), (read_tasks, TASKS), (read_corpus, DOCUMENTS)]


@pytest.mark.parametrize(("reader", "records"), READERS, ids=["answers", "preferences", "tasks", "corpus"])
@many
@given(data=st.data())
def test_records(
    reader: Callable[[Path, Any], None], records: tuple[Any, ...], data: st.DataObject, tmp_path: Path
) -> None:
    line = st.one_of(
        spoilt(*records).map(lambda value: json.dumps(value).encode()),
        VALUES.map(lambda value: json.dumps(value).encode()),
        st.binary(max_size=40),
    )
    content = b"\n".join(data.draw(st.lists(line, max_size=4)))
    path = tmp_path / f"records{data.draw(st.sampled_from(['.jsonl', '.json', '.jsonl.gz', '.jsonl.zst']))}"
    path.write_bytes(content)
    for on_error in ("stop", "skip"):
        try:
            reader(path, on_error)
        except DataError as error:
            assert str(path) in str(error) and one_line(error)


# ---------------------------------------------------------------- files of models and runs

SHAPE = {"model_type": "qwen3", "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
SHAPE |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64}
SHAPE |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "rms_norm_eps": 1e-6}


@many
@given(values=spoilt(SHAPE))
def test_model_configs(values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(values))
    try:
        shape = read_config(tmp_path)
    except ModelError as error:
        assert str(tmp_path) in str(error) and one_line(error)
    else:
        assert shape.head_dim % 2 == 0 and math.isfinite(shape.rope_theta)


@few
@given(data=st.data())
def test_tokenizer_configs(data: st.DataObject, tmp_path: Path) -> None:
    if not (tmp_path / "tokenizer.json").exists():
        Tokenizer.train(["def f(x):\n    return x\n"], vocab_size=270).save(tmp_path)
        (tmp_path / "tokenizer_config.json").rename(tmp_path / "sound.json")
    values = data.draw(spoilt(json.loads((tmp_path / "sound.json").read_text())))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(values))
    try:
        Tokenizer.load(tmp_path)
    except InputError as error:
        assert str(tmp_path) in str(error) and one_line(error)


@few
@given(values=spoilt({"stage": "sft", "status": "done", "fingerprint": "0", "config": {"a": 1}, "started": ""}))
def test_manifests(values: dict[str, Any], tmp_path: Path) -> None:
    stage = RunDir(tmp_path).stage("sft")
    stage.path.mkdir(exist_ok=True)
    stage.manifest_path.write_text(json.dumps(values))
    try:
        read_manifest(stage)
    except RunDirError as error:
        assert str(stage.manifest_path) in str(error) and one_line(error)
