from __future__ import annotations

import pytest
import torch
from torch import Tensor

from evenet_hep.model import packing
from evenet_hep.model.packing import Rows, arrange


def sample() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(40, 6, generator=generator) < torch.rand(40, 1, generator=generator)
    mask[3] = False
    return mask, torch.randn(40, 6, 2, generator=generator)


def test_every_real_object_has_one_row_and_comes_back() -> None:
    mask, x = sample()
    rows = arrange(mask)
    assert rows.slot is not None
    assert sorted(rows.slot.tolist()) == mask.flatten().nonzero().flatten().tolist()
    assert torch.equal(rows.put(rows.take(x)), torch.where(mask[..., None], x, 0.0))
    assert [group.slots for group in rows.groups] == sorted({int(n) for n in mask.sum(dim=1) if n})


def test_groups_hold_whole_events_with_their_masks_and_pairs() -> None:
    mask, _ = sample()
    number = torch.arange(mask.numel()).view(40, 6, 1)
    allowed = torch.rand(40, 6, 6, generator=torch.Generator().manual_seed(1)) < 0.5
    keep = mask | (torch.arange(40) % 2 == 0)[:, None]
    for kept in (mask, keep):
        rows = arrange(mask, attention_mask=allowed, keep=kept)
        for part, group in zip(rows.split(rows.take(number)), rows.groups, strict=True):
            slots = part[..., 0]
            event, place = slots // 6, slots % 6
            assert (event == event[:, :1]).all()
            assert (mask.sum(dim=1)[event[:, 0]] <= group.slots).all()
            real = mask.flatten()[slots]
            assert real.all() if group.mask is None else torch.equal(group.mask, real)
            assert group.pairs is not None
            for e in range(group.events):
                expected = allowed[event[e, 0]][place[e]][:, place[e]]
                assert torch.equal(group.pairs[e], expected)


def test_one_mask_for_all_events() -> None:
    mask, _ = sample()
    allowed = torch.rand(6, 6, generator=torch.Generator().manual_seed(1)) < 0.5
    one, each = (arrange(mask, attention_mask=pairs) for pairs in (allowed, allowed.expand(40, 6, 6)))
    for group, other in zip(one.groups, each.groups, strict=True):
        assert group.pairs is not None
        assert other.pairs is not None
        assert torch.equal(group.pairs, other.pairs)


def test_a_batch_without_objects_keeps_its_slots() -> None:
    rows = arrange(torch.zeros(3, 4, dtype=torch.bool))
    assert rows.slot is None
    assert (rows.put(torch.ones(12, 2)) == 0).all()


@pytest.mark.parametrize("most", [1, 7, 20, 1000])
def test_pieces_share_out_the_rows_of_whole_events(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "rows_at_once", lambda width: most)
    mask, x = sample()
    sizes = []

    def double(rows: Rows) -> Tensor:
        taken = rows.take(x)
        sizes.append(len(taken))
        assert sum(group.events * group.slots for group in rows.groups) == len(taken)
        return 2 * taken

    with torch.no_grad():
        result = arrange(mask).apply(double, width=2)
    assert torch.equal(result, torch.where(mask[..., None], 2 * x, 0.0))
    assert max(sizes) <= max(most, 6)
    arrange(mask).apply(double, width=2)
    assert sizes[-1] == mask.sum()  # all at once where there are gradients
