"""Questions to the bill, and its answers. Money is nano-dollars, days are UTC."""

from dataclasses import dataclass
from datetime import date
from enum import StrEnum


class Subject(StrEnum):
    """Whose spend it is."""

    KEY = "key"
    USER = "user"
    TEAM = "team"
    CUSTOMER = "customer"
    TAG = "tag"


class Dimension(StrEnum):
    """What sums may be taken apart by, beside the day and the subject. Tags have key, group, model and provider;
    customers have group, model and provider."""

    KEY = "key"
    USER = "user"
    TEAM = "team"
    GROUP = "group"
    MODEL = "model"
    """The upstream's model."""
    PROVIDER = "provider"
    ENDPOINT = "endpoint"


@dataclass(frozen=True, slots=True)
class ActivityQuery:
    start: date | None = None
    end: date | None = None
    """Inclusive."""
    subject: Subject | None = None
    """Sums by subject; None: of everybody together."""
    ids: tuple[str, ...] = ()
    """Of the subject; empty: all that are not empty."""
    by: tuple[Dimension, ...] = ()
    daily: bool = True
    """False: over all days together."""
    key: str | None = None
    group: str | None = None
    """Filters."""


@dataclass(frozen=True, slots=True)
class Activity:
    day: date | None
    """None when the days were taken together."""
    subject: str
    """Empty without a subject."""
    by: tuple[str, ...]
    """In the query's order."""
    cost: int = 0
    prompt_tokens: int = 0
    """All input, cached or not."""
    completion_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    requests: int = 0
    """Attempts: rows of the ledger."""
    succeeded: int = 0
    failed: int = 0
    """All others, cancelled ones included."""
