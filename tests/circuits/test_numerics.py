"""The rules of the numerics at minus infinity, one function at a time."""

import torch

from circuits import numerics

ROWS = torch.tensor(
    [[-torch.inf, -torch.inf], [-torch.inf, 3.0], [1e4, 1e4], [-1e4, 2.0], [0.0, -0.5]], dtype=torch.float64
)


def test_logsumexp_of_nothing_is_minus_infinity_with_gradient_zero() -> None:
    values = ROWS.clone().requires_grad_()
    total = numerics.logsumexp(values, -1)
    assert total[0] == -torch.inf
    torch.testing.assert_close(total[1:], ROWS[1:].logsumexp(-1))
    (gradient,) = torch.autograd.grad(total.sum(), values)
    assert gradient[0].tolist() == [0.0, 0.0]
    torch.testing.assert_close(gradient[1:], ROWS[1:].softmax(-1))


def test_posterior_of_the_impossible_is_zero_with_gradient_zero() -> None:
    joint = ROWS.clone().requires_grad_()
    total = numerics.logsumexp(ROWS, -1).unsqueeze(-1).requires_grad_()
    share = numerics.posterior(joint, total)
    assert share[0].tolist() == [0.0, 0.0]
    torch.testing.assert_close(share[1:], ROWS[1:].softmax(-1))
    for gradient in torch.autograd.grad(share.sum(), (joint, total)):
        assert torch.isfinite(gradient).all()
        assert (gradient[0] == 0).all()


def test_an_impossible_event_of_infinite_value_counts_nothing() -> None:
    probability = torch.tensor([0.0, 0.5, 0.5], requires_grad=True)
    value = torch.tensor([-torch.inf, 2.0, 4.0])
    assert numerics.weighted(probability, value).sum() == 3.0
    (gradient,) = torch.autograd.grad(numerics.weighted(probability, value).sum(), probability)
    assert torch.isfinite(gradient).all()
    assert numerics.weighted(torch.tensor([0.1]), torch.tensor([-torch.inf])).item() == -torch.inf
