"""Muon against torch's own and against singular value decompositions."""

import copy

import pytest
import torch
from torch import nn

from spnpolicy.parts.learner import gradient_steps, make_optimizer
from spnpolicy.parts.muon import Muon, orthogonal
from spnpolicy.parts.rectified_adam import RectifiedAdam
from spnpolicy.parts.settings import AdamSettings

MUON = AdamSettings(0.01, method="muon")


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 20, 64), (2, 64, 129)])
def test_a_turned_matrix_keeps_its_singular_vectors_and_all_values_come_near_one(shape):
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape, dtype=torch.double), full_matrices=False)
    values = torch.linspace(1.0, 0.05, shape[1], dtype=torch.double)
    turned = left.mT @ orthogonal(left @ values.diag() @ right) @ right.mT
    found = turned.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(turned, found.diag_embed(), rtol=0.0, atol=1e-10)
    assert 0.5 < float(found.min()) <= float(found.max()) < 1.25


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (32, 32)])
def test_steps_are_those_of_torch_on_single_matrices(shape):
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("torch has Muon from 2.9 on")
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.zeros(shape)) for _ in range(2))
    other = torch.optim.Muon([theirs], 0.01, weight_decay=0.0, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    optimizers = make_optimizer([ours], MUON), other
    for _ in range(20):
        gradient = torch.randn(shape)
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    # Torch computes in bfloat16, which has 8 bits.
    torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=0.0, atol=0.02 * float(ours.detach().norm()))
    assert float((ours - theirs).detach().norm()) < 0.02 * float(ours.detach().norm())


def test_stacks_are_turned_matrix_by_matrix_and_a_matrix_on_its_side_like_one_that_stands():
    torch.manual_seed(0)
    stack = nn.Parameter(torch.zeros(3, 20, 50))
    single = [nn.Parameter(torch.zeros(50, 20)) for _ in range(3)]
    gradient = torch.randn(3, 20, 50)
    stack.grad = gradient.clone()
    for parameter, each in zip(single, gradient, strict=True):
        parameter.grad = each.mT.clone()
    for parameters in ([stack], single):
        make_optimizer(parameters, MUON).step()
    torch.testing.assert_close(stack.detach(), torch.stack([each.detach().mT for each in single]))
    assert float(stack.detach().abs().mean()) == pytest.approx(0.2 * 0.01 * 0.8, rel=0.2)


def test_what_is_no_matrix_descends_by_radam_and_what_has_no_gradient_stays():
    torch.manual_seed(0)
    shapes = [(40,), (64, 5), (1, 3, 80), ()]
    ours, theirs = ([nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2))
    matrix, idle = nn.Parameter(torch.ones(16, 16)), nn.Parameter(torch.ones(16, 16))
    pairs = make_optimizer([*ours, matrix, idle], MUON), RectifiedAdam(theirs, lr=0.01, fused=True)
    for _ in range(12):
        for first, second in zip(ours, theirs, strict=True):
            first.grad = torch.randn(first.shape)
            second.grad = first.grad.clone()
        matrix.grad = torch.zeros(16, 16)
        for optimizer in pairs:
            optimizer.step()
    assert all(torch.equal(first, second) for first, second in zip(ours, theirs, strict=True))
    assert not torch.equal(ours[0], torch.ones(40))
    assert torch.equal(matrix, torch.ones(16, 16))
    assert torch.equal(idle, torch.ones(16, 16))


def test_it_goes_on_from_a_checkpoint_to_the_last_bit_and_counts_its_steps():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1))
    data = torch.randn(64, 16)

    def go_on(network, optimizer):
        for _ in range(7):
            optimizer.zero_grad()
            network(data).square().mean().backward()
            optimizer.step()

    first = make_optimizer(network.parameters(), MUON)
    go_on(network, first)
    twin = copy.deepcopy(network)
    second = make_optimizer(twin.parameters(), MUON)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    go_on(network, first)
    go_on(twin, second)
    assert all(torch.equal(*pair) for pair in zip(network.parameters(), twin.parameters(), strict=True))
    assert gradient_steps({"critic_optimizer": second.state_dict()}) == 14


def test_badly_scaled_inputs_are_fitted_in_far_fewer_steps_than_by_adam():
    """Features that differ a thousandfold in size: what Muon is for."""

    def error(settings):
        torch.manual_seed(0)
        scales = torch.logspace(0, -3, 32)
        x, truth = torch.randn(512, 32) * scales, torch.randn(32, 16) / scales.unsqueeze(1)
        # A rotation: otherwise Adam, which scales every entry, would see the scales.
        rotation = torch.linalg.qr(torch.randn(32, 32)).Q
        layer = nn.Linear(32, 16, bias=False)
        optimizer = make_optimizer(layer.parameters(), settings)
        for step in range(400):
            optimizer.param_groups[0]["lr"] = settings.learning_rate * (1.0 - step / 400)
            optimizer.zero_grad()
            loss = (layer(x @ rotation) - x @ truth).square().mean()
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    sizes = (0.1, 1.0, 10.0)
    muon, adam = (min(error(AdamSettings(size, method=each)) for size in sizes) for each in ("muon", "adam"))
    assert muon < 0.3 * adam


def test_the_settings_choose_it():
    assert type(make_optimizer([nn.Parameter(torch.ones(16, 16))], MUON)) is Muon


@pytest.mark.parametrize("size", [1e-9, 1e-20, 1e-36, 1e-44, 0.0])
def test_gradients_that_are_only_rounding_move_little_and_stay_finite(size):
    """A policy that is optimal already has such; their squares underflow, and divided by 0 they would be nan."""
    turned = orthogonal(size * torch.randn(2, 20, 30, generator=torch.Generator().manual_seed(0)))
    assert bool(torch.isfinite(turned).all())
    # The polynomial grows small singular values by 3.44 in each of five rounds.
    assert float(turned.norm()) <= min(1e3 * size * 60 / 1e-7, 8.0)
