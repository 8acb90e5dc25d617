"""Runs exported networks: `network` holds the contracts, two modules are one runtime each, `open` chooses between them."""
