"""Run a solver on a problem, and score its images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pandas as pd
import torch
from omegaconf import OmegaConf
from torch import Tensor

from posterior_bench.bench.api.configuration import configuration
from posterior_bench.bench.api.priors import option_of
from posterior_bench.bench.api.problems import Problem
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.batches import padded, rows_at_once
from posterior_bench.bench.engine.cache import shared
from posterior_bench.bench.engine.job import job_of
from posterior_bench.bench.engine.metric_networks import checked_metrics
from posterior_bench.bench.engine.session import Session
from posterior_bench.bench.engine.solving import sample, score_images
from posterior_bench.priors.base import Prior


@dataclass(frozen=True)
class Result:
    """The result of a solver on a problem.

    Parameters
    ----------
    images : Tensor
        Samples of the posterior as the solver returned them, float32 ``(N, D, C, H, W)`` on the
        CPU for ``N`` images and ``D`` draws, in units of images in [-1, 1]; ``(D, C, H, W)`` if
        the problem is one image without an axis of images.
    cost : Mapping[str, float]
        Average cost of one draw of one image: network evaluations ``nfe``, backward passes
        ``nge``, calls of the autoencoder, ``seconds_fit`` and ``seconds_sample``. The draws of an
        image share its fit.
    trace : Mapping[str, Tensor]
        How the fits went, if the solver tells: ``loss`` ``(N, iterations)`` and pictures.
    problem : Problem
        The problem that was solved.
    session : Session
        The objects that solved it.
    """

    images: Tensor
    cost: Mapping[str, float]
    trace: Mapping[str, Tensor]
    problem: Problem
    session: Session

    @property
    def pasted(self) -> Tensor:
        """The images with observed pixels put in, if the problem is inpainting; shape of images."""
        images = self._image_batch
        draws = images.shape[1]
        operator = self.problem.operator.repeat(draws)
        y = self.problem.y.repeat_interleave(draws, 0)
        pasted = operator.paste(images.flatten(0, 1), y).unflatten(0, (-1, draws))
        return pasted[0] if self.problem.images.single else pasted

    @property
    def _image_batch(self) -> Tensor:
        return self.images[None] if self.problem.images.single else self.images


def solve(
    solver: str,
    problem: Problem,
    prior: Prior,
    draws: int = 1,
    preset: str | None = None,
    *,
    seed: int | None = None,
    batch: int = 16,
    settings: Mapping[str, Any] | None = None,
) -> Result:
    """Draw samples of the posterior of a problem.

    On the same settings this gives the images of the command line, bit for bit.

    Parameters
    ----------
    solver : str
        A name that ``python -m bench ls solver`` lists, or ``FILE.py:CLASS`` together with
        ``settings={"plugins": ["FILE.py"]}``.
    problem : Problem
        A problem from :func:`observe`.
    prior : Prior
        A prior from :func:`load_prior`, or a prior of your own. The solver runs on its device.
    draws : int, default 1
        Samples per image.
    preset : str, optional
        A preset of the solver; by default the preset that was chosen for the prior.
    seed : int, optional
        The seed of the solver's noise; by default the seed of the problem.
    batch : int, default 16
        Rows of a network batch; smaller batches are padded. Results depend on it in the last bits.
    settings : Mapping[str, Any], optional
        Settings by their names on the command line, such as ``{"solver.steps": 50}``.

    Returns
    -------
    Result
        ``images``, ``pasted``, ``cost`` and ``trace``.

    Raises
    ------
    UserError
        If a name or setting is unknown, or solver, prior and problem do not fit together.

    Examples
    --------
    >>> import posterior_bench as pb
    >>> problem = pb.observe(pb.load_images("fashion"), mask="rotated", seed=0)
    >>> prior = pb.load_prior("fashion")
    >>> result = pb.solve("ddnm", problem, prior, draws=2, settings={"solver.steps": 5})
    >>> tuple(result.images.shape), result.cost["nfe"]
    ((1, 2, 1, 28, 28), 5.0)
    """
    if draws < 1 or batch < 1:
        raise UserError(f"draws={draws}, batch={batch}: give whole numbers of at least 1")
    session = _session(solver, problem, prior, preset, draws, settings or {})
    return _join(list(_sample_parts(session, problem, draws, batch, seed)), problem, session)


class _Part(NamedTuple):
    """Samples, average cost and traces of the images of one batch."""

    images: Tensor
    cost: Mapping[str, float]
    trace: Mapping[str, Tensor]


def _join(parts: Sequence[_Part], problem: Problem, session: Session) -> Result:
    images = torch.cat([part.images for part in parts])
    costs = pd.DataFrame([part.cost for part in parts]).mean()
    names = parts[0].trace
    return Result(
        images[0] if problem.images.single else images,
        {name: float(value) for name, value in costs.items()},
        {name: torch.cat([part.trace[name] for part in parts]) for name in names},
        problem,
        session,
    )


def _sample_parts(
    session: Session, problem: Problem, draws: int, batch: int, seed: int | None
) -> Iterator[_Part]:
    """Sample the images in batches of equal size; the last batch is padded."""
    size = rows_at_once(draws, batch)
    for start in range(0, len(problem.images.ids), size.images):
        ids = list(problem.images.ids[start : start + size.images])
        measured = problem.measured(padded(ids, size.images), session.device)
        if seed is not None:
            measured = replace(measured, keys=[replace(key, study=seed) for key in measured.keys])
        sampled = sample(session, measured, draws, range(draws), size.draws)
        yield _Part(
            sampled.x[: len(ids)].float().cpu(),
            sampled.cost(len(measured.truth) * draws),
            {name: values[: len(ids)].cpu() for name, values in sampled.trace.items()},
        )


def _session(
    solver: str,
    problem: Problem,
    prior: Prior,
    preset: str | None,
    draws: int,
    settings: Mapping[str, Any],
) -> Session:
    """Load the solver beside the prior and the problem; refuse what does not fit together."""
    chosen = {} if preset is None else {"solver.preset": preset}
    cfg = configuration({"solver": solver}, {"draws": draws, "metrics": {}, **chosen, **settings})
    cfg.prior, cfg.data = dict(option_of(prior)), dict(problem.images.data)
    cfg.mask, cfg.operator = dict(problem.config.mask), dict(problem.config.operator)
    cfg.seed = problem.config.seed
    return Session(job_of(cfg), str(prior.device), prior, problem.images.source)


def score(result: Result, metrics: Sequence[str] = ("psnr", "ssim")) -> pd.DataFrame:
    """Score the images of a result.

    Parameters
    ----------
    result : Result
        A result of :func:`solve`.
    metrics : sequence of str, default ("psnr", "ssim")
        Names that ``python -m bench ls metrics`` lists. Metrics of whole sets of images, such as
        ``kid``, need a study.

    Returns
    -------
    DataFrame
        One row per image and draw, with the index ``image_id`` and ``draw``. A metric has a column
        for the whole image and others for its parts, such as ``psnr_hole`` and ``psnr_pasted``.
        Images are rounded to 8 bits first, as the command line does.

    Raises
    ------
    UserError
        If a metric is unknown, or its weights are missing.

    Examples
    --------
    >>> import posterior_bench as pb
    >>> problem = pb.observe(pb.load_images("fashion"), mask="rotated", seed=0)
    >>> result = pb.solve("ddnm", problem, pb.load_prior("fashion"), settings={"solver.steps": 5})
    >>> list(pb.score(result, ["psnr"]).columns)[:3]
    ['psnr', 'psnr_hole', 'psnr_known']
    """
    config = configuration({"metrics": f"[{','.join(metrics)}]"}, {}).metrics
    nodes = checked_metrics(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
    session = copy(result.session)
    session.metrics = {name: shared("metric", node, session.device) for name, node in nodes.items()}
    session.check_metrics()
    measured = result.problem.measured(result.problem.images.ids, session.device)
    x = result._image_batch
    rows = score_images(session, measured, x.flatten(0, 1).to(session.device), x.shape[1])
    index = pd.MultiIndex.from_product(
        [result.problem.images.ids, range(x.shape[1])], names=["image_id", "draw"]
    )
    return pd.DataFrame(rows, index=index)[[*nodes]]
