"""What the configuration says about the costs of a deployment."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tier:
    """Costs of every token, in dollars, when the prompt is longer than this; None means that of shorter prompts."""

    start: int
    """Tokens."""
    input: float | None = None
    output: float | None = None
    cache_read: float | None = None
    cache_write: float | None = None


@dataclass(frozen=True, slots=True)
class Prices:
    """Custom costs of a deployment in dollars per token; None means the public price list."""

    input: float | None = None
    output: float | None = None
    cache_read: float | None = None
    cache_write: float | None = None
    cache_write_1h: float | None = None
    reasoning: float | None = None
    above: tuple[Tier, ...] = ()
    """Other prices of longer prompts, the least of them first."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What becomes of a provider's price on the bill: first the discount, then the margin on what is left."""

    discount: float = 0.0
    """What is taken off: 0.05 is a twentieth."""
    margin: float = 0.0
    """What is added, as a share of the cost: 0.1 is a tenth."""
    fee: float = 0.0
    """Dollars that each request which used tokens costs on top."""


PUBLIC = Prices()
"""Those of the public price list."""

AS_LISTED = Terms()
