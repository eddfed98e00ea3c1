"""RewardBounds: between which two numbers every value lies, from the rewards that were seen."""

from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from spnpolicy.base.distributed import largest


class RewardBounds:
    """Holds values within what rewards allow: the largest for ever, worth 1 / (1 - discount) of it, is the most.

    Bootstrapped values have no such limit of their own: errors that feed themselves, of values that are never corrected
    because replay does not hold them any more, have reached 2,745 where 1 was the largest reward. The bounds follow the
    rewards seen so far and count 0 among them, which is paid after an end. Without discount there is no bound.

    Args:
        discount: worth of a reward one step later.
    """

    def __init__(self, discount: float) -> None:
        self._horizon = 1.0 / (1.0 - discount) if discount < 1.0 else float("inf")
        self._lowest = self._highest = 0.0

    @property
    def largest(self) -> float:
        """The largest reward seen so far, in either direction."""
        return max(-self._lowest, self._highest)

    def observe(self, reward: Float[Tensor, "*batch"], valid: Bool[Tensor, "*batch"] | None = None) -> None:
        """Count rewards in; those of rows that are not valid are passed over."""
        seen = reward.where(reward.isfinite() if valid is None else valid & reward.isfinite(), 0.0)
        low, high = (float(extreme) for extreme in seen.aminmax())
        low, self._highest = largest(-min(low, self._lowest), max(high, self._highest))
        self._lowest = -low

    def hold(
        self, value: Float[Tensor, "*batch"], *, least_bonus: float = 0.0, most_bonus: float = 0.0
    ) -> Float[Tensor, "*batch"]:
        """Return the values, those beyond a bound at the bound.

        Args:
            value: returns from some state on.
            least_bonus: least that a step can earn beside its reward, such as the worth of an entropy; not above 0.
            most_bonus: most that it can; not below 0.
        """
        lowest, highest = self._lowest + least_bonus, self._highest + most_bonus
        # 0 times an infinite horizon would be nan.
        if self._horizon == float("inf"):
            return value
        return value.clamp(lowest * self._horizon, highest * self._horizon)

    def state_dict(self) -> dict[str, Any]:
        """Return what was seen."""
        return {"lowest": self._lowest, "highest": self._highest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self._lowest, self._highest = state["lowest"], state["highest"]
