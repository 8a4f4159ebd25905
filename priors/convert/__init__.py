"""Published checkpoints to the one format priors are kept in; one family per file."""
