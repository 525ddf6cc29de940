"""Values of the hot path: frozen for the type checker, plain at run time.

    @value(frozen=True, slots=True)
    class Event: ...

A frozen dataclass sets each field through `object.__setattr__`: a `Job`, of which a request makes several, took ten
times as long to make. To mypy `value` is `dataclass`, so assigning to a field still fails `make check`. Values that are
not made for each request stay what they are.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

__all__ = ["value"]

if TYPE_CHECKING:
    from dataclasses import dataclass as value
else:

    def value(*, frozen: bool, slots: bool, **options: Any):
        """`dataclass` without the check at run time. Equality and hash are those of a frozen one."""
        return dataclass(slots=slots, unsafe_hash=frozen and options.get("eq", True), **options)


@value(frozen=True, slots=True)
class _Proof:
    field: int


def _must_not_pass_the_type_checker(proof: _Proof) -> None:
    """If mypy stopped to see that values are frozen, the `ignore` would be unused, and `make check` fail."""
    proof.field = 1  # type: ignore[misc]
