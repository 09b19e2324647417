"""sentence-transformers' own `encode` in a process of its own, on demand.

    stdin   a line of JSON: {"texts": [...], "batch_size": 32} or {"texts": ["one"], "times": 50},
            with "has_vectors": true where these are wanted
    stdout  a line when loaded; then for each a line of JSON: {"seconds": of each call, "vectors"}

Usage: python -m scripts.benchmark.embeddings.bare MODEL_FOLDER DTYPE
"""

import json
import os
import sys
import time


def main() -> None:
    import torch
    from sentence_transformers import SentenceTransformer

    folder, dtype = sys.argv[1:]
    # The libraries write to stdout too; the answers go where they cannot.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model = SentenceTransformer(
        folder, device="cpu", local_files_only=True, model_kwargs={"dtype": getattr(torch, dtype)}
    )
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        seconds = []
        for _ in range(asked.get("times", 1)):
            began_s = time.perf_counter()
            vectors = model.encode(asked["texts"], batch_size=asked.get("batch_size", 32))
            seconds.append(time.perf_counter() - began_s)
        answer = {"seconds": seconds}
        if asked.get("has_vectors"):
            answer["vectors"] = vectors.tolist()
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
