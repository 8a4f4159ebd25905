"""The prior: one primitive, ``denoise``, over a process, a network and a latent space."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual
from torch.utils.checkpoint import checkpoint

from posterior_bench.priors.execution import Execution
from posterior_bench.priors.latents import Latent
from posterior_bench.priors.nets import Contexts, Inpainter, UNet2D
from posterior_bench.priors.process import CLEAN, Level, Process, Rescaled

Shape = tuple[int, int, int]


UNITS = {"nfe": "network evaluations", "passes": "network passes (forward + backward)"}
"""What a limit of a :class:`Meter` may count, and its name for people."""


class BudgetExceeded(RuntimeError):
    """A solver asked for more of the network than its budget allows."""


@dataclass
class Meter:
    """Evaluations counted in samples (rows times calls): what a method costs, measured where it is
    spent.

    ``nfe``: forward passes of the network; a guided one counts 2. ``nge``: its backward passes.
    Every time a gradient is taken through a forward pass counts 1 (a guided one 2), also when
    several forward passes are chained or the same graph is used again. A gradient of a gradient
    counts 1 more, for its own pass through the network, and so does a tangent that is carried along
    forwards (jvp). What checkpointing computes again is not counted. Gradients batched by
    ``is_grads_batched`` count as one, because torch does not tell how many there are. ``passes``:
    the sum of both. ``decode``/``encode`` count autoencoder calls and ``_grad`` their backwards:
    they are no passes of the network.

    ``limit`` bounds what ``unit`` names, ``nfe`` or ``passes``; ``watch`` is called before every
    evaluation and may raise, which is how whoever runs a solver can end it.
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
        """What ``limit`` bounds."""
        return self.nfe if self.unit == "nfe" else self.passes

    def add(self, name: str, count: int) -> None:
        if self.watch is not None:
            self.watch()
        setattr(self, name, getattr(self, name) + count)
        if self.spent > self.limit:
            raise BudgetExceeded(
                f"the solver used {self.spent} {UNITS[self.unit]}; its budget is {self.limit:.0f}"
            )

    def counts(self) -> dict[str, int]:
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
    """The identity, where a state enters; the gradient that leaves here counts when a gradient is
    taken of it.

    A second derivative enters the graph of the first one at this place, whatever it is taken by:
    the counter at the output would miss it where the loss is linear.
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
    """Per-sample conditioning tensors (first axis N) and the values a network was trained to read
    as 'none'.

    ``null = None`` means the network has no unconditional branch: guidance other than 1 is refused.
    """

    values: Mapping[str, Tensor]
    null: Mapping[str, Tensor] | None = None

    def map(self, f: Callable[[Tensor], Tensor]) -> Condition:
        """``f`` applied to every tensor."""
        null = None if self.null is None else {k: f(v) for k, v in self.null.items()}
        return Condition({k: f(v) for k, v in self.values.items()}, null)

    def repeat(self, n: int) -> Condition:
        """Every row ``n`` times, neighbours together."""
        return self.map(lambda v: v.repeat_interleave(n, 0))


class Prior:
    """A frozen diffusion prior.

    Parameters
    ----------
    process: the noise process of the checkpoint. net: backbone adapter of :mod:`priors.nets`; None
    for closed-form priors that override :meth:`denoise`. shape: ``(C, H, W)`` of the images.
    latent: the autoencoder of a latent prior, whose network denoises states of
    ``latent.shape(shape)``; None where it denoises the images themselves. parameterization: what
    the network puts out: ``eps``, ``x0``, ``v``, ``flow`` or ``edm``. num_classes: number of labels
    of a class-conditional prior; ``null_label`` is the label read as 'none'. Labels of a text prior
    are numbers of prompts. ``class_names`` holds the name, or prompt, of every label, where they
    are known. learned_var: whether the network puts out a variance behind its ``C`` channels;
    :meth:`denoise` leaves it out.
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
    ):
        self.process, self.net, self.latent = process, net, latent
        self.image_shape = shape
        self.latent_shape = shape if latent is None else latent.shape(shape)
        self.parameterization, self.sigma_data = parameterization, sigma_data
        self.num_classes, self.null_label, self.learned_var = num_classes, null_label, learned_var
        self.class_names: tuple[str, ...] = ()
        self.device = torch.device("cpu")
        self.meter = Meter()
        self.execution = Execution()
        self._compiled: Callable[..., Tensor] | None = None
        for module in (net, latent):
            if module is not None:
                module.eval().requires_grad_(False)

    @property
    def is_latent(self) -> bool:
        """Whether the state the network denoises is not the image itself."""
        return self.latent is not None

    @property
    def caps(self) -> frozenset[str]:
        """Of ``grad``, ``pixel`` or ``latent``, ``label``, ``guidance``, ``features`` and
        ``inpaint`` what it has.
        """
        caps = {"latent" if self.is_latent else "pixel"}
        if self.latent is None or self.latent.differentiable:
            caps.add("grad")
        if self.num_classes:
            caps.add("label")
        if self.null_label is not None:
            caps.add("guidance")
        # hooks inside a network neither run compiled nor belong into a second forward pass
        if (
            isinstance(self.net, UNet2D)
            and not self.execution.compile
            and self.execution.checkpointing == "none"
        ):
            caps.add("features")
        if isinstance(self.net, Inpainter):
            caps.add("inpaint")
        return frozenset(caps)

    def to(self, device: torch.device | str) -> Prior:
        """Move the networks; the levels stay float64 scalars on the host."""
        self.device = torch.device(device)
        for module in (self.net, self.latent):
            if module is not None:
                module.to(self.device)
        return self

    def run_as(self, execution: Execution) -> Prior:
        """Run the network in this way from now on; results and counts mean the same.

        Raises ValueError for a prior without a network, unless everything is left as it is by
        default.
        """
        if execution == self.execution:
            return self
        if self.net is None:
            changed = ", ".join(f"{key}={value}" for key, value in execution.changed.items())
            raise ValueError(
                f"{changed}: this prior is in closed form and runs no network; leave it out"
            )
        layout = torch.channels_last if execution.channels_last else torch.contiguous_format
        self.net.to(memory_format=layout)  # type: ignore[call-overload]  # torch's stubs know no layout alone
        self._compiled = torch.compile(self.net, dynamic=False) if execution.compile else None
        self.execution = execution
        return self

    # -- levels ------------------------------------------------------------------------------------

    def level(self, ratio: float) -> Level:
        """The level with ``sigma / alpha = ratio``."""
        return self.process.level(ratio)

    def level_at_index(self, index: float) -> Level:
        """The level at a native index of the checkpoint."""
        return self.process.level_at_index(index)

    def grid(
        self,
        n: int,
        kind: str = "native",
        start: Level | None = None,
        end: Level | None = None,
        rho: float = 7.0,
    ) -> list[Level]:
        """``n + 1`` levels that make ``n`` steps, noisiest first.

        Without ``end`` the last level is :data:`CLEAN` and the ``n`` before it run down to the
        cleanest level of the network, so that ``n`` steps are ``n`` network calls. With ``end`` the
        levels run from ``start`` to ``end``.

        Kinds: ``native`` (what the checkpoint was trained on: karras for VE, index for VP, flow for
        flows), ``karras`` (rho grid in sigma/alpha, EDM Eq. 5), ``logsnr`` (uniform in ln
        sigma/alpha), ``index`` (uniform in the native index, rounded: the respaced grid of
        guided-diffusion), ``flow`` (uniform in ``u = sigma / (alpha + sigma)``).

        Raises ValueError for an unknown kind, ``n < 1``, ``index`` without native indices, and
        ``karras`` or ``logsnr`` from the infinite ratio at which a flow starts.
        """
        if n < 1:
            raise ValueError(f"a grid needs at least 1 step, got {n}")
        top = start if start is not None else self.process.level(self.process.ratio_max)
        bottom = end if end is not None else self.process.level(self.process.ratio_min)
        count = n + 1 if end is not None else n
        fractions = [i / max(count - 1, 1) for i in range(count)]
        between = lambda a, b: [a + f * (b - a) for f in fractions]  # noqa: E731
        if kind == "native":
            kind = {"ve": "karras", "vp": "index", "flow": "flow"}[self.process.trained_kind]
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
            indices = between(self.process.index(top), self.process.index(bottom))
            if math.isnan(indices[0]):
                raise ValueError("this prior has no native index; use grid karras, logsnr or flow")
            levels = [self.process.level_at_index(round(k)) for k in indices]
        elif kind == "flow":
            share = lambda level: level.sigma / (level.alpha + level.sigma)  # noqa: E731
            us = between(share(top), share(bottom))
            levels = [self.process.level(u / (1 - u) if u < 1 else math.inf) for u in us]
        else:
            raise ValueError(f"unknown grid '{kind}'; valid: native, karras, logsnr, index, flow")
        return levels if end is not None else [*levels, CLEAN]

    # -- the one primitive -------------------------------------------------------------------------

    def condition(self, labels: Tensor | None) -> Condition | None:
        """The condition for integer labels ``(N,)`` in ``0..num_classes-1``; None for an
        unconditional prior.
        """
        if labels is None or not self.num_classes:
            return None
        null = (
            None if self.null_label is None else {"label": torch.full_like(labels, self.null_label)}
        )
        return Condition({"label": labels}, null)

    @property
    def reads_text(self) -> bool:
        """Whether the network reads prompts: a context of several tokens. A class is a context of
        one.
        """
        return isinstance(self.net, Contexts) and self.net.contexts.shape[1] > 1

    def prompt_rows(self, index: int) -> Mapping[str, Tensor]:
        """What the network reads of its own prompt number ``index``; -1 is the empty one. Each
        ``(1, ...)``.
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
        """The condition for one prompt a sample, each as :meth:`prompt_rows`; the null condition is
        the empty prompt.

        Raises ValueError for a prior that reads no prompts, and for embeddings of another shape.
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

    def inpainting(
        self, y: Tensor, mask: Tensor, cond: Condition | None = None, noise: Tensor | None = None
    ) -> Condition:
        """``cond`` and what an inpainting model must know of ``y`` ``(N, C, H, W)``, seen where
        ``mask`` is True.

        ``mask``: bool ``(N, 1, H, W)``. ``noise``, of the shape of the latents, makes the encoding
        of the masked image a draw, as released pipelines do; without it, it is the mean. Mask and
        image stay in the null condition: guidance is about labels and prompts alone. Raises
        ValueError for a prior that takes no such condition.
        """
        if not isinstance(self.net, Inpainter):
            raise ValueError(
                "this prior takes no inpainting condition; choose one converted from an inpainting "
                "model"
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
        """``E[x0 | z]``: the denoised state, same shape as ``z``, differentiable in ``z``, never
        clipped.

        Guidance is classifier-free, once, on the raw output, in one batch of ``2 N`` (Ho and
        Salimans 2022). Raises ValueError where the network has no null condition and ``guidance !=
        1``.
        """
        return self._denoise(z, level, cond, guidance)[0]

    def denoise_with_variance(
        self, z: Tensor, level: Level, cond: Condition | None = None, guidance: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """:meth:`denoise` and the network's own variance, from one evaluation.

        The variance is a ``fraction`` of the shape of ``z``, without a gradient: of the way, in
        logarithms, from the variance of the posterior to that of a renoising step
        (:meth:`Process.learned_step`). Under guidance it is that of the given condition. Raises
        ValueError where the network has learned none (``learned_var`` is False).
        """
        if not self.learned_var:
            raise ValueError("this prior has learned no variance; call denoise")
        x0, variance = self._denoise(z, level, cond, guidance)
        return x0, (variance.detach() + 1) / 2

    def _denoise(
        self, z: Tensor, level: Level, cond: Condition | None, guidance: float
    ) -> tuple[Tensor, Tensor]:
        """``x0``, and the output behind its channels (none, where no variance is learned)."""
        if self.net is None:
            raise NotImplementedError("a prior without a network overrides denoise")
        backwards = len(z) if guidance == 1.0 else 2 * len(z)
        z = self._entered(z, "nge", backwards)
        channels = z.shape[1] if self.learned_var else None
        alpha, sigma = self._like(level.alpha, z), self._like(level.sigma, z)
        scaled = self._scaled_input(z, alpha, sigma)
        t = torch.as_tensor(level.t, dtype=torch.float64).to(z).expand(len(z))
        values = self._condition_values(cond, z)
        if guidance == 1.0:
            self.meter.add("nfe", len(z))
            out = given = self._kept(self._raw, scaled, t, values)
        else:
            if cond is None or cond.null is None:
                raise ValueError(
                    f"guidance {guidance} needs a condition and a trained null condition; use "
                    f"guidance=1"
                )
            self.meter.add("nfe", 2 * len(z))
            both = {k: torch.cat([v, cond.null[k].to(v)]) for k, v in values.items()}
            given, null = self._kept(
                self._raw, torch.cat([scaled, scaled]), torch.cat([t, t]), both
            ).chunk(2)
            out = null + guidance * (given - null)
        x0 = self._to_x0(out[:, :channels], z, alpha, sigma)
        return self._counted(x0, "nge", backwards), given[:, z.shape[1] :]

    def _raw(self, x: Tensor, t: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """The network's output, run as :attr:`execution` says and handed on in the precision of
        ``x``.
        """
        assert self.net is not None
        net = self.net if self._compiled is None else self._compiled
        if self.execution.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        low = self.execution.precision == "bf16"
        with torch.autocast(x.device.type, torch.bfloat16) if low else nullcontext():
            out: Tensor = net(x, t, values)
        return out.to(x.dtype).contiguous()

    def _kept(self, function: Callable[..., Tensor], *inputs: object) -> Tensor:
        """``function(*inputs)``; under call checkpointing its gradient is computed from the inputs
        alone.

        Nothing in ``function`` may count or draw: it is called once more for every gradient.
        """
        if self.execution.checkpointing == "none" or not torch.is_grad_enabled():
            return function(*inputs)
        out: Tensor = checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
        return out

    @staticmethod
    def _like(value: float | Tensor, z: Tensor) -> Tensor:
        """A float64 tensor on the device of ``z``, so that coefficients are formed in double and
        cast last.
        """
        return torch.as_tensor(value, dtype=torch.float64, device=z.device)

    def _scaled_input(self, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        if self.parameterization != "edm":
            return z
        return z * (1 / (alpha**2 * self.sigma_data**2 + sigma**2).sqrt()).to(z.dtype)

    def _to_x0(self, out: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """All parameterisations are affine in the output: ``x0 = a z + b out``."""
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
        return a.to(z.dtype) * z + b.to(z.dtype) * out

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
        """``x``, with ``count`` added to the meter when a gradient is taken through it, and at once
        for a tangent.
        """
        if unpack_dual(x).tangent is not None:
            self.meter.add(name, count)
        return _Backward.apply(x, self.meter, name, count) if x.requires_grad else x

    def _entered(self, z: Tensor, name: str, count: int) -> Tensor:
        """``z``, with ``count`` added to the meter when a second derivative is taken through what
        is made of it.
        """
        return _Entered.apply(z, self.meter, name, count) if z.requires_grad else z

    # -- the latent space (the identity for pixel priors) ------------------------------------------

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Image to the state the network denoises: the mean of a KL encoder, or a draw of it with
        ``noise``.
        """
        if self.latent is None:
            return x
        self.meter.add("encode", len(x))
        return self._counted(self._kept(self.latent.encode, x, noise), "encode_grad", len(x))

    def decode(self, z: Tensor) -> Tensor:
        """The state the network denoises to an image; differentiable in ``z``."""
        if self.latent is None:
            return z
        self.meter.add("decode", len(z))
        return self._counted(self._kept(self.latent.decode, z), "decode_grad", len(z))

    # -- other coordinates -------------------------------------------------------------------------

    def view(self, kind: str) -> Prior:
        """The same denoiser in ``vp`` or ``ve`` coordinates (gradients in z depend on them; x0 does
        not).
        """
        return self if kind in ("native", self.process.kind) else View(self, kind)

    @contextmanager
    def metered(
        self, limit: float = math.inf, watch: Callable[[], None] | None = None, unit: str = "nfe"
    ) -> Iterator[Meter]:
        """A fresh meter for the duration of the block; without a ``watch`` it keeps that of the
        meter around it.

        ``limit`` bounds what ``unit`` names: ``nfe``, forward passes, or ``passes``, forward and
        backward ones.
        """
        outer, self.meter = (
            self.meter,
            Meter(limit=limit, watch=watch or self.meter.watch, unit=unit),
        )
        try:
            yield self.meter
        finally:
            self.meter = outer


class View(Prior):
    """A prior whose ``z`` is divided by ``alpha`` (ve) or ``sqrt(alpha^2 + sigma^2)`` (vp)."""

    process: Rescaled

    def __init__(self, base: Prior, kind: str):
        self.base = base
        self.process = Rescaled(base.process, kind)
        self.learned_var = base.learned_var

    def __getattr__(self, name: str) -> Any:
        if name == "base":  # not yet set while a copy is being made
            raise AttributeError(name)
        return getattr(self.base, name)

    @property
    def meter(self) -> Meter:
        """The meter of the viewed prior: a block metered through a view counts, and nothing counts
        twice.
        """
        return self.base.meter

    @meter.setter
    def meter(self, meter: Meter) -> None:
        self.base.meter = meter

    def to(self, device: torch.device | str) -> Prior:
        self.base.to(device)
        return self

    @property
    def caps(self) -> frozenset[str]:
        return self.base.caps

    def denoise(
        self, z: Tensor, level: Level, cond: Condition | None = None, guidance: float = 1.0
    ) -> Tensor:
        return self.base.denoise(*self._in_native(z, level), cond, guidance)

    def denoise_with_variance(
        self, z: Tensor, level: Level, cond: Condition | None = None, guidance: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        return self.base.denoise_with_variance(*self._in_native(z, level), cond, guidance)

    def _in_native(self, z: Tensor, level: Level) -> tuple[Tensor, Level]:
        native = self._native(level)
        c = self.process.scale(native)
        return z * (c.to(z) if isinstance(c, Tensor) else c), native

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
    def is_latent(self) -> bool:
        return self.base.is_latent

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.base.encode(x, noise)

    def decode(self, z: Tensor) -> Tensor:
        return self.base.decode(z)

    def view(self, kind: str) -> Prior:
        return self.base.view(kind)
