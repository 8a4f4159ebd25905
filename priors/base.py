"""The prior: one primitive, ``denoise``, over a process, a network and a latent space."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from posterior_bench.priors import grids
from posterior_bench.priors.compiled import CompiledBlocks, CudaGraphs, NetworkCall
from posterior_bench.priors.execution import Execution
from posterior_bench.priors.latents import Latent
from posterior_bench.priors.low_precision import Kept, cast_weights, restore_weights
from posterior_bench.priors.nets import Contexts, Inpainter, UNet2D
from posterior_bench.priors.offload import HostCopy
from posterior_bench.priors.process import CLEAN, Level, Process, Rescaled, as_factor
from posterior_bench.priors.saving import demand_effect, save_memory

Shape = tuple[int, int, int]


UNITS = {"nfe": "network evaluations", "passes": "network passes (forward + backward)"}
"""The counts that a limit of a :class:`Meter` may bound, with their names in messages."""


class BudgetExceeded(RuntimeError):
    """Raised when a solver uses more of the network than its budget allows."""


@dataclass
class Meter:
    """Count the evaluations of a prior, in samples (rows times calls).

    Parameters
    ----------
    nfe : int, default 0
        Forward passes of the network; a guided one counts 2.
    nge : int, default 0
        Backward passes of the network. Every gradient taken through a forward pass counts 1 (a
        guided one 2).
    decode, encode : int, default 0
        Calls of the autoencoder.
    decode_grad, encode_grad : int, default 0
        Backward passes of the autoencoder. They are no passes of the network.
    limit : float, default inf
        Largest number of evaluations that ``unit`` may count.
    watch : Callable or None, default None
        Function without arguments that is called before every evaluation. It may raise an exception
        to stop a running solver.
    unit : str, default 'nfe'
        What ``limit`` bounds: ``nfe``, or ``passes``, the sum of ``nfe`` and ``nge``.

    Notes
    -----
    A gradient counts 1 also where several forward passes are chained, or where one graph is used
    again. A gradient of a gradient counts 1 more, for its own pass through the network, and so does
    a forward-mode tangent (jvp). The passes that checkpointing computes again do not count.
    Gradients batched by ``is_grads_batched`` count as one, because torch does not tell how many
    there are.
    """

    nfe: int = 0
    nge: int = 0
    decode: int = 0
    decode_grad: int = 0
    encode: int = 0
    encode_grad: int = 0
    limit: float = field(default=math.inf, repr=False)
    watch: Callable[[], None] | None = field(default=None, repr=False)
    unit: str = field(default="nfe", repr=False)

    @property
    def passes(self) -> int:
        """Forward and backward passes of the network."""
        return self.nfe + self.nge

    @property
    def spent(self) -> int:
        """The count that ``limit`` bounds."""
        return self.nfe if self.unit == "nfe" else self.passes

    def add(self, name: str, count: int) -> None:
        """Add evaluations.

        Parameters
        ----------
        name : str
            The count: ``nfe``, ``nge``, ``decode``, ``decode_grad``, ``encode`` or ``encode_grad``.
        count : int
            Number of rows.

        Raises
        ------
        BudgetExceeded
            If the count that ``limit`` bounds is now above it.
        """
        if self.watch is not None:
            self.watch()
        setattr(self, name, getattr(self, name) + count)
        if self.spent > self.limit:
            raise BudgetExceeded(
                f"the solver used {self.spent} {UNITS[self.unit]}; its budget is {self.limit:.0f}"
            )

    def counts(self) -> dict[str, int]:
        """Return the six counts by name."""
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in ("limit", "watch", "unit")
        }


class _Backward(torch.autograd.Function):
    """The identity; its backward pass counts one gradient evaluation per row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, meter: Meter, name: str, count: int) -> Tensor:
        ctx.meter, ctx.name, ctx.count = meter, name, count
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        ctx.meter.add(ctx.name, ctx.count)
        return grad, None, None, None


class _Entered(torch.autograd.Function):
    """The identity on a state; counts when a second derivative is taken through the state.

    A second derivative enters the graph of the first one here, whatever function takes it. The
    counter at the output would miss it where the loss is linear.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, meter: Meter, name: str, count: int) -> Tensor:
        ctx.counter = (meter, name, count)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _Backward.apply(grad, *ctx.counter) if grad.requires_grad else grad, None, None, None


@dataclass(frozen=True)
class Condition:
    """Conditioning of a batch: tensors per row, and the values that mean 'none'.

    Parameters
    ----------
    values : Mapping[str, Tensor]
        What the network reads, by name; the first axis of every tensor is ``N``.
    null : Mapping[str, Tensor] or None, default None
        Values of the same names and shapes that the network was trained to read as 'no condition'.
        None means that the network has no unconditional branch; then a guidance other than 1 raises
        ValueError.
    """

    values: Mapping[str, Tensor]
    null: Mapping[str, Tensor] | None = None

    def map(self, f: Callable[[Tensor], Tensor]) -> Condition:
        """Apply a function to every tensor.

        Parameters
        ----------
        f : Callable[[Tensor], Tensor]
            The function, for example a move to a device.

        Returns
        -------
        Condition
            A new condition.
        """
        null = None if self.null is None else {k: f(v) for k, v in self.null.items()}
        return Condition({k: f(v) for k, v in self.values.items()}, null)

    def repeat(self, n: int) -> Condition:
        """Repeat every row ``n`` times in succession.

        Parameters
        ----------
        n : int
            How often each row is repeated.

        Returns
        -------
        Condition
            A new condition with ``N * n`` rows.
        """
        return self.map(lambda v: v.repeat_interleave(n, 0))


@runtime_checkable
class Drawable(Protocol):
    """A prior whose law is known, so that images can be drawn from it without a network."""

    def sample(self, uniform: Tensor, normal: Tensor) -> Tensor:
        """Draw images.

        Parameters
        ----------
        uniform : Tensor
            Uniform numbers ``(N,)`` in [0, 1).
        normal : Tensor
            Standard-normal numbers ``(N, C, H, W)``.

        Returns
        -------
        Tensor
            Images ``(N, C, H, W)`` in the dtype of ``normal``.
        """


class Prior:
    """A frozen diffusion prior: a process, a network and, for a latent prior, an autoencoder.

    The one primitive is :meth:`denoise`. A prior with a network needs no subclass; a closed-form
    prior subclasses ``Prior``, passes ``net=None`` and overrides :meth:`denoise`.

    Parameters
    ----------
    process : Process
        Noise process that the network was trained with.
    net : nn.Module or None
        Adapter from :mod:`priors.nets`, called as ``net(x, t, values)``; it is frozen. None for a
        closed-form prior.
    shape : tuple[int, int, int]
        Shape ``(C, H, W)`` of an image.
    parameterization : str, default 'edm'
        Output of the network: ``eps``, ``x0``, ``v``, ``flow``, or ``edm`` (``F`` in Karras et al.
        2022, Eq. 7).
    sigma_data : float, default 0.5
        Standard deviation of the data, for the scalings of ``edm`` and of consistency models.
    num_classes : int, default 0
        Number of labels of a class-conditional prior; 0 without labels. The labels of a text prior
        number its prompts.
    null_label : int or None, default None
        The label that means 'none'; None if there is no such label, and then no guidance.
    latent : Latent or None, default None
        Autoencoder of a latent prior, whose network denoises states of ``latent.shape(shape)``.
        None for a prior in pixels.
    learned_var : bool, default False
        Whether the network outputs a variance behind its ``C`` channels; :meth:`denoise` drops it.
    timestep_scaling : float or None, default None
        For a consistency model: factor of the time in its boundary condition. Then :meth:`denoise`
        returns the end of the trajectory through ``z``, one possible clean state, and not the mean
        of all. None for a diffusion model.

    Attributes
    ----------
    image_shape, latent_shape : tuple[int, int, int]
        Shape of an image and of the state that the network denoises; equal for a prior in pixels.
    class_names : tuple[str, ...]
        Name, or prompt, of every label; empty where they are not known.
    device : torch.device
        Where the networks are; the CPU at first.
    meter : Meter
        Counts of all evaluations.
    execution : Execution
        How the network is run; see :meth:`run_as`.

    Notes
    -----
    Images are float32 ``(N, C, H, W)`` in [-1, 1]. Nothing is clipped, and no method uses a global
    random generator. An override of :meth:`denoise` must be differentiable in ``z``, and must
    count: it adds to the meter (``self.meter.add("nfe", len(z))``), so that budgets hold for it
    too.

    Examples
    --------
    A closed-form prior for images of independent standard-normal pixels:

    >>> from posterior_bench.priors.process import VE
    >>> class White(Prior):
    ...     def denoise(self, z, level, cond=None, guidance=1.0):
    ...         self.meter.add("nfe", len(z))
    ...         return level.alpha / (level.alpha**2 + level.sigma**2) * z
    >>> prior = White(VE(), None, (1, 1, 2))
    >>> prior.denoise(torch.ones(1, 1, 1, 2), prior.level(1.0))
    tensor([[[[0.5000, 0.5000]]]])
    >>> prior.meter.nfe
    1
    """

    def __init__(
        self,
        process: Process,
        net: nn.Module | None,
        shape: Shape,
        parameterization: str = "edm",
        sigma_data: float = 0.5,
        num_classes: int = 0,
        null_label: int | None = None,
        latent: Latent | None = None,
        learned_var: bool = False,
        timestep_scaling: float | None = None,
    ):
        self.process, self.net, self.latent = process, net, latent
        self.image_shape = shape
        self.latent_shape = shape if latent is None else latent.shape(shape)
        self.parameterization, self.sigma_data = parameterization, sigma_data
        self.num_classes, self.null_label, self.learned_var = num_classes, null_label, learned_var
        self.timestep_scaling = timestep_scaling
        self.class_names: tuple[str, ...] = ()
        self.device = torch.device("cpu")
        self.meter = Meter()
        self.execution = Execution()
        self._lent: HostCopy | None = None
        self.network_call: NetworkCall | None = None
        self._blocks: CompiledBlocks | None = None
        self._float32: Kept = {}
        for module in (net, latent):
            if module is not None:
                module.eval().requires_grad_(False)

    @property
    def is_latent(self) -> bool:
        """Whether the network denoises latents and not images."""
        return self.latent is not None

    @property
    def caps(self) -> frozenset[str]:
        """Capabilities that solvers may need.

        - ``pixel`` or ``latent``: what the network denoises.
        - ``grad``: an image has a gradient in the state it was decoded from.
        - ``label``: the prior takes labels or prompts.
        - ``guidance``: it has a null label, so guidance works.
        - ``features``: hooks can read features inside a U-Net.
        - ``inpaint``: the network reads the mask and the measurement.
        - ``flow``: the state is that of a flow, ``z = (1 - u) x0 + u eps``.
        - ``prompt_grad``: it reads prompts, and :meth:`denoise` has a gradient in their embeddings
          (:meth:`embedded`).

        Subclasses may add their own: ``exact`` of :class:`MixturePrior`, ``increments`` of
        :class:`LevyPrior`.
        """
        caps = {"latent" if self.is_latent else "pixel"}
        if self.latent is None or self.latent.differentiable:
            caps.add("grad")
        if self.num_classes:
            caps.add("label")
        if self.null_label is not None:
            caps.add("guidance")
        # hooks do not run in a compiled network, and would run twice under checkpointing
        if (
            isinstance(self.net, UNet2D)
            and not self.execution.compile
            and self.execution.checkpointing == "none"
        ):
            caps.add("features")
        if isinstance(self.net, Inpainter):
            caps.add("inpaint")
        if self.process.kind == "flow":
            caps.add("flow")
        if self.reads_text:
            caps.add("prompt_grad")
        return frozenset(caps)

    def to(self, device: torch.device | str) -> Prior:
        """Move the networks to a device; levels stay float64 scalars on the host.

        Parameters
        ----------
        device : torch.device or str
            Where the networks go.

        Returns
        -------
        Prior
            This prior.
        """
        self.device = torch.device(device)
        for module in (self.net, self.latent):
            if module is not None:
                module.to(self.device)
        if isinstance(self.network_call, CudaGraphs):
            self.network_call.begin()
        return self

    def run_as(self, execution: Execution) -> Prior:
        """Choose how the network is run from now on; results and counts keep their meaning.

        A worker calls it before every chunk: the forms of calls that may be compiled are counted
        from here on.

        Parameters
        ----------
        execution : Execution
            Precision, memory layout, compilation and checkpointing.

        Returns
        -------
        Prior
            This prior.

        Raises
        ------
        ValueError
            If a setting is not the default and the prior has no network, or none that it fits.
        """
        if execution == self.execution:
            if self._blocks is not None:
                self._blocks.begin()
            if isinstance(self.network_call, CudaGraphs):
                self.network_call.begin()
            return self
        if self.net is None:
            changed = ", ".join(f"{key}={value}" for key, value in execution.changed.items())
            raise ValueError(
                f"{changed}: this prior is in closed form and runs no network; leave it out"
            )
        demand_effect(execution, self.net, self.latent)
        if self._blocks is not None:
            self._blocks.remove()
        restore_weights(self._float32)
        save_memory(execution, self.net, self.latent)
        layout = torch.channels_last if execution.channels_last else torch.contiguous_format
        self.net.to(memory_format=layout)  # type: ignore[call-overload]  # torch's stubs know no layout alone
        self._float32 = cast_weights(self.net) if execution.bf16 else {}
        self._blocks = CompiledBlocks(self.net) if execution.compile else None
        self.network_call = None if self._blocks is None else CudaGraphs(self._blocks, self.net)
        self.execution = execution
        return self

    @property
    def bf16_weights(self) -> frozenset[str]:
        """Names of the network's weights that are held in bf16."""
        if self.net is None:
            return frozenset()
        return frozenset(k for k, weight in self.net.named_parameters() if weight in self._float32)

    # -- levels ------------------------------------------------------------------------------------

    def level(self, ratio: float) -> Level:
        """Return the level with ``sigma / alpha = ratio``.

        Parameters
        ----------
        ratio : float
            Noise level in VE coordinates, above 0. A ratio outside the range of the network is
            moved to its nearer end.

        Returns
        -------
        Level
            The level, in the coordinates of this prior.
        """
        return self.process.level(ratio)

    def level_at_index(self, index: float) -> Level:
        """Return the level at a native index of the checkpoint.

        Parameters
        ----------
        index : float
            A training step (VP) or ``1000 t`` (flow); see :meth:`Process.level_at_index`.

        Returns
        -------
        Level
            The level, in the coordinates of this prior.

        Raises
        ------
        ValueError
            If the index is out of range, or the checkpoint has no native index (VE).
        """
        return self.process.level_at_index(index)

    def level_at_time(self, time: float) -> Level:
        """Return the level that a flow has at a time.

        Parameters
        ----------
        time : float
            ``u = sigma / (alpha + sigma)``, above 0 and at most 1. A time outside the range of the
            network is moved to its nearer end.

        Returns
        -------
        Level
            The level, in the coordinates of this prior.
        """
        return self.process.level(time / (1 - time) if time < 1 else math.inf)

    def grid(
        self,
        n: int,
        kind: str = "native",
        start: Level | None = None,
        end: Level | None = None,
        rho: float = 7.0,
    ) -> list[Level]:
        """Return the levels of a chain of ``n`` steps, noisiest first.

        Parameters
        ----------
        n : int
            Number of steps, at least 1.
        kind : str, default 'native'
            How the levels are spaced.

            - ``native``: as the checkpoint was trained: karras for VE, index for VP, flow for
              flows.
            - ``karras``: uniform in ``(sigma / alpha)^(1 / rho)`` (Karras et al. 2022, Eq. 5).
            - ``logsnr``: uniform in ``ln(sigma / alpha)``.
            - ``index``: uniform in the native index, rounded: the respaced grid of
              guided-diffusion, for every number of steps.
            - ``flow``: uniform in ``u = sigma / (alpha + sigma)``, down to the cleanest level of
              the network.
            - ``uniform_time``: ``u = (1 - k / n) u_start``: steps of one length in ``u`` down to 0,
              so the last network call is at ``u_start / n`` (the loops of PnP-Flow, FLOWER and
              OT-ODE). ``u_start`` is 1 without a start, whatever the process; levels that the
              network does not know are moved to the nearest one that it does. It takes no end.
            - ``leading``: every ``T / n``-th of ``T`` training steps, down to index 0, then clean
              (the loops of DDRM, DDNM, RED-diff).
            - ``leading_one``: the same one index higher; the last level is index 0, not clean (the
              loops on latent-diffusion: PSLD, ReSample).
            - ``quad``: squares of ``T - index`` are uniform, so steps are dense at the clean end
              (the loop of DiffPIR).
        start : Level or None, default None
            The first level; None takes the noisiest level of the network. The kinds that count
            training steps start where they do: a cleaner start is refused.
        end : Level or None, default None
            The last level. None ends with :data:`CLEAN`, after the cleanest level of the network,
            so that ``n`` steps are ``n`` calls of the network. ``uniform_time`` and the kinds that
            count training steps take no end.
        rho : float, default 7.0
            Exponent of ``karras``.

        Returns
        -------
        list[Level]
            ``n + 1`` levels.

        Raises
        ------
        ValueError
            If ``n`` is below 1, ``kind`` is unknown, the prior has no native index (``index``) or
            no training steps (``leading``, ``leading_one``, ``quad``), ``n`` does not suit their
            number, or the start is pure noise (``karras``, ``logsnr``).

        Examples
        --------
        >>> from posterior_bench.priors.mixtures import g2
        >>> [round(level.sigma, 3) for level in g2().grid(3)]
        [80.0, 2.515, 0.002, 0.0]
        """
        if n < 1:
            raise ValueError(f"a grid needs at least 1 step, got {n}")
        top = start if start is not None else self.process.level(self.process.ratio_max)
        bottom = end if end is not None else self.process.level(self.process.ratio_min)
        count = n + 1 if end is not None else n
        if kind == "native":
            kind = {"ve": "karras", "vp": "index", "flow": "flow"}[self.process.trained_kind]
        if kind in grids.RELEASED:
            return self._training_steps(kind, n, start, end)
        if kind == "uniform_time":
            return self._uniform_time(n, start, end)
        levels = self._levels(kind, top, bottom, count, rho)
        return levels if end is not None else [*levels, CLEAN]

    def _levels(self, kind: str, top: Level, bottom: Level, count: int, rho: float) -> list[Level]:
        """Return ``count`` levels from ``top`` down to ``bottom``, spaced as ``kind`` says."""
        fractions = [i / max(count - 1, 1) for i in range(count)]
        between = lambda a, b: [a + f * (b - a) for f in fractions]  # noqa: E731
        if kind in ("karras", "logsnr") and math.isinf(top.ratio):
            raise ValueError(
                f"a {kind} grid needs a finite start; give start=level(ratio), or use kind flow"
            )
        if kind == "karras":
            roots = between(top.ratio ** (1 / rho), bottom.ratio ** (1 / rho))
            levels = [self.process.level(r**rho) for r in roots]
        elif kind == "logsnr":
            levels = [
                self.process.level(math.exp(r))
                for r in between(math.log(top.ratio), math.log(bottom.ratio))
            ]
        elif kind == "index":
            first, last = self.process.index(top), self.process.index(bottom)
            if math.isnan(first):
                raise ValueError("this prior has no native index; use grid karras, logsnr or flow")
            indices = grids.respaced(first, last, count)
            levels = [self.process.level_at_index(k) for k in indices]
        elif kind == "flow":
            levels = [self.level_at_time(u) for u in between(top.flow_time, bottom.flow_time)]
        else:
            raise ValueError(f"unknown grid '{kind}'; valid: {', '.join(grids.GRIDS)}")
        return levels

    def _uniform_time(self, n: int, start: Level | None, end: Level | None) -> list[Level]:
        """Return the levels of ``n`` steps of one length in ``u``, and the clean end."""
        if end is not None:
            raise ValueError("grid uniform_time goes down to the clean end; use grid flow")
        top = 1.0 if start is None else start.flow_time
        return [*(self.level_at_time(top * (1 - k / n)) for k in range(n)), CLEAN]

    def _training_steps(
        self, kind: str, n: int, start: Level | None, end: Level | None
    ) -> list[Level]:
        """Return the levels of a grid that counts training steps, and its end."""
        steps = self.process.training_steps
        if steps is None:
            raise ValueError(
                f"grid {kind} counts training steps, and this prior has none; use grid native"
            )
        indices = grids.released(kind, n, steps)
        if end is not None or (start is not None and round(self.process.index(start)) < indices[0]):
            raise ValueError(
                f"grid {kind} goes from index {indices[0]} to the clean end and no part of it "
                "stands alone; use grid index between two levels"
            )
        levels = [self.process.level_at_index(k) for k in indices]
        return [*levels, self.process.level_at_index(0) if kind == "leading_one" else CLEAN]

    # -- the one primitive -------------------------------------------------------------------------

    def condition(self, labels: Tensor | None) -> Condition | None:
        """Return the condition for labels.

        Parameters
        ----------
        labels : Tensor or None
            Int64 ``(N,)`` in 0 to ``num_classes - 1``.

        Returns
        -------
        Condition or None
            None without labels, and for a prior that takes none.
        """
        if labels is None or not self.num_classes:
            return None
        null = (
            None if self.null_label is None else {"label": torch.full_like(labels, self.null_label)}
        )
        return Condition({"label": labels}, null)

    @property
    def reads_text(self) -> bool:
        """Whether the network reads prompts: contexts of several tokens, not one per class."""
        return isinstance(self.net, Contexts) and self.net.contexts.shape[1] > 1

    def prompt_rows(self, index: int) -> Mapping[str, Tensor]:
        """Return what the network reads for one of its own prompts.

        Parameters
        ----------
        index : int
            Number of the prompt; -1 is the empty prompt.

        Returns
        -------
        Mapping[str, Tensor]
            ``contexts`` ``(1, L, D)`` and, where the network has it, ``pooled`` ``(1, P)``,
            float32.

        Raises
        ------
        ValueError
            If the prior reads no prompts.
        """
        if not isinstance(self.net, Contexts) or not self.reads_text:
            raise ValueError("this prior reads no prompts")
        tables = {"contexts": self.net.contexts, "pooled": self.net.pooled}
        return {
            name: table[index].detach()[None].float()
            for name, table in tables.items()
            if table is not None
        }

    def prompted(self, rows: Sequence[Mapping[str, Tensor]]) -> Condition:
        """Return the condition for prompts; its null condition is the empty prompt.

        Parameters
        ----------
        rows : Sequence[Mapping[str, Tensor]]
            One embedded prompt for each of ``N`` rows, in the form that :meth:`prompt_rows`
            returns.

        Returns
        -------
        Condition
            The condition, on the device of the prior.

        Raises
        ------
        ValueError
            If the prior reads no prompts, or an embedding has another shape.
        """
        null = self.prompt_rows(-1)
        for row in rows:
            if {k: v.shape for k, v in row.items()} != {k: v.shape for k, v in null.items()}:
                found, wanted = (
                    ", ".join(f"{k} {tuple(v.shape)}" for k, v in of.items()) for of in (row, null)
                )
                raise ValueError(f"a prompt is embedded as {found}, and the network wants {wanted}")
        values = {name: torch.cat([row[name].to(self.device) for row in rows]) for name in null}
        return Condition(
            values, {k: v.to(self.device).expand(len(rows), *v.shape[1:]) for k, v in null.items()}
        )

    def embedded(self, cond: Condition | None, n: int) -> Condition:
        """Return a condition with its prompts written out, so that they have gradients.

        Parameters
        ----------
        cond : Condition or None
            Labels or prompts of ``n`` rows; None is the empty prompt.
        n : int
            Number of rows.

        Returns
        -------
        Condition
            The same condition. Its values hold ``contexts`` ``(n, L, D)`` and, where the network
            has it, ``pooled`` ``(n, P)`` in the place of labels, and so do its null values.

        Raises
        ------
        ValueError
            If the prior reads no prompts.
        """
        null = self.prompted([self.prompt_rows(-1)] * n)
        if cond is None:
            return null
        net = self.net
        assert isinstance(net, Contexts)

        def written(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
            told = {k: v.to(self.device) for k, v in values.items()}
            rows = {name: net.rows(name, v, told).detach() for name, v in null.values.items()}
            return {k: v for k, v in {**told, **rows}.items() if k != "label"}

        return Condition(written(cond.values), None if cond.null is None else written(cond.null))

    def inpainting(
        self, y: Tensor, mask: Tensor, cond: Condition | None = None, noise: Tensor | None = None
    ) -> Condition:
        """Return the condition of an inpainting network: mask and measurement, added to ``cond``.

        Parameters
        ----------
        y : Tensor
            Images ``(N, C, H, W)`` in [-1, 1], observed where ``mask`` is True.
        mask : Tensor
            Bool ``(N, 1, H, W)``, True = observed.
        cond : Condition or None, default None
            Labels or prompts of the rows.
        noise : Tensor or None, default None
            Standard-normal numbers, shaped like the latents. They make the encoding of the masked
            image a draw, as released pipelines do; None encodes to the mean.

        Returns
        -------
        Condition
            The condition. Mask and image are in its null condition too, because guidance is about
            labels and prompts alone.

        Raises
        ------
        ValueError
            If the network was not trained for inpainting.
        """
        if not isinstance(self.net, Inpainter):
            raise ValueError(
                "this prior takes no inpainting condition; "
                "choose one converted from an inpainting model"
            )
        inpaint = {"inpaint": self.net.inpainting(y, mask, lambda x: self.encode(x, noise))}
        if cond is None:
            return Condition(inpaint)
        return Condition(
            {**cond.values, **inpaint}, None if cond.null is None else {**cond.null, **inpaint}
        )

    def denoise(
        self, z: Tensor, level: Level, cond: Condition | None = None, guidance: float = 1.0
    ) -> Tensor:
        """Return the denoised state ``E[x0 | z]``.

        A consistency model returns the end of the trajectory through ``z`` instead.

        Parameters
        ----------
        z : Tensor
            States ``(N, C, H, W)`` at ``level``, of the shape ``latent_shape``.
        level : Level
            One noise level, or one per row (:meth:`Level.stack`).
        cond : Condition or None, default None
            Condition of the rows; None asks for the unconditional branch.
        guidance : float, default 1.0
            Weight of classifier-free guidance (Ho and Salimans 2022), applied once, to the output
            of the network. Other values than 1 evaluate the network with and without the condition,
            in one batch of ``2 N``.

        Returns
        -------
        Tensor
            ``x0``, shaped like ``z``; differentiable in ``z`` and in the floating-point values of
            ``cond``, and never clipped.

        Raises
        ------
        ValueError
            If ``guidance`` is not 1 and there is no null condition, or if ``cond`` is None and the
            prior has no unconditional branch.
        BudgetExceeded
            If the evaluation exceeds the limit of the meter.
        """
        return self._denoise(z, level, cond, guidance)[0]

    def denoise_with_variance(
        self, z: Tensor, level: Level, cond: Condition | None = None, guidance: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Return the denoised state and the network's own variance, from one evaluation.

        Parameters
        ----------
        z : Tensor
            States ``(N, C, H, W)`` at ``level``.
        level : Level
            One noise level, or one per row.
        cond : Condition or None, default None
            Condition of the rows.
        guidance : float, default 1.0
            Weight of classifier-free guidance. The variance is that of ``cond`` at any weight.

        Returns
        -------
        tuple[Tensor, Tensor]
            ``x0``, and ``fraction``, both shaped like ``z``. In logarithms, the variance lies at
            this fraction between the variance of the posterior and that of a renoising step
            (:meth:`Process.learned_step`). It has no gradient.

        Raises
        ------
        ValueError
            If the network has learned no variance (``learned_var`` is False), and as
            :meth:`denoise` does.
        """
        if not self.learned_var:
            raise ValueError("this prior has learned no variance; call denoise")
        x0, variance = self._denoise(z, level, cond, guidance)
        return x0, (variance.detach() + 1) / 2

    def _denoise(
        self, z: Tensor, level: Level, cond: Condition | None, guidance: float
    ) -> tuple[Tensor, Tensor]:
        """Return ``x0`` and the output channels behind it (none where no variance is learned)."""
        if self.net is None:
            raise NotImplementedError("a prior without a network overrides denoise")
        backwards = len(z) if guidance == 1.0 else 2 * len(z)
        z = self._entered(z, "nge", backwards)
        channels = z.shape[1] if self.learned_var else None
        # Levels stay on the host, and so do the coefficients until they meet a state.
        alpha, sigma = (torch.as_tensor(v, dtype=torch.float64) for v in (level.alpha, level.sigma))
        scaled = self._scaled_input(z, alpha, sigma)
        t = _time(level, z)
        values = self._condition_values(cond, z)
        if guidance == 1.0:
            self.meter.add("nfe", len(z))
            out = given = self._kept(self.run_network, scaled, t, values)
        else:
            if cond is None or cond.null is None:
                raise ValueError(
                    f"guidance {guidance} needs a condition and a trained null condition; "
                    "use guidance=1"
                )
            self.meter.add("nfe", 2 * len(z))
            both = {k: torch.cat([v, cond.null[k].to(v)]) for k, v in values.items()}
            given, null = self._kept(
                self.run_network, torch.cat([scaled, scaled]), torch.cat([t, t]), both
            ).chunk(2)
            out = null + guidance * (given - null)
        x0 = self._consistent(self.x0_of_output(out[:, :channels], z, alpha, sigma), z, level)
        return self._counted(x0, "nge", backwards), given[:, z.shape[1] :]

    def run_network(self, x: Tensor, t: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Run the network as :attr:`execution` says; keep the dtype of ``x``."""
        assert self.net is not None
        net = self.net if self.network_call is None else self.network_call
        if self.execution.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        low = self.execution.bf16  # not every device has autocast
        with torch.autocast(x.device.type, torch.bfloat16) if low else nullcontext():
            out: Tensor = net(x, t, values)
        return out.to(x.dtype).contiguous()

    def _kept(self, function: Callable[..., Tensor], *inputs: object) -> Tensor:
        """Call ``function``, with checkpointing if :attr:`execution` asks for it.

        ``function`` must not count or draw, because every gradient calls it once more.
        """
        if self.execution.checkpointing != "call" or not torch.is_grad_enabled():
            return function(*inputs)
        out: Tensor = checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
        return out

    def _scaled_input(self, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        if self.parameterization != "edm":
            return z
        return z * as_factor(1 / (alpha**2 * self.sigma_data**2 + sigma**2).sqrt(), z)

    def x0_of_output(self, out: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Compute ``x0 = a z + b out``: every parameterization is affine in the output."""
        kind = self.parameterization
        if kind == "x0":
            return out
        if kind == "eps":
            a, b = 1 / alpha, -sigma / alpha
        elif kind == "v":
            c2 = alpha**2 + sigma**2
            a, b = alpha / c2, -sigma / c2.sqrt()
        elif kind == "flow":
            a, b = 1 / (alpha + sigma), -sigma / (alpha + sigma)
        elif kind == "edm":
            r, sd = sigma / alpha, self.sigma_data
            a, b = sd**2 / (r**2 + sd**2) / alpha, r * sd / (r**2 + sd**2).sqrt()
        else:
            raise ValueError(f"unknown parameterization '{kind}'; valid: eps, x0, v, flow, edm")
        return as_factor(a, z) * z + as_factor(b, z) * out

    def _consistent(self, x0: Tensor, z: Tensor, level: Level) -> Tensor:
        """Return ``c_skip z + c_out x0`` for a consistency model (Luo et al. 2023, Eq. 9)."""
        if self.timestep_scaling is None:
            return x0
        t = self.timestep_scaling * torch.as_tensor(level.t, dtype=torch.float64)
        t = t.view(-1, 1, 1, 1) if t.ndim else t
        c2 = t**2 + self.sigma_data**2
        return as_factor(self.sigma_data**2 / c2, z) * z + as_factor(t / c2.sqrt(), z) * x0

    def _condition_values(self, cond: Condition | None, z: Tensor) -> Mapping[str, Tensor]:
        if cond is not None:
            return {k: v.to(z.device) for k, v in cond.values.items()}
        if not self.num_classes:
            return {}
        if self.null_label is None:
            raise ValueError(
                "this prior is class-conditional and has no unconditional branch: give labels"
            )
        return {"label": torch.full((len(z),), self.null_label, device=z.device)}

    def _counted(self, x: Tensor, name: str, count: int) -> Tensor:
        """Return ``x``; the meter adds ``count`` per gradient through it, and now for a tangent."""
        if unpack_dual(x).tangent is not None:
            self.meter.add(name, count)
        return _Backward.apply(x, self.meter, name, count) if x.requires_grad else x

    def _entered(self, z: Tensor, name: str, count: int) -> Tensor:
        """Return ``z``; the meter adds ``count`` per second derivative through ``z``."""
        return _Entered.apply(z, self.meter, name, count) if z.requires_grad else z

    # -- the latent space (the identity for pixel priors) ------------------------------------------

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Encode images to the states that the network denoises.

        A prior in pixels returns the images unchanged.

        Parameters
        ----------
        x : Tensor
            Images ``(N, C, H, W)`` in [-1, 1].
        noise : Tensor or None, default None
            Standard-normal numbers, shaped like the latents: the result is a draw of a KL encoder.
            None returns its mean.

        Returns
        -------
        Tensor
            States ``(N, *latent_shape)``; differentiable in ``x``.

        Raises
        ------
        ValueError
            If the autoencoder is a VQ, which has nothing to draw from, and ``noise`` is not None.
        """
        if self.latent is None:
            return x
        self.meter.add("encode", len(x))
        with self._latent_here(x):
            return self._counted(self._kept(self.latent.encode, x, noise), "encode_grad", len(x))

    def decode(self, z: Tensor) -> Tensor:
        """Decode states to images.

        A prior in pixels returns the states unchanged.

        Parameters
        ----------
        z : Tensor
            Clean states ``(N, *latent_shape)``.

        Returns
        -------
        Tensor
            Images ``(N, C, H, W)``, not clipped; differentiable in ``z`` where ``caps`` has
            ``grad``.
        """
        if self.latent is None:
            return z
        self.meter.add("decode", len(z))
        with self._latent_here(z):
            return self._counted(self._kept(self.latent.decode, z), "decode_grad", len(z))

    @contextmanager
    def lending(self, autoencoder: HostCopy) -> Iterator[None]:
        """Keep the autoencoder in the memory of the host while nothing calls it in a block.

        A call with a gradient keeps it on the device until the end of the block, because the
        gradient will need it again.

        Parameters
        ----------
        autoencoder : HostCopy
            The weights of ``latent``.
        """
        with autoencoder.parked():
            self._lent = autoencoder
            try:
                yield
            finally:
                self._lent = None

    @contextmanager
    def _latent_here(self, x: Tensor) -> Iterator[None]:
        lent = self._lent
        if lent is None or not lent.waits:
            yield
            return
        lent.fetch()
        yield
        if not (torch.is_grad_enabled() and x.requires_grad):
            lent.park()

    # -- other coordinates -------------------------------------------------------------------------

    def view(self, kind: str) -> Prior:
        """Return the same denoiser in other coordinates.

        Parameters
        ----------
        kind : str
            ``vp``, ``ve``, ``flow`` or ``native``, the coordinates that the prior was loaded in.

        Returns
        -------
        Prior
            A view that shares network and meter with this prior; this prior itself if it already
            has the coordinates. Gradients in ``z`` depend on the coordinates, ``x0`` does not.

        Raises
        ------
        ValueError
            If ``kind`` is unknown.
        """
        return self if kind in ("native", self.process.kind) else View(self, kind)

    @contextmanager
    def metered(
        self, limit: float = math.inf, watch: Callable[[], None] | None = None, unit: str = "nfe"
    ) -> Iterator[Meter]:
        """Use a fresh meter for the duration of a ``with`` block.

        Parameters
        ----------
        limit : float, default inf
            Largest number of evaluations that ``unit`` may count.
        watch : Callable or None, default None
            Function that is called before every evaluation and may raise. None keeps the function
            of the outer meter.
        unit : str, default 'nfe'
            What ``limit`` bounds: ``nfe``, forward passes, or ``passes``, forward and backward
            ones.

        Yields
        ------
        Meter
            The fresh meter; the outer one does not count its evaluations.
        """
        outer, self.meter = (
            self.meter,
            Meter(limit=limit, watch=watch or self.meter.watch, unit=unit),
        )
        try:
            yield self.meter
        finally:
            self.meter = outer


def _time(level: Level, z: Tensor) -> Tensor:
    """Return the time that the network reads, once per row of ``z``."""
    if isinstance(level.t, Tensor) and level.t.ndim:
        return as_factor(level.t, z).expand(len(z))
    return torch.full((len(z),), float(level.t), dtype=z.dtype, device=z.device)


class View(Prior):
    """A prior in other coordinates: the same denoiser of a rescaled state.

    Parameters
    ----------
    base : Prior
        The prior to view.
    kind : str
        ``ve``, which divides by ``alpha``, ``vp``, which divides by ``sqrt(alpha^2 + sigma^2)``, or
        ``flow``, which divides by ``alpha + sigma``.
    loaded : bool, default False
        Whether these coordinates count as the native ones, as :func:`priors.load.load` wants it.
    """

    process: Rescaled

    def __init__(self, base: Prior, kind: str, loaded: bool = False):
        self.base, self.loaded = base, loaded
        self.process = Rescaled(base.process, kind)
        self.learned_var = base.learned_var

    def __getattr__(self, name: str) -> Any:
        if name == "base":  # not yet set while a copy is being made
            raise AttributeError(name)
        return getattr(self.base, name)

    @property
    def meter(self) -> Meter:
        """The meter of the base prior, so that views count there and nothing counts twice."""
        return self.base.meter

    @meter.setter
    def meter(self, meter: Meter) -> None:
        self.base.meter = meter

    @override
    def to(self, device: torch.device | str) -> Prior:
        self.base.to(device)
        return self

    @override
    def run_as(self, execution: Execution) -> Prior:
        self.base.run_as(execution)
        return self

    @override
    @contextmanager
    def lending(self, autoencoder: HostCopy) -> Iterator[None]:
        with self.base.lending(autoencoder):
            yield

    @property
    @override
    def caps(self) -> frozenset[str]:
        own = {"flow"} if self.process.kind == "flow" else set()
        return (self.base.caps - {"flow"}) | own

    @override
    def denoise(
        self, z: Tensor, level: Level, cond: Condition | None = None, guidance: float = 1.0
    ) -> Tensor:
        return self.base.denoise(*self._in_native(z, level), cond, guidance)

    @override
    def denoise_with_variance(
        self, z: Tensor, level: Level, cond: Condition | None = None, guidance: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        return self.base.denoise_with_variance(*self._in_native(z, level), cond, guidance)

    def _in_native(self, z: Tensor, level: Level) -> tuple[Tensor, Level]:
        native = self._native(level)
        c = self.process.scale(native)
        return z * (as_factor(c, z) if isinstance(c, Tensor) else c), native

    def _native(self, level: Level) -> Level:
        if isinstance(level.alpha, Tensor):
            return Level.stack(
                [
                    self.base.process.level(r)
                    for r in torch.as_tensor(level.ratio).flatten().tolist()
                ]
            )
        return self.base.process.level(float(level.ratio))

    @property
    @override
    def is_latent(self) -> bool:
        return self.base.is_latent

    @override
    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.base.encode(x, noise)

    @override
    def decode(self, z: Tensor) -> Tensor:
        return self.base.decode(z)

    @override
    def view(self, kind: str) -> Prior:
        own = kind == self.process.kind or (kind == "native" and self.loaded)
        return self if own else self.base.view(kind)
