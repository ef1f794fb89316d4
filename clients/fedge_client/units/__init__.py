"""systemd units and a sample `gateway.toml`, filled in by `fedge_client.unit_files`."""
