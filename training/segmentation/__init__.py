"""Segmenters from image tags and masks of web videos: data, networks, losses, evaluation. Imports no torch."""
