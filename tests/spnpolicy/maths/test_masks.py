import torch

from spnpolicy.maths.masks import usable, zero_where_stuck


def test_where_nothing_is_allowed_everything_that_exists_is():
    exists = torch.tensor([[True, True, False], [True, True, True]])
    available = torch.tensor(
        [
            [[True, False, False], [False, True, True]],
            [[False, False, True], [True, False, True]],  # the first agent may only do what does not exist
            [[False, False, False], [True, False, True]],
        ]
    )
    mask = usable(available, (2, 3))
    assert torch.equal(mask[0], available[0])
    for row in (1, 2):
        assert torch.equal(mask[row, 0], exists[0])
        assert torch.equal(mask[row, 1], available[row, 1])
    assert zero_where_stuck(torch.tensor([1.0, 2.0, 3.0]), available).tolist() == [1.0, 2.0, 0.0]
