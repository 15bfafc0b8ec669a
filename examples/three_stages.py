"""The three stages on one page: pretraining, supervised fine-tuning, RLHF. About a minute on two CPU cores."""

import sys
import sysconfig
from pathlib import Path

import trivium as tv

seed, rl_steps = 0, 4
folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/three_stages")

# Real text and code: some of the running Python's own standard library.
stdlib = Path(sysconfig.get_paths()["stdlib"])
texts = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(stdlib.glob("*.py"))[:60]]
corpus = {"stdlib": texts}
tasks = tv.generate_tasks(1000, seed=seed)
sft_dataset = [
    ([task.prompt for task in tasks[at : at + 50]], [task.solution for task in tasks[at : at + 50]])
    for at in range(0, len(tasks), 50)
]

# Stage 1: pretraining
tokenizer = tv.Tokenizer.train(texts, vocab_size=1024)
model = tv.TransformerModel(tv.ModelConfig(vocab_size=tokenizer.vocab_size, n_layers=4, d_model=128), tokenizer)
for step, batch in enumerate(tv.batches(corpus, tokenizer, batch_size=16, seq_len=128, seed=seed, steps=20)):
    tokens = tv.tokenize(batch, tokenizer)
    loss = model.loss(tokens)
    model.update(loss)
    print(f"pretrain {step}: loss {loss.item():.3f}")
tv.save_weights(model, folder / "M0")

# Stage 2: supervised fine-tuning (teacher forcing: only the response carries loss)
model = tv.load_weights(folder / "M0")
for prompts, solutions in sft_dataset:
    tokens = tv.tokenize(prompts, model.tokenizer, responses=solutions)
    figures = model.update(model.loss(tokens))
    print(f"sft: loss {figures['loss']:.3f}")
tv.save_weights(model, folder / "M1")

# Preferences: people compare answers; here a stand-in prefers the true solution to what M1 wrote.
prompts = [task.prompt for task in tasks[:64]]
answers = model.generate(prompts, max_new_tokens=32, seed=seed)
preferences = [
    {"prompt": task.prompt, "chosen": task.solution, "rejected": answer.text}
    for task, answer in zip(tasks, answers, strict=False)
    if answer.text.strip() and answer.text != task.solution
]

# Stage 3: RLHF
reward_model = tv.RewardModel.train(folder / "M1", preferences)
policy = tv.load_weights(folder / "M1")
for step in range(rl_steps):
    prompts = tv.sample_prompts(tasks, n=32, seed=seed, step=step)
    responses = policy.generate(prompts, max_new_tokens=32, temperature=1.0, seed=step)
    rewards = reward_model.batch_evaluate(prompts, responses)
    policy = tv.ppo_update(policy, prompts, responses, rewards)
    print(f"ppo {step}: reward {rewards.mean():.3f}, KL to M1 {policy.last_stats['kl/sequence']:.4f}")
tv.save_weights(policy, folder / "M2")
