"""What runs the loop at the centre: decisions from stored facts, each idempotent.

`monitor`, `retrain`, `recompile` and `publish` hold the logic as plain functions over
ports; `flows` wraps them for Prefect, which is imported nowhere else but in `bus` and
`deploy`.
"""
