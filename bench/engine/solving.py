"""One fit and its draws: what a solver is given, what it costs, and how its images are scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from posterior_bench.bench.core.foreign import foreign
from posterior_bench.bench.core.isolation import isolated
from posterior_bench.bench.core.streams import Noise
from posterior_bench.bench.engine import pulse
from posterior_bench.bench.engine.batches import blocks_of
from posterior_bench.bench.engine.device import clock, peak_mib, reset_peak
from posterior_bench.bench.engine.exact_draws import REFERENCE, exact_reference
from posterior_bench.bench.engine.face_variants import (
    compares_variants,
    put_variants,
    recognisers,
)
from posterior_bench.bench.engine.failures import demand_real, demand_shape, note_on
from posterior_bench.bench.engine.limits import limit_of, watching
from posterior_bench.bench.engine.measurement import Measurement, batch_of
from posterior_bench.bench.engine.scoring import (
    Row,
    demand_numbers,
    png,
    put_values,
    score_rows,
    values_of,
)
from posterior_bench.bench.engine.session import Session
from posterior_bench.bench.external.folder import UNMEASURED, Folder
from posterior_bench.bench.store.schema import TRACE
from posterior_bench.bench.store.trace import pack_traces
from posterior_bench.metrics.base import DrawSet, to_uint8
from posterior_bench.priors.low_precision import tf32
from posterior_bench.solvers.base import Observation


def solve(
    session: Session,
    measured: Measurement,
    draws: int,
    batch: int,
    watch: Callable[[], None] | None = None,
    only: range | None = None,
) -> list[Row]:
    """Fit once, sample every draw and score it.

    A row costs the same in any chunk: its share of a fit is its share among all draws, although
    every chunk of an image fits once more.

    Parameters
    ----------
    session : Session
        The solver, the prior and the metrics of the cell.
    measured : Measurement
        The images of a padded batch.
    draws : int
        Draws per image in the whole cell.
    batch : int
        Rows of one network batch per image at most.
    watch : callable, default None
        Called before every network evaluation; it raises where time is up.
    only : range, default None
        The draws that this chunk holds; None = all.

    Returns
    -------
    list of dict
        One row per image and draw of the padded batch.

    Raises
    ------
    TypeError, ValueError
        If the solver returns anything else than real images of the right shape.
    """
    return score(draw(session, measured, draws, batch, watch, only))


@dataclass(frozen=True)
class Drawn:
    """The images ``x`` ``(N D, C, H, W)`` of a padded batch, ``draws`` of each, to be scored.

    ``cost`` are the columns that every row has, and ``traces`` the trace of every image, if rows
    keep it.
    """

    session: Session
    measured: Measurement
    x: Tensor
    draws: int
    cost: Row
    traces: Sequence[bytes]


def draw(
    session: Session,
    measured: Measurement,
    draws: int,
    batch: int,
    watch: Callable[[], None] | None = None,
    only: range | None = None,
) -> Drawn:
    """Fit once and sample every draw; see :func:`solve`."""
    part = range(draws) if only is None else only
    sampled = sample(session, measured, draws, part, min(draws, batch), watch)
    if watch is not None:
        watch()
    demand_shape(sampled.x, (len(measured.truth), len(part), *session.prior.image_shape))
    cost = {
        **sampled.cost(len(measured.truth) * draws),
        "peak_mib": peak_mib(session.device),
        "threads": sampled.threads,
        **(UNMEASURED if isinstance(session.solver, Folder) else {}),
    }
    x = sampled.x.flatten(0, 1).float()
    kept = session.config.trace and part.start == 0
    traces = pack_traces(sampled.trace) if kept else ()
    return Drawn(session, measured, x, len(part), cost, traces)


def score(drawn: Drawn) -> list[Row]:
    """Return the rows of drawn images; code of other people may run."""
    with drawn.session.idle.scoring(), isolated(), foreign():
        rows = judge(drawn)
        put_png(rows)
    return rows


def judge(drawn: Drawn) -> list[Row]:
    """Return the rows of drawn images, with 8-bit pixels in place of each PNG."""
    scored = score_pixels(drawn.session, drawn.measured, drawn.x, drawn.draws)
    rows = [{**drawn.cost, **row} for row in scored]
    # the trace of an image stands in the row of its first draw, as its features do
    for row, data in zip(rows[:: drawn.draws], drawn.traces, strict=False):
        row[TRACE] = data
    return rows


def put_png(rows: Sequence[Row]) -> None:
    """Replace the pixels of rows by the bytes of a PNG file."""
    for row in rows:
        row["png"] = None if row["png"] is None else png(row["png"])


@dataclass(frozen=True)
class Sampled:
    """The images ``x`` ``(N, D, C, H, W)`` of a solver, with seconds and counts of all of them.

    ``fitted`` holds the counts of the fit, ``counts`` those of fit and draws together. ``rows`` is
    the number of rows that were sampled, padding included.
    """

    x: Tensor
    trace: Any
    threads: int
    seconds_fit: float
    seconds_sample: float
    fitted: Mapping[str, int]
    counts: Mapping[str, int]
    rows: int

    def cost(self, every: int) -> Row:
        """Return what one row costs, in a cell with ``every`` rows for these images.

        The draws share the fit. Draws that only fill up the last block cost the others nothing.
        """
        return {
            "seconds_fit": self.seconds_fit / every,
            "seconds_sample": self.seconds_sample / self.rows,
            "nfe_fit": self.fitted["nfe"] / every,
            **{
                name: self.fitted[name] / every + (count - self.fitted[name]) / self.rows
                for name, count in self.counts.items()
            },
        }


def sample(
    session: Session,
    measured: Measurement,
    draws: int,
    part: range,
    size: int,
    watch: Callable[[], None] | None = None,
) -> Sampled:
    """Fit and sample the draws in ``part``, in blocks of ``size`` draws, within the budget."""
    prior, device = session.prior, session.device
    cond = session.condition(measured)
    obs = Observation(measured.y, measured.operator, cond, session.perceptual, session.modules)
    noise = Noise(measured.keys, "solver", device)
    blocks = blocks_of(part, size)
    rows, planned = (
        obs.n * sum(len(block) for block, _ in some)
        for some in (blocks, blocks_of(range(draws), size))
    )
    limit, unit = limit_of(session.config.budget, planned)
    reset_peak(device)
    prior.run_as(session.execution)
    with session.idle.sampling(), isolated(), foreign(), tf32(session.execution.tf32):
        with prior.metered(limit, watching(watch), unit) as meter, pulse.following(meter):
            with clock(device) as fit:
                posterior = session.fit(obs, measured, draws, noise)
            fitted = meter.counts()
            # what the fit has left over is for the draws of all chunks
            meter.limit = meter.spent + (limit - meter.spent) * rows / planned
            with clock(device) as sample:
                samples = [posterior.sample(block) for block, _ in blocks]
                parts = [
                    demand_real(some.x)[:, :n] for some, (_, n) in zip(samples, blocks, strict=True)
                ]
                x = torch.cat(parts, dim=1)
        threads = torch.get_num_threads()  # of the solver's choice, if it has made one
    return Sampled(x, samples[0].trace, threads, fit(), sample(), fitted, meter.counts(), rows)


def score_images(session: Session, measured: Measurement, x: Tensor, draws: int) -> list[Row]:
    """Return the status, the PNG and the metrics of every output ``x`` ``(N D, C, H, W)``."""
    rows = score_pixels(session, measured, x, draws)
    put_png(rows)
    return rows


@torch.no_grad()
def score_pixels(session: Session, measured: Measurement, x: Tensor, draws: int) -> list[Row]:
    """Do as :func:`score_images`, with 8-bit pixels on the host in place of each PNG."""
    finite = x.isfinite().flatten(1).all(1)
    # a row that is not finite is scored as nothing; its neighbours never see it
    x = torch.where(finite.view(-1, 1, 1, 1), x, torch.zeros((), device=x.device))
    drawn = drawn_from(session, measured, x.unflatten(0, (-1, draws)))
    scores = score_rows(session.metrics, batch_of(measured, x, draws), drawn, finite)
    put_values(scores, session.metrics, values_of(session.metrics, scores, draws))
    demand_numbers(scores)
    if drawn.recognise is not None:
        put_variants(scores, drawn, finite)
    pixels = to_uint8(x).cpu()
    rows: list[Row] = []
    reach = x.abs().flatten(1).amax(1).tolist()
    for i, ok in enumerate(finite.tolist()):
        message = note_on(reach[i]) if ok else "the output is not finite"
        status, image = ("ok", pixels[i]) if ok else ("nan", None)
        rows.append({"status": status, "png": image, "message": message, **scores[i]})
    return rows


def drawn_from(session: Session, measured: Measurement, x: Tensor) -> DrawSet:
    """Return the draws ``x`` ``(N, D, C, H, W)`` as metrics of several draws take them.

    Exact draws of the posterior stand beside them where a metric compares with those.
    """
    operator, y = measured.operator, measured.y
    seen = operator.first_guess(y) if operator.mask is None else y
    drawn = DrawSet(x, measured.truth, operator.mask, seen)
    if any(REFERENCE in metric.needs for metric in session.metrics.values()):
        exact = exact_reference(session.config, session.prior, measured)
        drawn = replace(
            drawn,
            reference=exact.x,
            reference_mean=exact.mean,
            mode_weights=exact.mode_weights,
            assign=exact.assign,
            log_density=exact.log_density,
            score=exact.score,
        )
    if compares_variants(session.metrics.values()):
        drawn = replace(drawn, recognise=recognisers(measured))
    return drawn
