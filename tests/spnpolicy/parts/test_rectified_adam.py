"""RAdam against torch's own, and what its first steps do."""

import copy

import pytest
import torch
from torch import nn

from spnpolicy.parts.learner import make_optimizer
from spnpolicy.parts.rectified_adam import RectifiedAdam, rectification
from spnpolicy.parts.settings import AdamSettings


def test_steps_are_those_of_radam_from_the_sixth_on():
    torch.manual_seed(0)
    ours, theirs = (torch.zeros(7, dtype=torch.double, requires_grad=True) for _ in range(2))
    optimizers = RectifiedAdam([ours], lr=0.01, fused=True), torch.optim.RAdam([theirs], lr=0.01)
    for step in range(1, 60):
        before = ours.detach().clone(), theirs.detach().clone()
        gradient = torch.randn(7, dtype=torch.double)
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
        if step <= 5:
            assert torch.equal(ours, before[0])
        else:
            torch.testing.assert_close(ours - before[0], theirs - before[1], rtol=1e-6, atol=0.0)
    assert optimizers[0].param_groups[0]["lr"] == 0.01


def test_the_share_of_a_full_step_grows_towards_one():
    shares = [rectification(step, 0.999) for step in (1, 5, 6, 100, 1_000, 100_000)]
    assert shares[:2] == [0.0, 0.0]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0, abs=1e-6)
    assert shares[3] == pytest.approx(0.22, abs=0.02)  # sqrt(step / 2000), Ma and Yarats 2021


def test_settings_choose_it_and_it_goes_on_from_a_checkpoint():
    parameter = nn.Parameter(torch.ones(3))
    settings = AdamSettings(0.1, method="radam")
    first = make_optimizer([parameter], settings)
    assert type(first) is RectifiedAdam
    assert type(make_optimizer([parameter], AdamSettings(0.1))) is torch.optim.Adam
    for _ in range(8):
        parameter.grad = torch.ones(3)
        first.step()
    again = make_optimizer([other := nn.Parameter(parameter.detach().clone())], settings)
    again.load_state_dict(copy.deepcopy(first.state_dict()))
    for each, optimizer in ((parameter, first), (other, again)):
        each.grad = torch.ones(3)
        optimizer.step()
    assert torch.equal(parameter, other)
    assert not torch.equal(parameter, torch.ones(3))
