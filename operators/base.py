"""Forward operators: ``y = A(x) + sigma n``, batched, in [-1, 1] units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from posterior_bench.operators.spectrum import Spectrum


class Operator:
    """Measure the images of a batch: the base class of every forward operator.

    A measurement is ``y = A(x) + sigma n`` with standard-normal noise ``n``. A subclass implements
    :meth:`A`, every method that its ``caps`` name, and :meth:`At` if it is linear. With
    :meth:`spectrum`, it has :meth:`pinv` and :meth:`prox` too. A subclass is usually a frozen
    dataclass, so that one operator always measures alike. Its fields are the settings of the yaml
    file in ``conf/operator``.

    Attributes
    ----------
    caps : frozenset[str]
        What holds for the operator. A solver that needs a capability is refused where it is
        missing.

        - ``amplitudes``: ``A`` measures the amplitudes of the frequencies of an image with zeros
          around it; :meth:`embed`, :meth:`extract` and :meth:`with_amplitudes` are implemented.
        - ``linear``: ``A`` is linear and ``At`` is its adjoint.
        - ``mask``: ``A`` keeps or drops pixels, and ``mask`` says which.
        - ``projection``: ``At A`` is a projection.
        - ``pinv``: :meth:`pinv` is implemented.
        - ``prox``: :meth:`prox` is implemented.
        - ``svd``: :meth:`spectrum` is implemented.
        - ``nonlinear``: ``A`` is not linear; there is no adjoint.
    takes_mask : bool
        Whether the constructor takes the masks of a batch as ``mask``.
    takes_shape : bool
        Whether the constructor takes the shape of an image ``(C, H, W)`` as ``shape``.
    sigma : float
        Standard deviation of the noise, in [-1, 1] units; 0 or more.
    mask : Tensor or None
        Bool ``(N, 1, H, W)``, True = observed; None for an operator without a mask.

    Notes
    -----
    Images ``x`` are float32 ``(N, C, H, W)`` in [-1, 1]. A measurement ``y`` has the rows of ``x``
    and may have any shape behind them. Methods return the dtype and device of their input, and all
    but :meth:`observe` must be differentiable in ``x``, because solvers take gradients through
    them.

    Examples
    --------
    An operator that halves the contrast:

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class HalfContrast(Operator):
    ...     caps = frozenset({"linear", "pinv"})
    ...     sigma: float = 0.0
    ...
    ...     def A(self, x):
    ...         return x / 2
    ...
    ...     def At(self, y):
    ...         return y / 2
    ...
    ...     def pinv(self, y):
    ...         return 2 * y
    >>> HalfContrast().A(torch.ones(1, 1, 1, 2))
    tensor([[[[0.5000, 0.5000]]]])
    """

    caps: ClassVar[frozenset[str]] = frozenset()
    takes_mask: ClassVar[bool] = False
    takes_shape: ClassVar[bool] = False
    sigma: float = 0.0
    mask: Tensor | None = None

    @classmethod
    def caps_with(cls, settings: Mapping[str, Any]) -> frozenset[str]:
        """Return what holds for the operator with these settings.

        Parameters
        ----------
        settings : Mapping[str, Any]
            The settings, as in a yaml file; left out ones have their defaults.

        Returns
        -------
        frozenset[str]
            The capabilities: ``caps``, unless they depend on a setting.
        """
        return cls.caps

    def check_sigma(self) -> None:
        """Check that ``sigma`` is a noise level.

        Raises
        ------
        ValueError
            If ``sigma`` is negative or not a number.
        """
        if not self.sigma >= 0:
            raise ValueError(
                f"sigma {self.sigma} is not a noise level; give 0 or more, in [-1, 1] image units"
            )

    def A(self, x: Tensor) -> Tensor:
        """Measure images without noise.

        Parameters
        ----------
        x : Tensor
            Images ``(N, C, H, W)`` in [-1, 1].

        Returns
        -------
        Tensor
            The measurement, with ``N`` rows.
        """
        raise NotImplementedError

    def At(self, y: Tensor) -> Tensor:
        """Apply the adjoint, defined by ``<A x, y> = <x, At y>``.

        Parameters
        ----------
        y : Tensor
            A measurement, shaped like ``A(x)``.

        Returns
        -------
        Tensor
            Images ``(N, C, H, W)``.

        Notes
        -----
        Every operator with the capability ``linear`` implements it.
        """
        raise NotImplementedError

    def spectrum(self, like: Tensor) -> Spectrum:
        """Return the singular value decomposition of ``A``.

        Parameters
        ----------
        like : Tensor
            Images or a measurement; the tensors of the spectrum are on its device.

        Returns
        -------
        Spectrum
            Singular values and coordinates.

        Notes
        -----
        Every operator with the capability ``svd`` implements it.
        """
        raise NotImplementedError

    def pinv(self, y: Tensor) -> Tensor:
        """Apply the pseudo-inverse: the smallest ``x`` with ``A x`` nearest to ``y``.

        Parameters
        ----------
        y : Tensor
            A measurement, shaped like ``A(x)``.

        Returns
        -------
        Tensor
            Images ``(N, C, H, W)``, not clipped.

        Notes
        -----
        Every operator with the capability ``pinv`` implements it. An operator that truncates small
        singular values, by its setting ``rcond``, leaves their coordinates at 0.
        """
        spectrum = self.spectrum(y)
        return spectrum.image(spectrum.solution(y.double())).to(y.dtype)

    def prox(self, x: Tensor, y: Tensor, rho: float | Tensor) -> Tensor:
        """Apply the proximal operator: ``argmin_u |A u - y|^2 + rho |u - x|^2``.

        Parameters
        ----------
        x : Tensor
            Images ``(N, C, H, W)`` to stay near.
        y : Tensor
            A measurement, shaped like ``A(x)``.
        rho : float or Tensor
            Weight of the distance to ``x``, 0 or more; a tensor ``(N, 1, 1, 1)`` holds one weight
            per row. 0 means the limit: the minimiser of ``|A u - y|`` nearest to ``x``, which is
            ``x + pinv(y - A x)``.

        Returns
        -------
        Tensor
            The minimisers ``(N, C, H, W)``, not clipped.

        Notes
        -----
        Every operator with the capability ``prox`` implements it. The noise level ``sigma`` is not
        part of the objective: a solver puts it into ``rho``. No singular value is truncated at a
        positive ``rho``; at 0 those are that :meth:`pinv` truncates.
        """
        spectrum = self.spectrum(x)
        residual = y.double() - self.A(x.double())
        return x + spectrum.image(spectrum.shrunk(residual, rho)).to(x.dtype)

    def first_guess(self, y: Tensor) -> Tensor:
        """Return images that a solver can start from.

        Parameters
        ----------
        y : Tensor
            A measurement, shaped like ``A(x)``.

        Returns
        -------
        Tensor
            Images ``(N, C, H, W)``: the pseudo-inverse of ``y``, or the adjoint for an operator
            without ``pinv``. Nonlinear operators override this method.
        """
        return self.pinv(y) if "pinv" in self.caps else self.At(y)

    def embed(self, x: Tensor) -> Tensor:
        """Put zeros around images, as ``A`` does before it transforms them.

        Parameters
        ----------
        x : Tensor
            Images ``(N, C, H, W)``.

        Returns
        -------
        Tensor
            Wide images ``(N, C, H', W')``.

        Notes
        -----
        Every operator with the capability ``amplitudes`` implements it, and the next two methods.
        """
        raise NotImplementedError

    def extract(self, wide: Tensor) -> Tensor:
        """Return the images that :meth:`embed` has put zeros around.

        Parameters
        ----------
        wide : Tensor
            Wide images ``(N, C, H', W')``.

        Returns
        -------
        Tensor
            Images ``(N, C, H, W)``, not clipped.
        """
        raise NotImplementedError

    def with_amplitudes(self, wide: Tensor, y: Tensor) -> Tensor:
        """Give every frequency of wide images its measured amplitude, and keep its phase.

        Parameters
        ----------
        wide : Tensor
            Wide images ``(N, C, H', W')``.
        y : Tensor
            A measurement, shaped like ``A(x)``. Negative values, which noise makes, count as 0.

        Returns
        -------
        Tensor
            Wide images with these amplitudes; where noise makes these impossible for real numbers,
            the real part.
        """
        raise NotImplementedError

    def observe(self, x: Tensor, noise: Tensor) -> Tensor:
        """Measure images with noise.

        Parameters
        ----------
        x : Tensor
            Images ``(N, C, H, W)`` in [-1, 1].
        noise : Tensor
            Standard-normal numbers, shaped like ``A(x)``.

        Returns
        -------
        Tensor
            ``A(x) + sigma noise``.
        """
        return self.A(x) + self.sigma * noise

    def log_likelihood(self, x: Tensor, y: Tensor, floor: float = 0.0) -> Tensor:
        """Return ``log p(y | x)`` up to a number that does not depend on ``x``.

        Parameters
        ----------
        x : Tensor
            Images ``(N, C, H, W)``.
        y : Tensor
            A measurement, shaped like ``A(x)``.
        floor : float, default 0.0
            Lower bound on the noise level.

        Returns
        -------
        Tensor
            ``(N,)`` nats, float64; differentiable in ``x``.

        Raises
        ------
        ValueError
            If there is no noise, neither from ``sigma`` nor from ``floor``.

        Notes
        -----
        An operator whose noise is not ``sigma n`` overrides this method and :meth:`observe`.
        """
        sigma = max(float(self.sigma), floor)
        if sigma == 0:
            raise ValueError("without noise there is no density of y; set operator.sigma above 0")
        residual = self.residual(x.double(), y.double())
        return residual.square().flatten(1).sum(1) / (-2 * sigma**2)

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``y - A(x)``.

        Parameters
        ----------
        x : Tensor
            Images ``(N, C, H, W)``.
        y : Tensor
            A measurement, shaped like ``A(x)``.

        Returns
        -------
        Tensor
            The residual, shaped like ``y``. It is zero wherever nothing was observed.
        """
        return y - self.A(x)

    def paste(self, x: Tensor, y: Tensor) -> Tensor:
        """Replace the pixels of ``x`` that were observed directly by their measured values.

        Parameters
        ----------
        x : Tensor
            Images ``(N, C, H, W)``.
        y : Tensor
            A measurement, shaped like ``A(x)``.

        Returns
        -------
        Tensor
            Images ``(N, C, H, W)``; ``x`` itself for an operator that observes no pixel directly.
        """
        return x

    def repeat(self, times: int) -> Operator:
        """Return the operator for a batch in which every row stands ``times`` times in succession.

        Parameters
        ----------
        times : int
            How often each row is repeated.

        Returns
        -------
        Operator
            The operator for ``N * times`` rows; ``self`` where nothing depends on the row.
        """
        return self

    def select(self, rows: Sequence[int]) -> Operator:
        """Return the operator for some rows of the batch.

        Parameters
        ----------
        rows : Sequence[int]
            Places of the rows.

        Returns
        -------
        Operator
            The operator for these rows; ``self`` where nothing depends on the row.
        """
        return self

    def to(self, device: torch.device | str) -> Operator:
        """Return the operator with its tensors on ``device``.

        Parameters
        ----------
        device : torch.device or str
            Where the tensors go.

        Returns
        -------
        Operator
            The same operator on ``device``; ``self`` where it holds no tensors.
        """
        return self


def check_rcond(rcond: float) -> None:
    """Check that a number says how many singular values to truncate.

    Parameters
    ----------
    rcond : float
        The share of the largest singular value up to which values are truncated.

    Raises
    ------
    ValueError
        If it is outside [0, 1).
    """
    if not 0 <= rcond < 1:
        raise ValueError(
            f"rcond {rcond} is outside [0, 1); give the share of the largest singular value up to "
            "which values are truncated"
        )
