"""TRL's trainers on the same models and amounts of work as `plain_rlhf`, set up as fast as they go on a processor.

bf16 autocast over fp32 weights and fused AdamW, no gradient checkpointing, no logs, no files; models that do not learn
have bf16 weights. A turn is a call of `train` for as many updates as it has, and what counts is the time from the first
update's beginning to the last one's end: not the set-up of `train`.
"""

import importlib.util
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

from peers import hugging_face, shape
from plain_rlhf import KL_COEF, LAMBDA, LR, Amounts, autocast, even_share, frozen, prompt_share
from turns import Work

PACKAGES = ("trl", "accelerate", "datasets")
INSTALL = '.venv/bin/pip install -c requirements.lock -e ".[bench]"'


def missing(module: str = "") -> str | None:
    """Why TRL, or a part of it, cannot be measured here, and what to do; None where it can."""
    absent = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if absent:
        return f"{', '.join(absent)} not installed: {INSTALL}"
    if module and importlib.util.find_spec(module) is None:
        return f"this version of trl has no {module}: {INSTALL}"
    return None


def words(vocab_size: int) -> Any:
    """A tokenizer of one word an id, with padding and end outside the models' vocabulary: they are never drawn."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {f"t{index}": index for index in range(vocab_size)} | {"<pad>": vocab_size, "<eos>": vocab_size + 1}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )


def settings(micro_rows: int, rows: int, device: str) -> dict[str, Any]:
    """What all trainers have in common; an update is of `rows` rows, `micro_rows` of them at a time."""
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16"  # the PPO trainer asks for none of its own, whatever `bf16` says
    return {
        "output_dir": tempfile.mkdtemp(prefix="trivium-bench-"),
        "per_device_train_batch_size": micro_rows,
        "gradient_accumulation_steps": rows // micro_rows,
        "learning_rate": LR,
        "bf16": True,
        "use_cpu": device == "cpu",
        "gradient_checkpointing": False,
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_strategy": "no",
    }


def timed(trainer: Any, amount: Callable[[], float]) -> Work:
    """Turns of `trainer.train`, of which the updates count."""
    from transformers import PrinterCallback, TrainerCallback

    class Clock(TrainerCallback):
        began = ended = 0.0

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.began = time.perf_counter()

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 0:
                self.began = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.ended = time.perf_counter()

    clock = Clock()
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(clock)

    def work() -> tuple[float, float]:
        trainer.train()
        return amount(), clock.ended - clock.began

    return work


def dataset(**columns: Any) -> Any:
    """In memory."""
    import datasets  # pyright: ignore[reportMissingImports]

    datasets.disable_progress_bars()
    return datasets.Dataset.from_dict(columns)


def trl_ppo(amounts: Amounts) -> Work:
    """`trl.experimental.ppo`, which clips no gradients. Its sampling is put under autocast: alone it stays in fp32."""
    from trl.experimental.ppo import PPOConfig, PPOTrainer  # pyright: ignore[reportMissingImports]

    config = shape(amounts.size)
    args = PPOConfig(
        **settings(min(amounts.micro_rows, amounts.prompts), amounts.prompts, amounts.device),
        num_mini_batches=1,
        num_ppo_epochs=amounts.epochs,
        response_length=amounts.length,
        local_rollout_forward_batch_size=amounts.prompts,
        temperature=1.0,
        kl_coef=KL_COEF,
        lam=LAMBDA,
        num_sample_generations=0,
        total_episodes=amounts.prompts * 100_000,
    )
    policy = hugging_face(config, "qwen3")
    policy.generate = autocast(amounts.device)(policy.generate)
    trainer = PPOTrainer(
        args,
        words(config.vocab_size),
        policy,
        frozen(hugging_face(config, "qwen3")),
        frozen(hugging_face(config, "qwen3 scorer")),
        dataset(input_ids=amounts.ids(amounts.prompts, 0)),
        hugging_face(config, "qwen3 scorer"),
    )
    trainer.args.num_total_batches = 1  # of a call of `train`; the learning rate's schedule is that of many
    return timed(trainer, lambda: amounts.prompts)


def trl_grpo(amounts: Amounts) -> Work:
    """`GRPOTrainer` with sampling by transformers and without a reference model."""
    from trl import GRPOConfig, GRPOTrainer  # pyright: ignore

    config = shape(amounts.size)
    args = GRPOConfig(
        **settings(min(amounts.micro_rows, amounts.prompts), amounts.prompts, amounts.device),
        num_generations=amounts.group,
        max_completion_length=amounts.length,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        beta=0.0,
        max_steps=1,
    )
    texts = [" ".join(f"t{each}" for each in row) for row in amounts.ids(amounts.prompts, 0)]

    def reward(completion_ids: list[list[int]], **kwargs: Any) -> list[float | None]:
        return [even_share(ids) for ids in completion_ids]

    model, tokenizer = hugging_face(config, "qwen3"), words(config.vocab_size)
    trainer = GRPOTrainer(model, reward, args=args, train_dataset=dataset(prompt=texts), processing_class=tokenizer)
    return timed(trainer, lambda: amounts.prompts)


def trl_reward(amounts: Amounts) -> Work:
    """`RewardTrainer`."""
    from trl import RewardConfig, RewardTrainer  # pyright: ignore

    config = shape(amounts.size)
    args = RewardConfig(
        **settings(min(amounts.micro_rows // 2, amounts.pairs), amounts.pairs, amounts.device),
        max_length=None,
        max_steps=amounts.steps,
    )
    chosen, rejected = amounts.compared()
    trainer = RewardTrainer(
        hugging_face(config, "qwen3 scorer"),
        args=args,
        train_dataset=dataset(chosen_ids=chosen, rejected_ids=rejected),
        processing_class=words(config.vocab_size),
    )
    return timed(trainer, lambda: amounts.steps * amounts.pairs)


def trl_sft(amounts: Amounts, packing: str, micro_rows: int) -> Work:
    """`SFTTrainer` with its packing, loss on responses alone; tokens are counted where batches are made."""
    from trl import SFTConfig, SFTTrainer  # pyright: ignore

    config = shape(amounts.size, max_seq_len=amounts.seq_len)
    args = SFTConfig(
        **settings(min(micro_rows, amounts.rows), amounts.rows, amounts.device),
        max_length=amounts.seq_len,
        packing=True,
        packing_strategy=packing,
        completion_only_loss=True,
        max_steps=amounts.steps,
    )
    documents = [document for row in amounts.documents(8 * amounts.rows) for document in row]
    masks = [[int(at >= prompt_share(each)) for at in range(len(each))] for each in documents]
    trainer = SFTTrainer(
        hugging_face(config, "qwen3"),
        args=args,
        train_dataset=dataset(input_ids=documents, completion_mask=masks),
        processing_class=words(config.vocab_size),
    )
    collate, counts = trainer.data_collator, list[int]()
    passes = amounts.steps * args.gradient_accumulation_steps

    def counted(examples: list[Any]) -> Any:
        counts.append(sum(len(example["input_ids"]) for example in examples))
        return collate(examples)

    def amount() -> float:
        tokens = sum(counts[:passes])  # the loader is a batch ahead
        counts.clear()
        return tokens

    trainer.data_collator = counted
    return timed(trainer, amount)
