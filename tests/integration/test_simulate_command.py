"""``evenet-hep simulate`` as a user types it."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path

import pytest
import uproot
from rich.console import Console

from evenet_hep import cli
from evenet_hep.cli import simulate as simulate_command
from evenet_hep.simulate.detector import CARDS, load_card


def command(*words: object) -> tuple[int, str, str]:
    """Exit code, output and errors."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["evenet-hep", "simulate", *map(str, words)])
        patch.setattr(simulate_command, "console", Console(width=160, color_system=None))
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
    return (code if isinstance(code, int) else 0), out.getvalue(), err.getvalue()


def test_list_names_every_process_and_skim() -> None:
    code, out, _ = command("--list")
    assert code == 0
    for word in ("TT1L", "haa4b", "m_a", "xyh", "ttW", "Upsilon", "4j2b", "--lhe"):
        assert word in out


def test_a_printed_card_can_be_used(tmp_path: Path) -> None:
    code, out, _ = command("--show-card", "--card", "atlas")
    assert code == 0
    path = tmp_path / "card.yaml"
    path.write_text(out)
    assert load_card(path) == CARDS["atlas"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["TT", "--events", 5], "where should the events go? give --out FOLDER"),
        (["--out", "x"], "give processes, --set or --plan, one of the three; found none of them"),
        (["TT", "--set", "all", "--out", "x"], "one of the three; found processes and --set"),
        (["TT", "--out", "x"], "how many events of TT? give --events, or TT:events=..."),
        (["TTT", "--events", 5, "--out", "x"], "there is no process 'TTT'; did you mean TT"),
        (
            ["TT", "--events", 5, "--out", "x", "--spin", "up"],
            "--spin must be weights or unweighted; found 'up'",
        ),
        (
            ["TT", "--events", 5, "--out", "x", "--card", "lhcb"],
            "--card must be cms, atlas or a YAML file; found 'lhcb'",
        ),
    ],
)
def test_mistakes_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[object], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = command(*words)
    assert code == 1
    assert err.startswith("error: ")
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_two_processes_and_a_second_call(tmp_path: Path) -> None:
    pytest.importorskip("pythia8mc")
    pytest.importorskip("fastjet")
    words = [
        "WZ_3L:events=6",
        "haa4b:m_a=40",
        "--events",
        4,
        "--out",
        tmp_path,
        "--seed",
        5,
        "--card",
        "atlas",
    ]
    code, out, err = command(*words)
    assert code == 0, err
    assert "2 files in" in out
    assert "FastJet release" not in out
    assert uproot.open(tmp_path / "haa4b_m_a40" / "haa4b_m_a40_0000.root")["Events"].num_entries == 4
    about = json.loads((tmp_path / "WZ_3L" / "WZ_3L_0000.json").read_text())
    assert about["events"] == about["generated"] == 6
    assert about["class"] == "WZ"
    assert about["request"]["card"]["name"] == "atlas"
    assert about["cross_section_pb"] > 0.0
    assert about["versions"]["pythia8mc"].startswith("8.")
    assert 1 <= about["pythia_seed"] <= 900_000_000
    code, out, _ = command(*words)
    assert code == 0
    assert "2 files in" in out
    assert ", 2 were there" in out
