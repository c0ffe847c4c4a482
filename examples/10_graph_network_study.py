"""Does pretraining help the graph network? Twelve processes, five tasks, five seeds, at a size that two cores can do.

    evenet-hep simulate --set all --seed 2026 --out all --cores 2
    python examples/10_graph_network_study.py --data all --out graph_study

The study of ``evenet-hep graph-study`` with another plan: 1000 training events per class in place of up to 100 000, and what the
set ``all`` has in place of 100 000 pretraining events per class. Every network is kept in ``--out``: run it again after an
interruption and it goes on where it was. Writes ``tables.md``, ``results.json``, ``curves.png`` and ``sizes.png`` there. About ten minutes on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from evenet_hep.graph_study.plan import GraphStudyPlan
from evenet_hep.graph_study.study import run_study

PLAN = GraphStudyPlan(
    pretraining=(
        "TT1L", "ttH", "ST_t", "ST_s", "ggH", "VBF", "WH", "ZH", "WW_1L", "WZ_1L", "ZZ_4L", "HWW_WpLepWmLep",
    ),
    tasks={
        "WH, ZH": ("WH", "ZH"),
        "VBF, ggH": ("VBF", "ggH"),
        "ttH, TT": ("ttH", "TT1L"),
        "X -> YH, TT": ("xyh_m_x500_m_y90", "TT1L"),
        "H -> aa -> 4b, QCD": ("haa4b_m_a30", "QCD_bb"),
    },
    sizes=(1000,),
    pretraining_events=2000,
    pretraining_epochs=5,
    epochs=5,
    batch_size=128,
    validation=300,
    test=800,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of evenet-hep simulate --set all")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--cores", type=int, default=1, help="networks that are trained at the same time")
    args = parser.parse_args()
    torch.set_num_threads(1)
    run_study(
        args.data,
        args.out,
        PLAN,
        device=args.device,
        cores=args.cores,
        say=lambda text: print(text, flush=True),
    )
    print((args.out / "tables.md").read_text())


if __name__ == "__main__":
    main()
