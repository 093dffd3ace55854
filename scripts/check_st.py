"""Whether sentence-transformers loads what distilface-train writes, and gives the same vectors.

For every pooling, and for one that weighs its tokens: all-MiniLM-L6-v2 imported under it, loaded unchanged by
sentence-transformers, and embedded by both in f32. Ends with a `target` line for each; exits with 1 where a cosine is below 0.99999.
"""

import json
import subprocess
import sys
import tempfile

import numpy as np
from sentence_transformers import SentenceTransformer

TOOL, SOURCE, ASKED = "target/release/distilface-train", sys.argv[1], 0.99999
TEXTS = [
    "A man is playing a guitar.",
    "Ein Bär — naïve façade",
    "hi",
    "12.5% of GDP (in 1999)",
    "two dogs run",
    "東京タワー is tall",
    "The quick brown fox jumps over the lazy dog. " * 12,
    "word " * 400,
]
short = False
with tempfile.TemporaryDirectory() as place:
    for pooling in ("cls", "mean", "mean-first-last", "mean-last2", "mean-last4", "weighted"):
        model = f"{place}/{pooling}"
        # The weighted one is made of the plain mean, from the frequencies in the texts below.
        command = [TOOL, "import", SOURCE, "--out", model, "--pooling", pooling, "--max-tokens", "256"]
        if pooling == "weighted":
            with open(f"{place}/texts.txt", "w") as f:
                f.writelines(text.strip() + "\n" for text in TEXTS)
            command = [TOOL, "average", f"{place}/mean=1", "--out", model, "--first-state", "0.5"]
            command += ["--sif", "0.0003", "--texts", f"{place}/texts.txt", "--full-weights"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        theirs = SentenceTransformer(model, device="cpu").encode(TEXTS, normalize_embeddings=True)
        ours = subprocess.run(
            [TOOL, "embed", model, "--precision", "f32"],
            input="".join(text.strip() + "\n" for text in TEXTS),
            capture_output=True,
            text=True,
            check=True,
        )
        ours = np.array([json.loads(line) for line in ours.stdout.splitlines()])
        ours /= np.linalg.norm(ours, axis=1, keepdims=True)
        least = float((ours * theirs).sum(1).min())
        short |= least < ASKED
        verdict = "ok" if least >= ASKED else "short"
        print(f"target sentence-transformers-{pooling} got {least:.6f} asked {ASKED} {verdict}", flush=True)
sys.exit(short)
