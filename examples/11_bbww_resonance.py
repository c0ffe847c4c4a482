"""The search for X -> YH -> bb WW from simulation to expected limits, and the figures of its page in the documentation.

    evenet-hep simulate --plan bbww_resonance --out events/bbww --seed 3001 --cores 2
    python examples/11_bbww_resonance.py --events events/bbww --checkpoint pretrained-tiny --out bbww

does what ``evenet-hep analyse bbww-resonance`` does, and prints which method is best where. Every step is kept in the folder,
so that the script may be stopped and started again. With ``--docs docs/analyses`` the tables and figures of the page are
written from what the folder holds.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from matplotlib import image
from matplotlib import pyplot as plt

import evenet_hep
from evenet_hep.analyses.bbww_resonance import analyse_bbww, read_bbww_config
from evenet_hep.analyses.folder import AnalysisReport

FIGURES = (
    "significance",
    "winners",
    "ratio_finetuned_xgboost",
    "ratio_finetuned_scratch",
    "ratio_parametrised_xgboost",
    "roc",
    "topness",
    "templates",
    "limits",
    "closure",
    "stability_nominal_cut",
    "stability_best_cut",
)


def number(value: Any, digits: int = 2) -> str:
    """A number of a table; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def significance(rows: Sequence[dict[str, Any]]) -> str:
    """Significance improvement and AUC of every method at every point."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    table = []
    for name in dict.fromkeys(row["point"] for row in rows):
        mine = {row["method"]: row for row in rows if row["point"] == name}
        first = next(iter(mine.values()))
        best = max(row["sic"] for row in mine.values())
        cells = [f"{first['m_x']:g}, {first['m_y']:g}"]
        for method in methods:
            row = mine[method]
            spread = "" if row["sic_spread"] is None else f" ± {number(row['sic_spread'])}"
            text = f"{number(row['sic'])} ± {number(row['sic_error'])}{spread}"
            cells.append(f"{'**' + text + '**' if row['sic'] == best else text} ({number(row['auc'], 3)})")
        table.append(cells)
    return markdown(["m_X, m_Y", *methods], table)


def background(rows: Sequence[dict[str, Any]]) -> str:
    """What is left of the background at the cut of the largest improvement."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    table = []
    for name in dict.fromkeys(row["point"] for row in rows):
        mine = {row["method"]: row for row in rows if row["point"] == name}
        first = next(iter(mine.values()))
        table.append(
            [
                f"{first['m_x']:g}, {first['m_y']:g}",
                *(
                    f"{mine[m]['background_yield']:.0f} ({number(mine[m]['background_effective'], 0)})"
                    for m in methods
                ),
            ]
        )
    return markdown(["m_X, m_Y", *methods], table)


def limits(rows: Sequence[dict[str, Any]]) -> str:
    """Expected limits, and what they would be with unlimited simulation."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    table = []
    for name in dict.fromkeys(row["point"] for row in rows):
        mine = {row["method"]: row for row in rows if row["point"] == name}
        first = next(iter(mine.values()))
        cells = [
            f"{number(mine[m]['limit_pb'])} ({number(mine[m]['limit_pb_infinite_simulation'], 3)})"
            for m in methods
        ]
        table.append([f"{first['m_x']:g}, {first['m_y']:g}", *cells])
    return markdown(["m_X, m_Y", *methods], table)


def closure(toys: Sequence[dict[str, Any]], rates: Sequence[dict[str, Any]]) -> str:
    """Pulls at every injected strength, and false positives."""
    rows = [
        [
            row["point"],
            number(row["injected"], 0),
            f"{number(row['found'])} ± {number(row['found_error'])}",
            f"{number(row['pull_mean'])} ± {number(row['pull_mean_error'])}",
            f"{number(row['pull_width'])} ± {number(row['pull_width_error'])}",
            f"{row['toys']} ({row['failed']} failed)",
        ]
        for row in toys
    ]
    wrong = [
        [
            row["point"],
            number(row["z"], 0),
            f"{100 * row['rate']:.1f} ± {100 * row['rate_error']:.1f} %",
            f"{100 * row['expected']:.1f} %",
            str(row["toys"]),
        ]
        for row in rates
    ]
    head = ["point", "injected", "found", "mean of the pulls", "width of the pulls", "toys"]
    return (
        markdown(head, rows)
        + "\n"
        + markdown(["point", "above Z", "found without signal", "expected", "toys"], wrong)
    )


def systematics(rows: Sequence[dict[str, Any]]) -> str:
    """Half widths of the central 68 % and 95 %, absolute and in statistical errors."""
    table = [
        [
            row["point"],
            row["method"],
            row["shift"].replace("_", " "),
            row["figure"].replace("_", " "),
            f"{number(row['nominal'])} ± {number(row['statistical_error'])}",
            f"{number(row['mean_movement'], 3)}",
            f"{number(row['half_width_68'], 3)} / {number(row['half_width_95'], 3)}",
            f"{number(row['half_width_68_in_statistical_errors'])} / {number(row['half_width_95_in_statistical_errors'])}",
        ]
        for row in rows
    ]
    head = [
        "point",
        "method",
        "shift",
        "figure",
        "nominal",
        "mean movement",
        "68 / 95 %, absolute",
        "68 / 95 %, statistical errors",
    ]
    return markdown(head, table)


def cutflow(rows: Sequence[dict[str, Any]]) -> str:
    """Events after each cut."""
    cuts = ["all", "one_lepton", "tau_veto", "two_bjets", "two_light", "dr_l_jnear", "topness"]
    table = [
        [
            row["sample"],
            *(f"{row[cut]:.0f}" for cut in cuts),
            f"{row['yield']:.0f} ± {row['yield_error']:.0f}",
        ]
        for row in rows
    ]
    return markdown(["sample", *(cut.replace("_", " ") for cut in cuts), "yield"], table)


def smaller(source: Path, target: Path, *, limit: int = 140_000) -> None:
    """A figure for the documentation, with fewer points if it is large."""
    if source.stat().st_size <= limit:
        shutil.copy(source, target)
        return
    picture = image.imread(source)[::2, ::2]
    plt.imsave(target, picture)


def write_page(out: Path, docs: Path) -> None:
    """Tables and figures of the page, from the folder of the analysis."""
    read = {path.stem: json.loads(path.read_text()) for path in out.glob("*.json")}
    settings = yaml.safe_load((out / "config.yaml").read_text())["settings"]
    versions = (
        f"evenet_hep {evenet_hep.__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    )
    seeds = f"trainings {settings['seeds']}, shifts {settings['systematics']['seed']}, toys {settings['closure']['seed']}"
    parts = [f"{versions}; seeds: {seeds}."]
    # A folder of a run that is not finished gives the part of the page that is.
    if "cutflow" in read:
        parts.append(f"### Selection\n\n{cutflow(read['cutflow'])}")
    if rows := read.get("significance"):
        parts.append(f"### Significance improvement (AUC)\n\n{significance(rows)}")
        title = "Background at that cut, expected events (effective simulated events)"
        parts.append(f"### {title}\n\n{background(rows)}")
    if "limits" in read:
        parts.append(f"### Expected limits in pb (with unlimited simulation)\n\n{limits(read['limits'])}")
    if "closure" in read:
        parts.append(f"### Closure\n\n{closure(read['closure'], read['false_positives'])}")
    if read.get("systematics"):
        parts.append(f"### Systematic shifts\n\n{systematics(read['systematics'])}")
    if "summary" in read:
        parts.append("### In words\n\n" + read["summary"]["summary"])
    (docs / "bbww-resonance-results.txt").write_text("\n\n".join(parts) + "\n")
    for name in FIGURES:
        if (out / f"{name}.png").is_file():
            smaller(out / f"{name}.png", docs / f"bbww-{name.replace('_', '-')}.png")


def tell(report: AnalysisReport) -> None:
    """Print what was found."""
    print(report.summary)
    for row in report.tables["winners"]:
        print(
            f"m_X = {row['m_x']:g}, m_Y = {row['m_y']:g}: {row['winner']}, {row['lead']:.2f} times {row['runner_up']}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--events", type=Path, help="folder of evenet-hep simulate; not needed to rewrite the page"
    )
    parser.add_argument("--checkpoint", default="", help="pretrained network")
    parser.add_argument("--out", type=Path, required=True, help="folder of the analysis")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another setting")
    parser.add_argument("--docs", type=Path, help="write the tables and figures of the page there")
    args = parser.parse_args()
    if args.events is not None:
        config = read_bbww_config(settings=[f"checkpoint={args.checkpoint}", *args.set])
        tell(analyse_bbww(args.events, args.out, config, progress=True))
    if args.docs is not None:
        write_page(args.out, args.docs)


if __name__ == "__main__":
    main()
