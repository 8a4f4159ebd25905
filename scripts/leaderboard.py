"""Publish the leaderboard: docs/leaderboard.md, its figures, and the numbers they are made from.

    python -m scripts.leaderboard collect   # runs/ -> docs/leaderboard/*.parquet
    python -m scripts.leaderboard           # docs/leaderboard/*.parquet -> the page and its figures

The first command reads the studies of :data:`STUDIES` below ``runs``, and the searches of ``bench
tune``. What is committed of studies and searches that are not there stays. It keeps one value per
image and metric, so every interval and every test of the page can be computed again from the
committed files. The second command needs nothing else.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from posterior_bench.bench.analysis import frontier_figure, frontier_table
from posterior_bench.bench.analysis.adjacent import adjacent, adjacent_sentence
from posterior_bench.bench.analysis.families import family
from posterior_bench.bench.analysis.frontier import Frontier, frontier
from posterior_bench.bench.analysis.statistics import means_over_images
from posterior_bench.bench.analysis.study_summary import summarise_study
from posterior_bench.bench.store.atomic import write_atomic

ROOT = Path(__file__).parents[1]
RUNS, DATA, PAGE = ROOT / "runs", ROOT / "docs" / "leaderboard", ROOT / "docs" / "leaderboard.md"


@dataclass(frozen=True)
class Published:
    """A study of the page.

    Parameters
    ----------
    name : str
        The study, and its folder below ``runs``.
    command : str
        What makes its rows.
    metric : str
        The metric that ranks.
    beside : sequence of str
        Metrics that stand beside it.
    margin : float or None
        The largest difference of ``metric`` that counts as none; chosen before the rows were made.
        None if the page says of no two solvers that they are equal.
    reference : sequence of str
        Solvers that are no competitors: they are listed, and not ranked.
    direction : str
        ``down`` or ``up``: the better direction of ``metric``.
    settings_of : str or None
        The study whose searches chose the settings, if they were chosen elsewhere.
    """

    name: str
    command: str
    metric: str
    beside: Sequence[str]
    margin: float | None
    reference: Sequence[str] = ()
    direction: str = "down"
    settings_of: str | None = None


ARENA = Published(
    "arena",
    "bench study=arena operator=inpainting,projection "
    "data=arena/g2,arena/gauss8,arena/gauss64,arena/modes2,arena/modes16 "
    "data.images=256 budget=passes:100",
    "energy_distance_rel",
    ("c2st", "coverage_90", "mean_error", "cov_error"),
    0.01,
    ("exact",),
)
ARENA2 = replace(
    ARENA,
    name="arena2",
    command="bench study=arena2 data=arena/modes_imbalanced,arena/gauss256 "
    "operator=inpainting,projection data.images=64 budget=passes:100",
    settings_of="arena",
)
EMBEDDED = Published(
    "embedded",
    "bench study=embedded data=fashion mask=rotated budget=passes:100",
    "stlpips",
    ("psnr_hole", "stlpips_pasted", "consistency"),
    0.002,
)
BY_PSNR = replace(
    EMBEDDED,
    metric="psnr_hole",
    beside=("stlpips", "stlpips_pasted", "consistency"),
    margin=0.5,
    direction="up",
)
"""The same rows in another order; its margin was chosen after they were made."""
FACES = Published(
    "faces_posterior",
    "bench study=faces_posterior data.images=16 draws=8 budget=passes:100 precision=bf16",
    "face_weights_error",
    ("face_coverage", "face_distance", "face_calibration"),
    None,
    ("exact", "prior"),
)
FACES_LARGE = replace(
    FACES,
    name="faces_posterior_48",
    command="bench study=faces_posterior solver=prior,ddnm,reddiff,sitcom,vipaint2 "
    "budget=passes:100 precision=bf16",
)
"""The size that the study asks for. Both have a page of their own (scripts/faces_page.py)."""
STUDIES = (ARENA, ARENA2, EMBEDDED)
FRONTIERS = {"frontier_arena": "energy_distance_rel", "frontier_embedded": "stlpips"}
SEARCHES = {"tune_arena": "arena", "tune_embedded": "embedded", "tune_faces": "faces_posterior"}
"""Folders of ``bench tune`` below ``runs``, and the study whose presets they chose."""
NOTHING_TO_TUNE = {"exact", "prior"}
"""The best and the worst that a method can be: draws of the posterior, and of the prior."""

CELL = ("solver", "data", "mask", "operator", "prior", "seed", "images", "draws")
STATE = ("failed", "missing")
ABOUT = ("preset", "commit", "dirty", "label")


# -- from rows to the committed files --------------------------------------------------------------


def collect() -> None:
    """Write the committed files from the studies that are there."""
    DATA.mkdir(exist_ok=True)
    cells, images = [], []
    for study in (*STUDIES, FACES, FACES_LARGE):
        if not (RUNS / study.name).is_dir():
            continue
        found = summarise_study(RUNS / study.name)
        costs = pd.DataFrame([part.costs for part in found.parts])
        lines = found.lines[["cell", *CELL, *STATE, *ABOUT]].reset_index(drop=True)
        costs = costs[[c for c in costs if c not in lines]]
        cells.append(pd.concat([lines, costs], axis=1).assign(study=study.name))
        kept = [name for name in (study.metric, *study.beside) if name in found.images]
        images.append(found.images[kept].astype("float32").reset_index().assign(study=study.name))
    _update("cells", cells)
    _update("images", images)
    _collect_frontiers()
    _collect_searches()


def _collect_frontiers() -> None:
    points, best, cards = [], [], {}
    for name, metric in FRONTIERS.items():
        if (RUNS / name).is_dir():
            found = frontier([RUNS / name], metric)
            points.append(found.points.assign(study=name))
            best.append(found.best.assign(study=name))
            cards[name] = {"metric": metric, **found.card}
    _update("frontier_points", points)
    _update("frontier_best", best)
    if cards:
        path = DATA / "frontier.json"
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        write_atomic(path, json.dumps({**kept, **cards}, indent=1).encode())


def _collect_searches() -> None:
    tables = []
    for folder, study in SEARCHES.items():
        path = RUNS / folder / "tuned.csv"
        if path.exists():
            tables.append(pd.read_csv(path).assign(study=study))
    _update("tuned", tables, key=("study", "solver"))


def _update(name: str, tables: Sequence[pd.DataFrame], key: Sequence[str] = ("study",)) -> None:
    """Write a file anew; its lines with a key that is in none of these tables stay."""
    if not tables:
        return
    frame, old = pd.concat(tables), read(name)
    if old is not None:
        replaced = pd.MultiIndex.from_frame(old[[*key]]).isin(
            pd.MultiIndex.from_frame(frame[[*key]])
        )
        frame = pd.concat([old[~replaced], frame])
    frame = frame.reset_index(drop=True)
    path = DATA / f"{name}.parquet"
    part = path.with_suffix(".tmp")
    frame.to_parquet(part, compression="zstd", index=False)
    part.replace(path)


# -- from the committed files to the page ----------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """The values of one metric of a study.

    Parameters
    ----------
    study : Published
        The study.
    cells : DataFrame
        A line per cell.
    values : DataFrame
        The value of every replicate (line) and solver (column), averaged over the problems that all
        of these solvers ran. The i-th replicate holds the i-th image of every problem; images of
        different problems are independent, so replicates are too.
    problems : sequence of str
        These problems.
    """

    study: Published
    cells: pd.DataFrame
    values: pd.DataFrame
    problems: Sequence[str]

    @property
    def solvers(self) -> list[str]:
        """The ranked solvers, best first."""
        ranked = self.values.drop(columns=[*self.study.reference], errors="ignore")
        better = ranked.mean() * (-1 if self.study.direction == "up" else 1)
        return [str(name) for name in better.sort_values(kind="stable").index]


def problem_of(cell: pd.Series) -> str:
    """Return data, and mask or operator, in short."""
    data = str(cell["data"]).removeprefix("arena/").split()[0]
    operator = str(cell["operator"]).split()[0]
    return f"{data} {mask_of(cell) if operator == 'inpainting' else operator}"


def mask_of(cell: pd.Series) -> str:
    """Return the part of the image that the mask hides, if it is named, or the mask."""
    name, *settings = str(cell["mask"]).split()
    part = [word.removeprefix("part=") for word in settings if word.startswith("part=")]
    return part[0] if part else name


def read(name: str) -> pd.DataFrame | None:
    """Return a committed file; None if it is not there."""
    path = DATA / f"{name}.parquet"
    return pd.read_parquet(path) if path.exists() else None


def tables_of(study: Published, metric: str) -> list[Table]:
    """Return the tables of a study: of all solvers, and of those that ran every problem.

    A solver with a failed or missing row in a problem counts as not having run it.
    """
    cells, images = read("cells"), read("images")
    assert cells is not None
    assert images is not None
    cells = cells[cells["study"] == study.name]
    cells = cells.assign(problem=[problem_of(cell) for _, cell in cells.iterrows()])
    sound = cells[(cells["failed"] == 0) & (cells["missing"] == 0)]
    ran = sound.groupby("label")["problem"].nunique()
    everywhere = sorted(ran[ran == ran.max()].index)
    groups = [everywhere]
    if len(everywhere) < len(ran):
        groups.append(sorted(ran[ran > ran.max() / 3].index))
    return [_table(study, sound[sound["label"].isin(group)], images, metric) for group in groups]


def _table(study: Published, cells: pd.DataFrame, images: pd.DataFrame, metric: str) -> Table:
    count = cells["label"].nunique()
    shared = cells.groupby("problem")["label"].nunique()
    problems = sorted(shared[shared == count].index)
    here = cells[cells["problem"].isin(problems)][["cell", "label", "problem"]]
    long = images[["cell", "image_id", metric]].merge(here, on="cell")
    wide = long.pivot_table(index=["problem", "image_id"], columns="label", values=metric)
    return Table(study, cells, wide.groupby("image_id").mean().dropna(), problems)


def section(study: Published, title: str) -> Iterator[str]:
    """Yield the lines of a study's section."""
    tables = tables_of(study, study.metric)
    yield from (f"## {title}", "")
    for table in tables:
        pairs = adjacent(table.values[table.solvers], study.direction, study.margin, study.name)
        n = len(table.values)
        yield f"{len(table.solvers)} methods, {n} images of each of: {', '.join(table.problems)}."
        yield from (
            f"{all_pairs(table)} {adjacent_sentence(pairs, study.metric, study.margin)}",
            "",
        )
        yield from (*rows(table, pairs), "")


def all_pairs(table: Table) -> str:
    """Return in one sentence how many of all pairs are told apart."""
    tested = family(table.values[table.solvers].to_numpy(float).T, table.study.name)
    count = len(table.solvers)
    apart = int(np.triu(tested.differ, 1).sum())
    return f"Of {count * (count - 1) // 2} pairs of methods, {apart} are told apart."


def rows(table: Table, pairs: pd.DataFrame) -> Iterator[str]:
    """Yield the lines of a table: a line per solver, best first."""
    study, shown = table.study, [*table.study.reference, *table.solvers]
    shown = [name for name in shown if name in table.values]
    beside = {name: _means(table, name) for name in study.beside}
    beside = {name: column for name, column in beside.items() if column is not None}
    head = ["", "solver", study.metric, "95 %", "next", *beside, "passes", "settings"]
    yield f"| {' | '.join(head)} |"
    yield f"| ---: | --- | ---: | --- | --- |{' ---: |' * (len(beside) + 1)} --- |"
    found = means_over_images([table.values[name].to_numpy(float) for name in shown], study.name)
    verdicts = dict(zip(pairs["better"], pairs["verdict"], strict=True))
    for k, name in enumerate(shown):
        place = "" if name in study.reference else str(table.solvers.index(name) + 1)
        own = table.cells[table.cells["label"] == name]
        line = [
            *(place, f"`{name}`", f"{found.mean[k]:.4f}"),
            f"[{found.lo[k]:.4f}, {found.hi[k]:.4f}]",
            verdicts.get(name, ""),
            *(f"{column[name]:.3f}" for column in beside.values()),
            f"{own['passes'].mean():.0f}",
            settings(study, own),
        ]
        yield f"| {' | '.join(line)} |"


def _means(table: Table, metric: str) -> pd.Series | None:
    images = read("images")
    assert images is not None
    if metric not in images:
        return None
    return _table(table.study, table.cells, images, metric).values.mean()


def settings(published: Published, cells: pd.DataFrame) -> str:
    """Say whether the settings were tuned."""
    tuned = read("tuned")
    solver = cells["solver"].iloc[0]
    if solver in NOTHING_TO_TUNE:
        return ""
    study = published.settings_of or published.name
    known = set() if tuned is None else set(tuned.loc[tuned["study"] == study, "solver"])
    if solver not in known:
        return "**not tuned**"
    return f"tuned on {study}" if published.settings_of else "tuned"


def origin(studies: Sequence[Published] = STUDIES) -> Iterator[str]:
    """Yield how the rows of studies were made."""
    cells = read("cells")
    assert cells is not None
    yield from ("| command | cells | rows | failed | hours of one core | seed | commit |",)
    yield "| --- | ---: | ---: | ---: | ---: | ---: | --- |"
    for study in studies:
        own = cells[cells["study"] == study.name]
        if own.empty:
            continue
        count = own["images"].astype(int) * own["draws"].astype(int)
        seconds = own["images"].astype(int) * (
            own["seconds_fit"] + own["draws"].astype(int) * own["seconds_sample"]
        )
        commits = ", ".join(sorted({str(c)[:8] for c in own["commit"]}))
        line = [
            *(f"`{study.command}`", str(len(own)), f"{count.sum():,}"),
            *(str(own["failed"].astype(int).sum()), f"{seconds.sum() / 3600:.2f}"),
            *(", ".join(map(str, sorted(set(own["seed"])))), commits),
        ]
        yield f"| {' | '.join(line)} |"


def searches(studies: Sequence[Published] = STUDIES) -> Iterator[str]:
    """Yield the tables of the searches for studies."""
    tuned = read("tuned")
    if tuned is None:
        return
    tuned = tuned[tuned["study"].isin([study.name for study in studies])]
    for study, table in tuned.groupby("study", sort=False):
        trials, passes = table["trials"].max(), table["passes"].sum()
        yield from (f"### Settings: {study}", "")
        yield (
            f"{len(table)} solvers, {trials} trials each, {passes / 1e6:.1f} million network "
            "passes together. `before` is the preset that the search began with."
        )
        yield ""
        head = ["solver", "before", "after", "gain / SE", "passes", "flat", "setting"]
        yield f"| {' | '.join(head)} |"
        yield "| --- | ---: | ---: | ---: | ---: | --- | --- |"
        for _, line in table.sort_values("solver").iterrows():
            gain = abs(line["before"] - line["value"]) / line["gain_se"] if line["gain_se"] else 0
            setting = ", ".join(f"{k} {v}" for k, v in json.loads(line["setting"]).items())
            flat = str(line["flat"]).removesuffix(" within 2 standard errors")
            cells = [
                *(f"`{line['solver']}`", f"{line['before']:.4g}", f"{line['value']:.4g}"),
                *(f"{gain:.1f}", f"{line['passes']:,.0f}", flat, setting),
            ]
            yield f"| {' | '.join(cells)} |"
        yield ""


def frontiers() -> Iterator[str]:
    """Yield who is best at which budget, and draw the figures."""
    points, best = read("frontier_points"), read("frontier_best")
    if points is None or best is None:
        return
    cards: Mapping[str, Any] = json.loads((DATA / "frontier.json").read_text(encoding="utf-8"))
    for study, card in cards.items():
        mine = (points["study"] == study, best["study"] == study)
        found = Frontier(
            str(card["metric"]),
            card,
            points[mine[0]].drop(columns="study").reset_index(drop=True),
            best[mine[1]].drop(columns="study").reset_index(drop=True),
        )
        for problem in found.points["problem"].unique():
            stem = f"frontier_{''.join(c if c.isalnum() else '_' for c in str(problem))}"
            for name, data in frontier_figure.files(found, str(problem), stem).items():
                if name.endswith(".svg") and "column" not in name:
                    write_atomic(DATA / name, data)
                    yield from (f"![{problem}](leaderboard/{name})", "")
        yield from frontier_table.problem_tables(found, "###")
        yield ""


def page() -> str:
    """Return the page."""
    parts = {
        "origin": origin(),
        "arena": section(ARENA, "Arena: distance to the exact posterior"),
        "arena2": section(ARENA2, "Second arena: a rare mode, and 256 dimensions"),
        "embedded": section(EMBEDDED, "Embedded pixel prior: inpainting of garments"),
        "by_psnr": section(BY_PSNR, "The same garments, by PSNR in the hole"),
        "frontiers": frontiers(),
        "searches": searches(),
    }
    return filled("page.txt", parts)


def filled(template: str, parts: Mapping[str, Iterable[str]]) -> str:
    """Return a committed text with lines in place of the marks ``<!-- name -->``.

    Parameters
    ----------
    template : str
        The file below ``docs/leaderboard``.
    parts : Mapping[str, Iterable[str]]
        By mark, the lines. Lines of marks that the text does not have are not made.
    """
    text = (DATA / template).read_text(encoding="utf-8")
    for name, lines in parts.items():
        if (mark := f"<!-- {name} -->") in text:
            text = text.replace(mark, "\n".join(lines).strip())
    return text.rstrip() + "\n"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", nargs="?", choices=["collect"], help="read the studies below runs")
    if parser.parse_args().what == "collect":
        collect()
    write_atomic(PAGE, page().encode())


if __name__ == "__main__":
    main()
