"""Micro-batches change nothing, a resumed run is the uninterrupted one, and bad weights are never kept."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from trivium.base.errors import Interrupted, StageFailed
from trivium.base.machine import cxx_compiler
from trivium.batch import Batch, LossOutput
from trivium.data.packing import fill_rows, pack_examples
from trivium.model import Decoder, LoRAConfig
from trivium.model.lora import add_lora
from trivium.optim import OptimConfig, Optimizer
from trivium.runs import MetricsLog, RunDir, open_stage, read_manifest, read_metrics
from trivium.training import TrainConfig, Trainer, faults
from trivium.training.checkpoint import unpack
from trivium.training.losses import micro_losses

Make = Callable[..., Decoder]
STEPS = 8


def batch_of(step: int) -> Batch:
    """Eight packed rows whose loss masks hold different numbers of tokens; a function of the step."""
    generator = torch.Generator().manual_seed(100 + step)
    ids = torch.randint(0, 48, (8, 16), generator=generator)
    mask = torch.rand(8, 16, generator=generator) < torch.linspace(0.1, 0.9, 8)[:, None]
    positions = torch.cat((torch.arange(6), torch.arange(10))).expand(8, -1)
    return Batch(ids, mask, positions)


class Session:
    """A model, its trainer and what they left on disk."""

    def __init__(
        self,
        folder: Path,
        model: Decoder,
        *,
        every: int = 3,
        rows: int = 8,
        kind: str = "muon",
        on_nonfinite="stop",
        keep_end: bool = False,
    ):
        self.stage, self.model, self.rows = RunDir(folder).stage("pretrain"), model, rows
        open_stage(self.stage, config={}, inputs={}, code="", seed=0, parents=[])
        self.metrics = MetricsLog(self.stage.metrics_path)
        config = OptimConfig(kind=kind, warmup_steps=2, lr=0.003)  # type: ignore[arg-type]
        self.trainer = Trainer(
            model,
            Optimizer(model, config, STEPS),
            stage=self.stage,
            config=TrainConfig.model_validate({"checkpoint_every": every, "on_nonfinite": on_nonfinite}),
            metrics=self.metrics,
            log_every=2,
            keep_end=keep_end,
        )
        self.disturb: dict[int, Callable[[], object]] = {}

    def losses(self, step: int) -> Iterator[LossOutput]:
        self.disturb.get(step, lambda: None)()
        yield from micro_losses(self.model, batch_of(step), self.rows)

    def track_best(self, step: int) -> dict[str, float]:
        """A hook with a state of its own, as the stages' evaluations have."""
        state = self.trainer.state
        state["seen"] = [*state.get("seen", []), step]
        self.trainer.tensors = {"norm": self.model.norm.weight.detach().clone() + self.trainer.tensors.get("norm", 0)}
        return {"val/seen": len(state["seen"])}

    def fit(self) -> "Session":
        try:
            self.trainer.fit(
                STEPS,
                self.losses,
                hooks=[(4, self.track_best)],
                tokens_per_step=128,
                contents=lambda step: [f"file {step}-{row}.py" for row in range(6)],
            )
        finally:
            self.metrics.close()
        return self

    @property
    def rows_logged(self) -> list[dict[str, Any]]:
        clock = ("time", "tokens_per_second")
        return [{k: v for k, v in row.items() if k not in clock} for row in read_metrics(self.stage.metrics_path)]

    @property
    def steps_kept(self) -> list[int]:
        return self.trainer.loop.checkpointer.steps()


def assert_same_weights(first: Decoder, second: Decoder) -> None:
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def assert_same_run(actual: Session, expected: Session) -> None:
    assert_same_weights(actual.model, expected.model)
    assert actual.rows_logged == expected.rows_logged
    assert actual.trainer.state == expected.trainer.state
    assert torch.equal(actual.trainer.tensors["norm"], expected.trainer.tensors["norm"])


@pytest.fixture
def straight(tmp_path: Path, make_decoder: Make) -> Session:
    return Session(tmp_path / "straight", make_decoder()).fit()


def test_what_is_logged(straight: Session) -> None:
    rows = straight.rows_logged
    assert [row["step"] for row in rows] == [1, 2, 4, 6, 8]
    assert all({"loss", "grad_norm", "lr"} <= set(row) for row in rows)
    assert [row.get("val/seen") for row in rows] == [None, None, 1, None, 2]
    assert straight.trainer.state == {"seen": [4, 8]}
    with torch.no_grad():
        fresh = Session(straight.stage.path / "other", type(straight.model)(straight.model.config))
    assert rows[0]["loss"] == pytest.approx(3.9, abs=0.7) and fresh.rows_logged == []


def test_a_last_step_that_is_kept_is_not_done_again(tmp_path: Path, make_decoder: Make, straight: Session) -> None:
    assert STEPS not in straight.steps_kept
    first = Session(tmp_path / "kept", make_decoder(), keep_end=True).fit()
    assert first.steps_kept[-1] == STEPS
    again = Session(tmp_path / "kept", make_decoder(seed=7), keep_end=True)
    again.disturb = {step: lambda: pytest.fail("a step was done again") for step in range(STEPS)}
    again.fit()
    for session in (first, again):
        assert_same_run(session, straight)


# Muon's Newton-Schulz runs in bf16, whose rounding makes much of a difference of 1e-8.
@pytest.mark.parametrize(("kind", "tolerance"), [("adamw", 1e-6), ("muon", 1e-3)])
def test_micro_batches_of_one_row_equal_one_of_eight(
    tmp_path: Path, make_decoder: Make, kind: str, tolerance: float
) -> None:
    one, eight = (Session(tmp_path / str(rows), make_decoder(), rows=rows, kind=kind).fit() for rows in (1, 8))
    for name, tensor in one.model.state_dict().items():
        torch.testing.assert_close(tensor, eight.model.state_dict()[name], atol=tolerance, rtol=0)
    for row, other in zip(one.rows_logged, eight.rows_logged, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], abs=tolerance)


def test_gradients_are_those_of_the_mean_over_all_tokens(make_decoder: Make) -> None:
    model, batch = make_decoder(), batch_of(0)
    whole = torch.nn.functional.cross_entropy(
        model(batch.ids, batch.positions)[:, :-1].flatten(0, 1), batch.ids[:, 1:].flatten(), reduction="none"
    )
    mean = whole[batch.loss_mask[:, 1:].flatten()].mean()
    expected = torch.autograd.grad(mean, list(model.parameters()))
    parts = [(loss.loss_sum.backward(), loss)[1] for loss in micro_losses(model, batch, 3)]
    count = sum(int(part.count) for part in parts)
    assert sum(part.loss_sum.item() for part in parts) / count == pytest.approx(mean.item(), abs=1e-6)
    for parameter, grad in zip(model.parameters(), expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad / count, grad, atol=1e-6, rtol=0)


def test_packing_padding_and_the_order_of_rows_do_not_change_the_step(make_decoder: Make) -> None:
    """Twelve examples in few rows, in one row each, and in the reverse order: one loss, one gradient."""
    generator = torch.Generator().manual_seed(7)
    lengths = torch.randint(4, 17, (12,), generator=generator).tolist()
    pairs = [
        (
            torch.randint(0, 48, (length,), generator=generator).tolist(),
            [index > length // 3 for index in range(length)],
        )
        for length in lengths
    ]
    packed = pack_examples(pairs, 32)
    alone = fill_rows([[index] for index in range(12)], pairs, 24, 0)
    reverse = Batch(packed.ids.flip(0), packed.loss_mask.flip(0), packed.positions.flip(0))
    assert len(packed.ids) < 6 and packed.ids.shape[1] == 32
    found = []
    for batch in (packed, alone, reverse):
        model = make_decoder()
        losses = list(micro_losses(model, batch, 2))
        sum((loss.loss_sum for loss in losses), torch.zeros(())).backward()
        count = sum(int(loss.count) for loss in losses)
        grads = {name: p.grad / count for name, p in model.named_parameters() if p.grad is not None}
        found.append((sum(loss.loss_sum.item() for loss in losses) / count, count, grads))
    for loss, count, grads in found[1:]:
        assert count == found[0][1] and loss == pytest.approx(found[0][0], abs=1e-6)
        for name, expected in found[0][2].items():
            torch.testing.assert_close(grads[name], expected, atol=1e-6, rtol=0)


class Crash(Exception):
    pass


def crash() -> None:
    raise Crash


@pytest.mark.parametrize("at", [1, 3, 5, 7])  # before a checkpoint, right after one, and between
def test_a_run_that_died_between_checkpoints_goes_on_to_the_same_bits(
    tmp_path: Path, make_decoder: Make, straight: Session, at: int
) -> None:
    first = Session(tmp_path / "broken", make_decoder())
    first.disturb[at] = crash
    with pytest.raises(Crash):
        first.fit()
    assert first.steps_kept == list(range(3, at + 1, 3))
    with open(first.stage.metrics_path, "a") as file:
        file.write('{"step": 7, "los')  # cut off within a row
    # Where there is a checkpoint, nothing of the fresh model is left.
    second = Session(tmp_path / "broken", make_decoder(seed=5 if at >= 3 else 0))
    assert_same_run(second.fit(), straight)


def test_only_adapters_train_and_are_kept_and_resume_to_the_same_bits(tmp_path: Path, make_decoder: Make) -> None:
    def session(folder: str, seed: int = 0) -> Session:
        model = make_decoder()
        add_lora(model, LoRAConfig(rank=3), seed, "sft")
        return Session(tmp_path / folder, model)

    base, straight = make_decoder().state_dict(), session("straight").fit()
    weights = straight.model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in base.items())
    factors = weights.keys() - base.keys()
    fresh = session("fresh").model.state_dict()
    assert len(factors) == 28 and not any(torch.equal(weights[name], fresh[name]) for name in factors)
    assert all(parameter.grad is None for parameter in straight.model.parameters())
    (adamw,) = straight.trainer.optimizer.parts  # although Muon was asked for
    assert isinstance(adamw, torch.optim.AdamW)
    assert {key.rpartition("/")[0] for key in straight.trainer.optimizer.state_tensors()} == factors
    assert set(unpack(straight.trainer.snapshot()[0], "model")) == factors

    first = session("broken")
    first.disturb[5] = crash
    with pytest.raises(Crash):
        first.fit()
    assert_same_run(session("broken", seed=5).fit(), straight)


@pytest.mark.skipif(cxx_compiler() is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_that_died_goes_on_to_the_same_bits(tmp_path: Path, make_decoder: Make) -> None:
    def compiled(folder: str, seed: int = 0) -> Session:
        model = make_decoder(seed=seed)
        model.compile_blocks()
        return Session(tmp_path / folder, model)

    straight = compiled("straight").fit()
    first = compiled("broken")
    first.disturb[5] = crash
    with pytest.raises(Crash):
        first.fit()
    torch.compiler.reset()  # as a new process, which compiles anew
    assert_same_run(compiled("broken", seed=5).fit(), straight)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_and_the_run_goes_on_from_it(
    tmp_path: Path, make_decoder: Make, straight: Session, number: signal.Signals
) -> None:
    handler = signal.getsignal(number)
    first = Session(tmp_path / "stopped", make_decoder(), every=100)
    first.disturb[4] = lambda: os.kill(os.getpid(), number)
    with pytest.raises(Interrupted, match="pretrain stopped after step 5 of 8") as caught:
        first.fit()
    assert caught.value.exit_code == 130 and "\n" not in str(caught.value)
    assert signal.getsignal(number) is handler
    assert first.steps_kept == [5]
    assert_same_run(Session(tmp_path / "stopped", make_decoder(seed=5)).fit(), straight)


def test_a_second_ctrl_c_leaves_at_once(tmp_path: Path, make_decoder: Make) -> None:
    session = Session(tmp_path, make_decoder())

    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    session.disturb[4] = twice
    with pytest.raises(KeyboardInterrupt):
        session.fit()
    session.trainer.loop.checkpointer.newest()  # whoever goes on in this process waits for what is being written
    assert session.steps_kept == [3]  # the last regular checkpoint


def test_a_signal_in_the_last_step_loses_nothing(tmp_path: Path, make_decoder: Make, straight: Session) -> None:
    first = Session(tmp_path / "last", make_decoder())
    first.disturb[STEPS - 1] = lambda: os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(Interrupted):
        first.fit()
    assert_same_run(Session(tmp_path / "last", make_decoder(seed=5)).fit(), straight)


def poison(session: Session, at: int, value: float = float("nan")) -> None:
    """From step `at` on, one loss is not what it was; the weights stay sound."""
    losses = session.losses

    def poisoned(step: int) -> Iterator[LossOutput]:
        for loss in losses(step):
            yield LossOutput(loss.loss_sum * (value if step == at else 1), loss.count)

    session.losses = poisoned  # type: ignore[method-assign]


BAD = [
    (float("nan"), "the loss is nan"),
    (float("inf"), "the loss is inf"),
    (1e3, "the loss is .*, far above its level"),
]


@pytest.mark.parametrize(("value", "what"), BAD)
@pytest.mark.parametrize("at", [1, 4])
def test_a_bad_batch_stops_the_run_and_is_named(
    tmp_path: Path, make_decoder: Make, at: int, value: float, what: str
) -> None:
    session = Session(tmp_path, make_decoder())
    poison(session, at, value)
    before: dict[str, torch.Tensor] = {}
    session.disturb[at] = lambda: before.update({k: v.clone() for k, v in session.model.state_dict().items()})
    kept = "last good checkpoint is .*/step-00000003" if at == 4 else "no checkpoint yet"
    with pytest.raises(StageFailed, match=f"{what}.* at step {at + 1}, on file {at}-0.py.*{kept}") as caught:
        session.fit()
    assert caught.value.exit_code == 1 and "\n" not in str(caught.value)
    assert "--pretrain.on_nonfinite skip" in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in session.model.state_dict().items())
    (row,) = session.trainer.loop.faults.rows()
    assert row["step"] == at + 1 and row["documents"] == [f"file {at}-{number}.py" for number in range(6)]
    assert session.steps_kept == [3] * (at == 4)


def test_a_bad_batch_can_be_skipped_and_is_recorded(tmp_path: Path, make_decoder: Make) -> None:
    """Also when it comes twice, because the run was killed after it; and going on from a stop is the same run."""
    straight = Session(tmp_path / "straight", make_decoder(), on_nonfinite="skip")
    poison(straight, 4)
    straight.fit()
    (row,) = [row for row in straight.rows_logged if "skipped" in row]
    assert row == {"step": 5, "skipped": 1.0}
    manifest = read_manifest(straight.stage)
    assert manifest is not None and manifest.warnings == ["batches of 1 steps (5) were skipped; see faults.jsonl"]
    steps = straight.trainer.optimizer.state_tensors()["norm.weight/step"]
    assert steps == STEPS - 1  # one update fewer

    first = Session(tmp_path / "broken", make_decoder(), on_nonfinite="skip")
    poison(first, 4)
    first.disturb[5] = crash
    with pytest.raises(Crash):
        first.fit()
    stopped = Session(tmp_path / "stopped", make_decoder())
    poison(stopped, 4)
    with pytest.raises(StageFailed):
        stopped.fit()
    for folder in ("broken", "stopped"):
        second = Session(tmp_path / folder, make_decoder(seed=5), on_nonfinite="skip")
        poison(second, 4)
        assert_same_run(second.fit(), straight)
        assert second.trainer.loop.faults.rows() == straight.trainer.loop.faults.rows()


def test_a_run_whose_batches_are_all_bad_ends(
    tmp_path: Path, make_decoder: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "MOST_IN_A_ROW", 3)
    session = Session(tmp_path, make_decoder(), every=100, on_nonfinite="skip")
    session.disturb[1] = lambda: session.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(StageFailed, match="at step 5, on file 4-0.py.*The 3 batches before were skipped too"):
        session.fit()


def test_an_unwritable_checkpoint_stops_the_run_at_the_next_step(tmp_path: Path, make_decoder: Make) -> None:
    session = Session(tmp_path, make_decoder())

    def in_the_way() -> None:
        session.stage.checkpoints.write_text("")

    session.disturb[2] = in_the_way
    session.disturb[3] = lambda: session.trainer.loop.checkpointer.newest()  # waits until the write has ended
    with pytest.raises(NotADirectoryError):
        session.fit()
    assert session.rows_logged[-1]["step"] == 4


def test_a_run_killed_outright_goes_on_to_the_same_bits(tmp_path: Path, make_decoder: Make, straight: Session) -> None:
    """kill -9 in the middle of a step, in a process of its own."""
    program = f"""
import os, signal, sys, pathlib
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
from conftest import TINY
import test_trainer as t, torch
from trivium.model import Decoder, ModelConfig
model = Decoder(ModelConfig(**TINY))
model.load_state_dict(torch.load({str(tmp_path / "start.pt")!r}, weights_only=True))
session = t.Session(pathlib.Path({str(tmp_path / "killed")!r}), model)
def strike():
    session.trainer.loop.checkpointer.newest()  # the write of step 3 goes on beside steps 4 and 5: waits for its end
    os.kill(os.getpid(), signal.SIGKILL)
session.disturb[5] = strike
session.fit()
"""
    torch.save(make_decoder().state_dict(), tmp_path / "start.pt")
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=dict(os.environ))
    assert child.returncode == -signal.SIGKILL, child.stderr
    session = Session(tmp_path / "killed", make_decoder(seed=5))
    assert session.steps_kept == [3]
    assert_same_run(session.fit(), straight)
