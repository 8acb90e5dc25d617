"""Weakly supervised segmentation: networks, losses, dense CRF, region growing. Importing this imports no torch."""
