"""Headers by which a client would give orders to Ray Serve (ray/serve/_private/proxy.py)."""

CONTROL_HEADERS = (
    "serve_multiplexed_model_id",
    "serve-multiplexed-model-id",
    "x-session-id",
    "x-request-timeout-seconds",
    "x-request-disconnect-disabled",
)
