"""Training runs: loop, configuration, checkpoints, optimizers."""
