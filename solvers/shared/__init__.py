"""Pieces that several methods use: likelihoods, ancestral steps, levels, optimisers, particles."""
