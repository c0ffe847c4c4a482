"""Names of devices, and random numbers that leave the caller's alone."""

from __future__ import annotations

import pytest
import torch

from evenet_hep.errors import ConfigError, PredictionError
from evenet_hep.inference import Predictor
from evenet_hep.jet_studies.shared import JetRun
from evenet_hep.model.devices import find_device, seeded


@pytest.mark.parametrize("cards", [0, 2])
def test_cards_that_are_not_there(cards: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cards > 0)
    assert find_device("auto").type == ("cuda" if cards else "cpu")
    seen = "no GPU" if cards == 0 else "2 of them, counted from cuda:0"
    with pytest.raises(ConfigError, match=f"'cuda:2' was asked for, but this process sees {seen}"):
        find_device("cuda:2")
    if cards:
        assert find_device("cuda:1") == torch.device("cuda:1")


def test_studies_say_it_before_they_read_anything() -> None:
    with pytest.raises(ConfigError, match="device must be 'auto', 'cpu', 'cuda' or 'cuda:1'; found 'gpu'"):
        JetRun(device="gpu")
    with pytest.raises(PredictionError, match="found 'gpu'"):
        _ = Predictor("demo", device="gpu").chosen_device


def test_random_numbers_of_the_caller_go_on() -> None:
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    with seeded(1):
        torch.rand(5)
    assert torch.equal(torch.rand(3), expected)
