"""Prints the `stats()` of every replica of some applications as JSON, ten times per second.

A handle would choose a replica, and prefer idle ones; so this calls the replicas' actors.
"""

import json
import pickle
import sys
import time

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve._private.common import RequestMetadata
from ray.serve.context import _get_global_client


def main() -> None:
    port, *applications = sys.argv[1:]
    ray.init(f"127.0.0.1:{port}", namespace="serve", log_to_driver=False, logging_level="CRITICAL")
    serve.status()  # connects
    while True:
        print(json.dumps({name: count(name) for name in applications}), flush=True)
        time.sleep(0.1)


def count(application: str) -> list[dict[str, int]]:
    """The counts of the replicas that answer in time."""
    controller = _get_global_client()._controller
    details = ray.get(controller.get_serve_instance_details.remote())
    replicas = [
        replica["actor_name"]
        for deployment in details["applications"][application]["deployments"].values()
        for replica in deployment["replicas"]
        if replica["state"] in ("RUNNING", "STOPPING")
    ]
    metadata = pickle.dumps(RequestMetadata("stats", "stats", call_method="stats"))
    asked = []
    for name in replicas:
        try:
            asked.append(ray.get_actor(name, namespace="serve").handle_request.remote(metadata))
        except ValueError:  # the replica has just died
            continue
    answered = ray.wait(asked, num_returns=len(asked), timeout=0.3)[0] if asked else []
    answers = []
    for answer in answered:
        try:
            answers.append(ray.get(answer))
        except RayError:  # the replica has died since
            continue
    return answers


if __name__ == "__main__":
    main()
