"""Pieces that several methods use: likelihoods, ancestral steps, orders of levels."""
