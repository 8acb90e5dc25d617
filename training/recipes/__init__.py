"""Recipes: whole experiments, a file each, that run from data to a table beside the paper's figures."""
