"""Runs exported networks: `network` holds the contract and opens a file, the other modules are one runtime each."""
