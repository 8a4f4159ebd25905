"""A benchmark of inverse-problem solvers with diffusion priors."""
