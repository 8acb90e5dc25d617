"""Training of segmenters on image tags and on masks of web videos: data, networks, losses, evaluation. Imports no torch."""
