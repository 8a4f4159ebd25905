"""A solver for posterior-bench, as a package of its own."""
