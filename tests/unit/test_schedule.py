"""The simulated schedule against sums that can be done by hand."""

from __future__ import annotations

import pytest

from evenet_hep.distributed.schedule import Site, simulate_prediction
from evenet_hep.errors import ConfigError


def test_whole_rounds() -> None:
    site = Site(
        10, 1e-3, overhead_per_event=1e-4, seconds_per_chunk=1.0, start_seconds=20, scheduler_seconds=0
    )
    forecast = simulate_prediction(1_000_000, 50_000, site)
    assert forecast.seconds == pytest.approx(20 + 2 * (50 + 5 + 1))
    assert forecast.efficiency == pytest.approx(1000 / (10 * forecast.seconds))
    assert forecast.tail_seconds == pytest.approx(0)


def test_one_chunk_too_many_makes_everybody_wait() -> None:
    site = Site(10, 1e-3, start_seconds=0, scheduler_seconds=0)
    forecast = simulate_prediction(1_050_000, 50_000, site)
    assert forecast.seconds == pytest.approx(150)
    assert forecast.tail_seconds == pytest.approx(50)


def test_a_slow_disk_decides() -> None:
    site = Site(100, 1e-5, bytes_per_event=1000, disk_bytes_per_second=1e6, start_seconds=0)
    forecast = simulate_prediction(1_000_000, 10_000, site)
    assert forecast.seconds == pytest.approx(1000, rel=0.01)
    assert forecast.disk_share == pytest.approx(1, rel=0.01)


def test_a_slow_scheduler_decides() -> None:
    site = Site(100, 1e-5, scheduler_seconds=1.0, start_seconds=0)
    forecast = simulate_prediction(1_000_000, 10_000, site)
    assert forecast.seconds == pytest.approx(100, rel=0.02)
    assert forecast.scheduler_share == pytest.approx(1, rel=0.02)


def test_reading_beside_scoring_hides_the_smaller_of_the_two() -> None:
    site = Site(1, 1e-3, overhead_per_event=5e-4, start_seconds=0, scheduler_seconds=0)
    assert simulate_prediction(10_000, 1000, site).seconds == pytest.approx(15)
    assert simulate_prediction(10_000, 1000, site._replace(is_overlapped=True)).seconds == pytest.approx(10)


def test_deaths_cost_more_with_larger_chunks() -> None:
    site = Site(20, 1e-3, hours_between_deaths=0.1, start_seconds=30)
    small, large = (simulate_prediction(10_000_000, size, site) for size in (20_000, 200_000))
    assert small.deaths > 0
    assert small.efficiency > large.efficiency + 0.1
    assert simulate_prediction(10_000_000, 20_000, site) == small


def test_nonsense_is_refused() -> None:
    with pytest.raises(ConfigError):
        simulate_prediction(0, 1, Site(1, 1.0))
    with pytest.raises(ConfigError):
        simulate_prediction(1, 1, Site(1, 0.0))
