"""What runs on a gateway: supervisor, agent, trainer, courier and the SuperNode wrapper."""
