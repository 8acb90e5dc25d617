"""Runs exported networks: `network` holds the contracts, `open` chooses between the runtimes."""
