"""What a user brings: schema, model and public data; `digits` and `table` are built in."""
