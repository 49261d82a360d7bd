"""Flag values that several commands share."""

from enum import StrEnum


class YesNoBoth(StrEnum):
    """A filter on something that is or is not; `true` and `false` mean yes and no."""

    BOTH = "both"
    YES = "yes"
    TRUE = "true"
    NO = "no"
    FALSE = "false"

    @property
    def wanted(self) -> bool | None:
        """What is wanted, or None for either."""
        if self is YesNoBoth.BOTH:
            return None
        return self in (YesNoBoth.YES, YesNoBoth.TRUE)

    def allows(self, value: bool) -> bool:
        """Tells whether something that is so, or not, passes."""
        return self.wanted is None or self.wanted == value
