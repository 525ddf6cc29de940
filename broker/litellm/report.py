"""What became of each thing in LiteLLM's database."""

from collections import Counter
from dataclasses import dataclass, field

MOST_NAMED = 1000
"""Of each kind so many that did not come are named; the others are counted."""


@dataclass
class Tally:
    """Of one kind of thing."""

    kind: str
    read: int = 0
    added: int = 0
    """Or would be, in a dry run."""
    there: int = 0
    """Came with an earlier import, or were made here under the same id."""
    failed: int = 0
    """Should have come, and could not."""
    left_out: int = 0
    """Are of no use here."""
    failures: list[tuple[str, str]] = field(default_factory=list)
    """Id and reason."""
    notes: Counter[str] = field(default_factory=Counter)
    """What an operator should know, with how many things it is about."""

    def fail(self, id: str, reason: str) -> None:
        self.failed += 1
        if len(self.failures) < MOST_NAMED:
            self.failures.append((id, reason))

    def leave_out(self, reason: str) -> None:
        self.left_out += 1
        self.notes[f"left out: {reason}"] += 1


@dataclass
class Report:
    tallies: list[Tally] = field(default_factory=list)
    elsewhere: list[tuple[str, str]] = field(default_factory=list)
    """Tables and settings that are not imported, and what to do about each."""

    def tally(self, kind: str) -> Tally:
        self.tallies.append(Tally(kind))
        return self.tallies[-1]

    @property
    def complete(self) -> bool:
        """Whether everything came that should have."""
        return not any(each.failed for each in self.tallies)
