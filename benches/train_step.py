"""One contrastive step, ours and PyTorch's: 64 sentences of 32 tokens under two dropout masks.

    pip install torch transformers
    python benches/train_step.py BASE_MODEL_DIRECTORY [STEPS]

BASE_MODEL_DIRECTORY is what `distilface-train import` wrote; PyTorch loads the same directory. Both
run on one thread; what is compared is CPU time a step (forward, loss, backward, AdamW over all
weights), because that holds on a machine that others use. Ours is the difference of two runs of
different length, over their difference in steps.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time

os.environ["OMP_NUM_THREADS"] = "1"
import torch
from transformers import DistilBertModel

base, steps = os.path.abspath(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 8
torch.set_num_threads(1)


def pytorch(autocast):
    model = DistilBertModel.from_pretrained(base, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    ids = torch.randint(1000, 20000, (128, 32))
    mask = torch.ones_like(ids)
    times = []
    for _ in range(steps):
        start = time.process_time()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            z = model(input_ids=ids, attention_mask=mask).last_hidden_state.float().mean(1)
        z = torch.nn.functional.normalize(z, dim=-1)
        scores = z[:64] @ z[64:].T / 0.05
        loss = torch.nn.functional.cross_entropy(scores, torch.arange(64))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        times.append(time.process_time() - start)
    return sorted(times)[len(times) // 2]


def ours(precision, tool="target/release/distilface-train"):
    with tempfile.TemporaryDirectory() as place:
        with open(f"{place}/texts.txt", "w") as f:
            for i in range(2000):
                f.write(" ".join(["the", "of", "and", "in"][hash((i, j)) % 4] for j in range(29)) + f" {i % 10}\n")
        recipe = f"""
base = "{base}"
steps = %d
max_tokens = 32
threads = 1
precision = "{precision}"
checkpoint_every = 1000000
[[source]]
path = "texts.txt"
kind = "sentences"
batch = 64
"""
        spent = []
        for count in (2, 2 + steps):
            with open(f"{place}/{count}.toml", "w") as f:
                f.write(recipe % count)
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            command = [tool, "train", "--config", f"{place}/{count}.toml", "--out", f"{place}/{count}"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return (spent[1] - spent[0]) / steps


print(f"torch {torch.__version__}, one thread, CPU seconds a step of 64 x 32 tokens, two passes", flush=True)
for name, precision, autocast in [("bf16", "bf16", True), ("f32", "f32", False)]:
    ask, got = pytorch(autocast), ours(precision)
    print(f"{name}: PyTorch {ask:.3f}, ours {got:.3f}", flush=True)
    print(f"target train-step-{name} got {ask / got:.2f} asked 1.00 {'ok' if got <= ask else 'short'}")
