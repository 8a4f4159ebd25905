"""The executors that a configuration names: ``bench.executors.Serial`` and ``.RayActors``."""

from posterior_bench.bench.engine.ray_actors import RayActors
from posterior_bench.bench.engine.serial import Serial

__all__ = ["RayActors", "Serial"]
