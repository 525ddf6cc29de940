"""Parameters that have no counterpart in Anthropic's API."""

from shared.errors import UnsupportedParameter


class Unsupported:
    """What to do about a parameter without a counterpart: refuse the request, or with `drop_params` leave it out."""

    def __init__(self, *, drop: bool) -> None:
        self._drop = drop

    def refuse(self, name: str, reason: str) -> None:
        if not self._drop:
            raise UnsupportedParameter(
                f"{name}: {reason}; leave it out, or set drop_params to have it dropped", param=name
            )
