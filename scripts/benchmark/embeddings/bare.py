"""Runs sentence-transformers' own `encode` in its own process, on request.

    stdin   a line of JSON: {"texts": [...], "batch_size": 32} or {"texts": ["one"], "times": 50},
            with "has_vectors": true if the vectors are needed
    stdout  a line when loaded; then a line of JSON for each: {"seconds": of each call, "vectors"}

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
    # The libraries print to stdout too, so the responses have their own descriptor.
    responses = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model = SentenceTransformer(
        folder, device="cpu", local_files_only=True, model_kwargs={"dtype": getattr(torch, dtype)}
    )
    print("ready", file=responses, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        seconds = []
        for _ in range(request.get("times", 1)):
            began_s = time.perf_counter()
            vectors = model.encode(request["texts"], batch_size=request.get("batch_size", 32))
            seconds.append(time.perf_counter() - began_s)
        response = {"seconds": seconds}
        if request.get("has_vectors"):
            response["vectors"] = vectors.tolist()
        print(json.dumps(response), file=responses, flush=True)


if __name__ == "__main__":
    main()
