"""The same numbers by every way through the decoder: cached or whole, packed or alone, bf16 or fp32."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from trivium.base.machine import cxx_compiler
from trivium.model import Decoder, ModelConfig, Scorer
from trivium.model.cache import KVCache
from trivium.objectives.lm import linear_cross_entropy

Make = Callable[..., Decoder]
FAMILIES = ["qwen3", "qwen2", "llama"]


def random_ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 48, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_decoding_equals_the_full_forward(make_decoder: Make, family: str) -> None:
    model = make_decoder(family=family)
    lengths, total = [5, 9, 1], 15
    ids = random_ids(3, total)
    with torch.no_grad():
        whole = model(ids)
        cache = KVCache(model.config, 3, total, torch.float32, model.device)
        prompt = KVCache(model.config, 3, max(lengths), torch.float32, model.device)
        positions = torch.arange(max(lengths)).expand(3, -1)
        first = model.logits(model.hidden(ids[:, : max(lengths)], positions, prompt))  # shorter rows are padded by junk
        cache.copy_rows(torch.tensor([2, 0, 1]), prompt, torch.arange(3), max(lengths))
        cache.copy_rows(torch.arange(3), cache, torch.tensor([2, 0, 1]), max(lengths))  # and back again
        for row, length in enumerate(lengths):
            torch.testing.assert_close(first[row, :length], whole[row, :length], atol=1e-5, rtol=0)
        at = torch.tensor(lengths)
        for _ in range(5):  # each row at its own position
            hidden = model.hidden(ids.gather(1, at[:, None]), at[:, None], cache)
            torch.testing.assert_close(model.logits(hidden)[:, 0], whole[torch.arange(3), at], atol=1e-5, rtol=0)
            at += 1
        cache.keep_rows(torch.tensor([1]))
        hidden = model.hidden(ids[1:2, at[1], None], at[1:2, None], cache)
        torch.testing.assert_close(model.logits(hidden)[0, 0], whole[1, at[1]], atol=1e-5, rtol=0)


PLACES = {
    "some": [3, 1, 9, 17, 19, 9, 1],
    "one": [12],
    "none": [],
    "nearly all": [each for each in range(20) if each != 11],
}
"""Of two rows of ten tokens; in any order, some of them twice."""


@pytest.mark.parametrize("places", PLACES.values(), ids=list(PLACES))
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_of_some_places_are_those_of_all(
    make_decoder: Make, family: str, recompute: bool, places: list[int]
) -> None:
    model, ids, at = make_decoder(family=family), random_ids(2, 10), torch.tensor(places, dtype=torch.long)
    model.recompute = recompute
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, -1, -1], [0, 1, 2, 3, 4, 5, 4, 5, 6, 7]])
    branches = torch.tensor([[0] * 10, [0, 0, 0, 0, 1, 1, 2, 2, 2, 2]])
    factors = torch.randn(len(at), model.config.d_model, generator=torch.Generator().manual_seed(3))
    layouts: list[tuple[Tensor | None, Tensor | None]] = [(None, None), (positions, None), (positions, branches)]
    for where, fork in layouts:
        found, by_way_of = [], []
        whole = model.hidden(ids, where, branches=fork)
        for hidden in (model.hidden_at(at, ids, where, fork), whole.flatten(0, 1)[at]):
            model.zero_grad()
            hidden.mul(factors).sum().backward()
            found.append(hidden.detach())
            by_way_of.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        torch.testing.assert_close(*found, atol=1e-5, rtol=0)
        assert by_way_of[0].keys() == by_way_of[1].keys(), "ranks must not wait for each other's gradients"
        for name, gradient in by_way_of[0].items():
            torch.testing.assert_close(gradient, by_way_of[1][name], atol=1e-4, rtol=1e-4, msg=name)


def test_the_last_block_leaves_out_what_nobody_asks_for(make_decoder: Make) -> None:
    model, counts = make_decoder(), []
    for block in model.blocks:
        block.feed_forward.register_forward_pre_hook(lambda _, inputs: counts.append(inputs[0].numel()))  # type: ignore
    model.hidden_at(torch.tensor([4, 7, 7]), random_ids(2, 10))
    width = model.config.d_model
    assert counts == [*[20 * width] * (len(model.blocks) - 1), 2 * width]


def test_initial_weights_are_a_function_of_the_generator() -> None:
    def initial(seed: int) -> Decoder:
        model = Decoder(ModelConfig(family="qwen2", vocab_size=48, d_model=32, n_layers=2, tie_embeddings=False))
        model.initialise(torch.Generator().manual_seed(seed))
        return model

    first, again, other = initial(7), initial(7), initial(8)
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name)), name
    assert not torch.equal(first.embedding.weight, other.embedding.weight)
    ids = random_ids(2, 8)
    with torch.no_grad():  # every block starts as the identity
        torch.testing.assert_close(first.hidden(ids), first.norm(first.embedding(ids)))
        spread = first(ids).std()
    assert 0 < spread < 0.5  # near-uniform predictions at first


@dataclass
class Layout:
    """Some documents in rows, and where the tokens of each are: (row, column) of its first token."""

    ids: Tensor
    positions: Tensor
    starts: list[tuple[int, int]]


def lay_out(documents: list[Tensor], kind: str, junk: int) -> Layout:
    pads = random_ids(4, 40, seed=junk)
    width = max(map(len, documents)) + 3
    if kind == "packed":  # two documents a row, with pads between, before and behind
        starts = [(0, 2), (0, 4 + len(documents[0])), (1, 0), (1, len(documents[2]))]
        width = max(column + len(documents[k]) for k, (_, column) in enumerate(starts)) + 1
    elif kind == "left":
        starts = [(row, width - len(document)) for row, document in enumerate(documents)]
    else:
        starts = [(row, 0) for row in range(len(documents))]
    ids = pads[: 1 + max(row for row, _ in starts), :width].clone()
    positions = torch.full_like(ids, -1)
    for document, (row, column) in zip(documents, starts, strict=True):
        ids[row, column : column + len(document)] = document
        positions[row, column : column + len(document)] = torch.arange(len(document))
    return Layout(ids, positions, starts)


def outputs(model: Scorer, layout: Layout, documents: list[Tensor]) -> list[Tensor]:
    """A tensor a document: log-probs of its tokens after the first, then the scorer's numbers at all of them."""
    hidden = model.hidden(layout.ids, layout.positions)
    found = []
    for document, (row, column) in zip(documents, layout.starts, strict=True):
        own = hidden[row, column : column + len(document)]
        logprobs = -linear_cross_entropy(own[:-1], model.head_weight, document[1:])
        found.append(torch.cat((logprobs, model.scores(own))))
    return found


def gradients(model: Scorer, found: list[Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    weights = torch.Generator().manual_seed(5)
    torch.cat(found).mul(torch.randn(sum(map(len, found)), generator=weights)).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_rlhf_02_padding_and_packing_change_nothing(make_scorer: Callable[..., Scorer], family: str) -> None:
    model = make_scorer(family=family)
    documents = [random_ids(length, seed=10 + length) for length in (6, 11, 3, 8)]
    alone = [outputs(model, Layout(d[None], torch.arange(len(d))[None], [(0, 0)]), [d])[0] for d in documents]
    slopes = gradients(model, alone)
    assert set(slopes) == {name for name, _ in model.named_parameters()}
    for kind, junk in [("right", 20), ("left", 20), ("packed", 20), ("packed", 21)]:
        found = outputs(model, lay_out(documents, kind, junk), documents)
        for expected, actual in zip(alone, found, strict=True):
            torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
        for name, slope in gradients(model, found).items():
            torch.testing.assert_close(slope, slopes[name], atol=1e-5 * slopes[name].abs().max().item(), rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_stays_near_fp32(make_decoder: Make, family: str) -> None:
    """The plain CPU path of bf16 (its own attention, norm and cast weights) computes the same function."""
    model = make_decoder(family=family)
    ids = random_ids(3, 24)
    positions = torch.cat((torch.arange(10), torch.arange(13), torch.tensor([-1]))).expand(3, -1)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        model.compute_dtype = dtype
        model.zero_grad()
        logits = model(ids, positions)[positions >= 0]
        assert logits.dtype == torch.float32
        logits.logsumexp(-1).sum().backward()
        grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        found[dtype] = logits.detach(), grads
    (logits, grads), (half_logits, half_grads) = found.values()
    assert (half_logits - logits).abs().mean() < 0.02 * logits.std()  # measured: 0.011 to 0.013
    assert set(half_grads) == set(grads)
    for name, grad in grads.items():  # three significant digits went in, two come out
        assert torch.cosine_similarity(half_grads[name].flatten(), grad.flatten(), dim=0) > 0.995, name
        assert half_grads[name].norm() == pytest.approx(grad.norm().item(), rel=0.05), name


def test_recomputed_activations_give_the_same_gradients_from_less_memory(make_decoder: Make) -> None:
    ids, found = random_ids(2, 12), []
    for recompute in (False, True):
        model = make_decoder(n_layers=4)
        model.recompute, kept = recompute, []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.numel()) or t, lambda t: t):
            loss = model(ids).logsumexp(-1).sum()
        loss.backward()
        found.append(({name: p.grad for name, p in model.named_parameters()}, sum(kept)))
    (plain, all_kept), (again, few_kept) = found
    assert few_kept < all_kept / 2
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=0, atol=0)


@pytest.mark.skipif(cxx_compiler() is None, reason="torch.compile needs a C++ compiler")
def test_compiled_blocks_have_the_same_gradients_and_leave_other_passes_alone(make_decoder: Make) -> None:
    ids, found = random_ids(3, 24), []
    positions = torch.cat((torch.arange(10), torch.arange(13), torch.tensor([-1]))).expand(3, -1)
    for compiled in (False, True):
        model = make_decoder(n_layers=3)
        with torch.no_grad():
            before = model(ids)
        torch._dynamo.utils.counters.clear()
        if compiled:
            model.compile_blocks()
        loss = model(ids, positions)[positions >= 0].logsumexp(-1).sum()
        loss.backward()
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled, "one block's code serves all layers"
        with torch.no_grad():
            assert torch.equal(model(ids), before)
        found.append((loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (loss, gradients), (compiled_loss, compiled_gradients) = found
    assert compiled_loss == pytest.approx(loss, rel=1e-6) and set(compiled_gradients) == set(gradients)
    for name, gradient in compiled_gradients.items():
        torch.testing.assert_close(gradient, gradients[name], atol=1e-5 * gradients[name].abs().max().item(), rtol=0)


@pytest.mark.parametrize("tied", [True, False])
def test_held_casts_change_nothing_and_do_not_outlive_their_block(make_decoder: Make, tied: bool) -> None:
    model, ids = make_decoder(tie_embeddings=tied), random_ids(2, 9)
    model.compute_dtype = torch.bfloat16
    with torch.no_grad():
        hidden, plain = model.hidden(ids), model(ids)
        with model.hold_casts(), model.hold_casts():
            assert torch.equal(model(ids), plain)
            model.head_weight.add_(1.0)
            assert torch.equal(model.logits(hidden), plain), "held are the weights as they were"
        assert not torch.equal(model(ids), plain), "an update is seen afterwards"
        model.compute_dtype = torch.float32
        with model.hold_casts():
            assert all(getattr(module, "held", None) is None for module in model.modules())
