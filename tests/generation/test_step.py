"""The compiled passes compute what the model does, and a token's figures depend on its own sequence alone."""

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from trivium.base import compiled
from trivium.base.compiled import PLAIN
from trivium.generation import Sample, generate, step
from trivium.generation.passes import CompiledPasses
from trivium.generation.step import Step, decoding, library
from trivium.model import Decoder
from trivium.model.cache import KVCache
from trivium.model.lora import LoRAConfig, add_lora

Make = Callable[..., Decoder]
ROWS, LENGTH = 3, 21
ODD = {"d_model": 50, "n_heads": 6, "n_kv_heads": 2, "head_dim": 6, "d_ff": 37, "vocab_size": 77}
"""No width is a whole number of vectors, and one is odd."""
WIDE = {"d_model": 160, "n_heads": 2, "n_kv_heads": 1, "head_dim": 80, "d_ff": 400, "vocab_size": 300}

needs_compiler = pytest.mark.skipif(library() is None, reason="needs a C++ compiler")


def random_ids(vocabulary: int) -> Tensor:
    return torch.randint(0, vocabulary, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))


def empty_cache(model: Decoder, rows: int = ROWS) -> KVCache:
    return KVCache(model.config, rows, LENGTH + 5, model.compute_dtype, model.device)


def all_at_once(model: Decoder, ids: Tensor, threads: int = 2) -> tuple[Tensor, KVCache]:
    """(ROWS, LENGTH, V) logits, every token of every row in one pass."""
    cache, numbers = empty_cache(model), np.arange(ids.numel())
    logits = Step(model)(ids.flatten().numpy(), numbers // LENGTH, numbers % LENGTH, numbers, cache, threads)
    return logits.view(ROWS, LENGTH, -1), cache


@needs_compiler
@pytest.mark.parametrize("family", ["qwen3", "qwen2", "llama"])
@pytest.mark.parametrize("shape", [{}, ODD, WIDE, {"tie_embeddings": False}], ids=["small", "odd", "wide", "untied"])
def test_logits_are_those_of_the_model(make_decoder: Make, family: str, shape: dict[str, int]) -> None:
    model = make_decoder(family=family, **shape)
    ids = random_ids(model.config.vocab_size)
    double = copy.deepcopy(model).double()
    double.compute_dtype = torch.float64
    with torch.no_grad():
        exact = double(ids)

        def error(logits: Tensor) -> float:
            return float((logits - exact).square().mean().sqrt() / exact.square().mean().sqrt())

        assert error(all_at_once(model, ids)[0]) < min(2e-6, 2 * error(model(ids)))
        model.compute_dtype = torch.bfloat16
        assert error(all_at_once(model, ids)[0]) < min(5e-2, 1.2 * error(model(ids)))  # both round between products


@needs_compiler
def test_adapters_are_in_the_weights(make_decoder: Make) -> None:
    model = make_decoder()
    ids = random_ids(model.config.vocab_size)
    with torch.no_grad():
        before = model(ids)
        add_lora(model, LoRAConfig(rank=2), seed=0, purpose="test")
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
        after = model(ids)
        assert (all_at_once(model, ids)[0] - after).abs().max() < 1e-4 * (after - before).abs().max()


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [{}, ODD, WIDE], ids=["small", "odd", "wide"])
def test_a_tokens_bits_are_a_function_of_its_own_sequence(
    make_decoder: Make, dtype: torch.dtype, shape: dict[str, int]
) -> None:
    """One token at a time, alone or with others, from the middle of a prompt on, with any number of threads."""
    model = make_decoder(**shape)
    model.compute_dtype = dtype
    ids = random_ids(model.config.vocab_size)
    whole, cache = all_at_once(model, ids)
    assert torch.equal(all_at_once(model, ids, threads=1)[0], whole)
    run, one_by_one, alone = Step(model), empty_cache(model), empty_cache(model, rows=1)
    every = np.arange(ROWS)
    for at in range(LENGTH):
        logits = run(ids[:, at].numpy().copy(), every, np.full(ROWS, at), every, one_by_one, threads=3)
        assert torch.equal(logits, whole[:, at])
        one = run(ids[1, at : at + 1].numpy(), every[:1], np.array([at]), every[:1], alone, threads=1)
        assert torch.equal(one[0], whole[1, at])
    assert torch.equal(one_by_one.keys, cache.keys) and torch.equal(one_by_one.values, cache.values)
    assert cache.keys[..., LENGTH:, :].count_nonzero() == 0  # nothing beyond a row's tokens is written


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_samples_are_the_same_bits_in_any_batch(make_decoder: Make, dtype: torch.dtype) -> None:
    model = make_decoder(max_seq_len=128)
    model.compute_dtype = dtype
    generator = torch.Generator().manual_seed(2)
    prompts = [torch.randint(6, 48, (1 + index * 7 % 60,), generator=generator).tolist() for index in range(40)]
    prompts[10:20] = prompts[:10]

    def draw(chosen: list[int], batch_size: int) -> list[Sample]:
        return generate(
            model,
            [prompts[k] for k in chosen],
            seeds=[1000 + k for k in chosen],
            max_new_tokens=24,
            stop_ids=[2, 3],
            batch_size=batch_size,
        )

    together = draw(list(range(40)), 256)  # more than one pass of prompt tokens
    assert draw(list(range(40)), 7) == together
    assert draw([12], 256) == [together[12]] and draw([39, 3], 2) == [together[39], together[3]]
    assert {sample.finish for sample in together} == {"stop", "length"}


@needs_compiler
def test_prompts_of_one_pass_go_to_their_rows_and_copies(make_decoder: Make) -> None:
    """Prompts longer together than a pass takes, one of them twice, into rows that are not in order."""
    model = make_decoder(max_seq_len=256)
    generator = torch.Generator().manual_seed(3)
    lengths = [200, 1, 150, 90]
    prompts = [torch.randint(0, 48, (length,), generator=generator).tolist() for length in lengths]
    given = [prompts[0], prompts[1], prompts[2], prompts[0], prompts[3]]
    rows = np.array([4, 0, 6, 2, 5])
    cache = KVCache(model.config, 7, 256, torch.float32, model.device)
    logits = CompiledPasses(Step(model), threads=2).prefill(cache, rows, given)
    with torch.no_grad():
        expected = torch.stack([model(torch.tensor([prompt]))[0, -1] for prompt in given])
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-5)
    assert torch.equal(cache.keys[:, 4], cache.keys[:, 2]) and torch.equal(cache.values[:, 4], cache.values[:, 2])
    assert cache.keys[:, [1, 3]].count_nonzero() == 0


@needs_compiler
def test_numbers_that_are_none_stay_so(make_decoder: Make) -> None:
    model = make_decoder()
    with torch.no_grad():
        model.get_parameter("blocks.0.feed_forward.up_proj.weight")[0, 0] = math.nan
    (sample,) = generate(model, [[7, 8]], seeds=[0], max_new_tokens=3, stop_ids=[])
    assert len(sample.ids) == 3 and all(0 <= token < 48 for token in sample.ids)
    assert all(math.isnan(value) for value in sample.logprobs)


@pytest.fixture
def fresh_choice() -> Iterator[None]:
    compiled.library.cache_clear()
    yield
    compiled.library.cache_clear()


def test_without_a_working_compiler_pytorch_decodes(
    make_decoder: Make, fresh_choice: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = make_decoder()
    usual = generate(model, [[7, 8], [9]], seeds=[0, 1], max_new_tokens=8, stop_ids=[])
    monkeypatch.delenv("CXX", raising=False)
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    for name, value, reason in (
        ("CXX", str(broken), "the C++ compiler fails"),
        (PLAIN, "1", f"{PLAIN} is set"),
        ("PATH", str(tmp_path / "nothing"), "there is no C++ compiler"),
    ):
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            compiled.library.cache_clear()
            assert decoding(model) == f"PyTorch: {reason}"
            samples = generate(model, [[7, 8], [9]], seeds=[0, 1], max_new_tokens=8, stop_ids=[])
        assert [each.ids for each in samples] == [each.ids for each in usual]
        for one, other in zip(samples, usual, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


@needs_compiler
def test_it_is_compiled_once_a_machine(
    fresh_choice: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for said in (1, 0):
        compiled.library.cache_clear()
        assert library() is not None
        assert capsys.readouterr().err.count("compiling") == said
    assert [path.suffix for path in (tmp_path / "trivium").iterdir()] == [".so"]


def test_other_precisions_are_decoded_by_pytorch(make_decoder: Make) -> None:
    model = make_decoder().double()
    model.compute_dtype = torch.float64
    assert decoding(model).startswith("PyTorch: the model is not")
    assert len(generate(model, [[7, 8]], seeds=[0], max_new_tokens=4, stop_ids=[])[0].ids) == 4
    assert step.SOURCE.is_file()
