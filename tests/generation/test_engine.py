"""Sampling does what a loop over full forwards would do, whatever the batch."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from scipy import stats

from trivium.base import compiled
from trivium.base.compiled import PLAIN
from trivium.base.errors import InputError
from trivium.base.seeding import derive_seed
from trivium.generation import Sample, generate
from trivium.generation.step import library
from trivium.model import Decoder, save_model

Make = Callable[..., Decoder]
STOPS = [2, 3, 4, 5]
"""Several ids end a response, so that lengths come out uneven."""
CAP = 24


@pytest.fixture(params=["compiled", "PyTorch"], autouse=True)
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Either way to decode."""
    compiled.library.cache_clear()
    if request.param == "PyTorch":
        monkeypatch.setenv(PLAIN, "1")
    elif library() is None:
        pytest.skip("needs a C++ compiler")
    yield
    compiled.library.cache_clear()


def ragged_prompts(count: int) -> list[list[int]]:
    """Lengths 1 to 20, a third of them repeated."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 21, (count,), generator=generator).tolist()
    prompts = [torch.randint(6, 48, (length,), generator=generator).tolist() for length in lengths]
    return [prompts[index // 3 if index % 3 == 0 else index] for index in range(count)]


def sample(model: Decoder, prompts: list[list[int]], seeds: list[int], **options: object) -> list[Sample]:
    settings = {"max_new_tokens": CAP, "stop_ids": STOPS} | options
    return generate(model, prompts, seeds=seeds, **settings)  # type: ignore[arg-type]


def assert_same(actual: list[Sample], expected: list[Sample]) -> None:
    assert [each.ids for each in actual] == [each.ids for each in expected]
    assert [each.finish for each in actual] == [each.finish for each in expected]
    for one, other in zip(actual, expected, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


@pytest.mark.parametrize("family", ["qwen3", "qwen2", "llama"])
def test_a_sample_does_not_depend_on_its_batch(make_decoder: Make, family: str) -> None:
    model = make_decoder(family=family)
    prompts = ragged_prompts(40)
    seeds = [derive_seed(0, "test", index) for index in range(len(prompts))]
    together = sample(model, prompts, seeds)
    lengths = [len(each.ids) for each in together]
    assert min(lengths) == 1 and max(lengths) > 15  # uneven, so that rows are replaced and dropped at all times
    assert_same(sample(model, prompts, seeds, batch_size=7), together)
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(2)).tolist()
    shuffled = sample(model, [prompts[k] for k in order], [seeds[k] for k in order], batch_size=5)
    assert_same(shuffled, [together[k] for k in order])
    for index in (0, 1, 17, 39):
        assert_same(sample(model, [prompts[index]], [seeds[index]]), [together[index]])


def test_many_more_prompts_than_rows(make_decoder: Make) -> None:
    model = make_decoder()
    prompts = ragged_prompts(200)
    seeds = list(range(200))
    few, many = sample(model, prompts, seeds, batch_size=16), sample(model, prompts, seeds, batch_size=200)
    assert_same(few, many)
    for each in few:
        assert each.finish == ("stop" if each.ids[-1] in STOPS else "length")
        assert not set(each.ids[:-1]) & set(STOPS)
        assert len(each.ids) == len(each.logprobs) <= CAP and (each.finish == "stop" or len(each.ids) == CAP)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_two_streams_draw_what_one_does(make_decoder: Make, two_threads: None) -> None:
    model, prompts = make_decoder(), ragged_prompts(150)
    seeds = list(range(150))
    drawn: list[tuple[int, int]] = []
    one = sample(model, prompts, seeds, on_token=lambda *each: drawn.append(each))  # streaming is in one thread
    both = sample(model, prompts, seeds)
    assert_same(both, one)
    assert both == sample(model, prompts, seeds) and torch.get_num_threads() == 2
    assert len(drawn) == sum(len(each.ids) for each in one)


def test_a_sample_that_is_ended_keeps_what_was_drawn_and_disturbs_no_other(make_decoder: Make) -> None:
    model, prompts = make_decoder(), ragged_prompts(20)
    seeds = list(range(20))
    whole = sample(model, prompts, seeds)
    count = [0] * 20

    def told(index: int, token: int) -> bool:
        count[index] += 1
        return index % 2 == 0 and count[index] == 3

    for index, (each, before) in enumerate(zip(sample(model, prompts, seeds, on_token=told), whole, strict=True)):
        short = index % 2 == 0 and len(before.ids) > 3
        assert each.ids == (before.ids[:3] if short else before.ids)
        assert each.finish == ("cut" if short else before.finish)
        assert each.logprobs == pytest.approx(before.logprobs[: len(each.ids)], abs=1e-5)
    assert "cut" not in {each.finish for each in whole} and max(count) > 3


def test_an_error_in_a_stream_is_raised(make_decoder: Make, two_threads: None) -> None:
    model, prompts = make_decoder(), ragged_prompts(150)
    prompts[77] = [model.config.vocab_size + 5]  # no such token
    with pytest.raises(IndexError):
        sample(model, prompts, list(range(150)))
    assert torch.get_num_threads() == 2


def test_equal_prompts_with_other_seeds_differ_and_with_equal_seeds_do_not(make_decoder: Make) -> None:
    first, second, third = sample(make_decoder(), [[1, 9]] * 3, [4, 5, 4], stop_ids=[])
    assert first.ids == third.ids and first.ids != second.ids
    assert first.logprobs == pytest.approx(third.logprobs, abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_rlhf_01_sampled_log_probs_are_those_of_a_full_forward(
    make_decoder: Make, tmp_path: Path, temperature: float
) -> None:
    """Ours and transformers', each position, the end token's included."""
    transformers = pytest.importorskip("transformers", reason="parity needs the `hf` extra")
    model = make_decoder(seed=3)
    save_model(model, tmp_path, pad_id=0, bos_id=1, eos_id=2)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    prompts = ragged_prompts(12)
    samples = sample(model, prompts, list(range(12)), temperature=temperature, batch_size=4)
    assert "stop" in {each.finish for each in samples}
    for prompt, each in zip(prompts, samples, strict=True):
        ids = torch.tensor([prompt + each.ids])
        with torch.no_grad():
            for logits in (model(ids), theirs(ids).logits):
                logprobs = (logits[0, len(prompt) - 1 : -1] / temperature).log_softmax(-1)
                picked = logprobs.gather(1, ids[0, len(prompt) :, None])[:, 0]
                assert each.logprobs == pytest.approx(picked.tolist(), abs=1e-4)


def test_temperature_zero_is_the_argmax_loop(make_decoder: Make) -> None:
    model = make_decoder(seed=4)
    prompts = ragged_prompts(6)
    for prompt, each in zip(prompts, sample(model, prompts, [0] * 6, temperature=0.0), strict=True):
        ids = list(prompt)
        with torch.no_grad():
            while len(ids) - len(prompt) < CAP and not (len(ids) > len(prompt) and ids[-1] in STOPS):
                ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
        assert each.ids == ids[len(prompt) :]


def test_first_tokens_follow_the_softmax(make_decoder: Make) -> None:
    model, prompt, count = make_decoder(), [1, 20, 30], 4000
    samples = sample(
        model, [prompt] * count, [derive_seed(0, "draw", k) for k in range(count)], max_new_tokens=1, batch_size=1000
    )
    with torch.no_grad():
        expected = model(torch.tensor([prompt]))[0, -1].softmax(0) * count
    counts = torch.tensor([each.ids[0] for each in samples]).bincount(minlength=48)
    assert stats.chisquare(counts, expected, sum_check=False).pvalue > 0.01


@pytest.mark.parametrize(("length", "room"), [(63, 1), (62, 2), (50, 14), (40, 24)])
def test_a_response_ends_at_the_cap_or_the_context(make_decoder: Make, length: int, room: int) -> None:
    (each,) = sample(make_decoder(), [[7] * length], [0], stop_ids=[])
    assert (len(each.ids), each.finish) == (room, "length")


def test_tokens_are_streamed_as_they_are_drawn(make_decoder: Make) -> None:
    prompts = ragged_prompts(20)
    streams: list[list[int]] = [[] for _ in prompts]
    samples = sample(
        make_decoder(),
        prompts,
        list(range(20)),
        batch_size=6,
        on_token=lambda owner, token: streams[owner].append(token),
    )
    assert streams == [each.ids for each in samples]


@pytest.mark.parametrize("length", [0, 64, 90])
def test_a_prompt_that_does_not_fit_is_refused(make_decoder: Make, length: int) -> None:
    with pytest.raises(InputError, match=rf"prompt 1 has {length} tokens; this model takes 1 to 63\.") as caught:
        sample(make_decoder(), [[1], [1] * length], [0, 0])
    assert "\n" not in str(caught.value)


def test_no_prompts_give_no_samples(make_decoder: Make) -> None:
    assert sample(make_decoder(), [], []) == []
