"""One contrastive step, ours and PyTorch's: 64 sentences of 32 tokens under two dropout masks.

    python benches/train_step.py BASE_MODEL_DIRECTORY [STEPS [ROUNDS]]     (make bench-train sets it up)

BASE_MODEL_DIRECTORY is what `distilface-train import` wrote; PyTorch loads the same directory. Both
run on all cores, by turns, each in a process of its own: forward, loss, backward, clipping and AdamW
over all weights. Reported are the median wall time of a step, and the largest resident memory.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

BATCH, TOKENS = 64, 32
cores = len(os.sched_getaffinity(0))


def pytorch(base, steps, autocast):
    import torch
    from transformers import DistilBertModel

    torch.set_num_threads(cores)
    model = DistilBertModel.from_pretrained(base, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    ids = torch.randint(1000, 20000, (2 * BATCH, TOKENS))
    mask = torch.ones_like(ids)
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            z = model(input_ids=ids, attention_mask=mask).last_hidden_state.float().mean(1)
        z = torch.nn.functional.normalize(z, dim=-1)
        scores = z[:BATCH] @ z[BATCH:].T / 0.05
        loss = torch.nn.functional.cross_entropy(scores, torch.arange(BATCH))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        times.append(time.perf_counter() - start)
    print(json.dumps({"times": times[1:], "version": torch.__version__}))


def run(command):
    """Output and largest resident memory, in MB, of a process."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{command[0]} ended with status {process.returncode}")
    return output, usage.ru_maxrss / 1024


def theirs(base, steps, precision):
    output, memory = run([sys.executable, __file__, base, str(steps), "--peer", precision])
    result = json.loads(output.splitlines()[-1])
    return result["times"], memory, result["version"]


def ours(base, steps, precision, tool="target/release/distilface-train"):
    with tempfile.TemporaryDirectory() as place:
        with open(f"{place}/texts.txt", "w") as f:
            # 29 words, a number and the two marks: 32 tokens.
            for i in range(2000):
                words = (["the", "of", "and", "in"][i >> 2 * (j % 5) & 3] for j in range(29))
                f.write(" ".join(words) + f" {i % 10}\n")
        with open(f"{place}/recipe.toml", "w") as f:
            f.write(f"""
base = "{base}"
steps = {steps}
max_tokens = {TOKENS}
threads = {cores}
precision = "{precision}"
checkpoint_every = 1000000
[[source]]
path = "texts.txt"
kind = "sentences"
batch = {BATCH}
""")
        command = [tool, "train", "--config", f"{place}/recipe.toml", "--out", f"{place}/out"]
        _, memory = run(command)
        lines = [json.loads(line) for line in open(f"{place}/out.run/metrics.jsonl")]
        tokens = lines[-1]["tokens"]
        assert tokens == 2 * BATCH * TOKENS, f"a step of {tokens} tokens"
        at = [line["seconds"] for line in lines]
        return [b - a for a, b in zip(at, at[1:])], memory


def median(values):
    return sorted(values)[len(values) // 2]


def main():
    base, steps = os.path.abspath(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 8
    if "--peer" in sys.argv:
        return pytorch(base, steps, sys.argv[-1] == "bf16")
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 2
    found = {}
    for _ in range(rounds):
        for precision in ("bf16", "f32"):
            times, memory, version = theirs(base, steps, precision)
            found.setdefault(("PyTorch", precision), []).append((times, memory))
            found.setdefault(("ours", precision), []).append(ours(base, steps, precision))
    print(f"torch {version}, {cores} threads, a step of {BATCH} x {TOKENS} tokens under two masks", flush=True)
    result = {}
    for (who, precision), runs in found.items():
        seconds = median([x for times, _ in runs for x in times])
        memory = max(memory for _, memory in runs)
        result[who, precision] = seconds, memory
        print(f"{who:8} {precision:5} {seconds * 1000:7.0f} ms a step {memory:6.0f} MB at most")
    for precision in ("bf16", "f32"):
        (ask, most), (got, memory) = result["PyTorch", precision], result["ours", precision]
        verdict = "ok" if got <= ask else "short"
        print(f"target train-step-{precision} got {ask / got:.2f} asked 1.00 {verdict}")
        verdict = "ok" if memory <= most else "short"
        print(f"target train-memory-{precision} got {memory / most:.2f} asked 1.00 {verdict}")


main()
