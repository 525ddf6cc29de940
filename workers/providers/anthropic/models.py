"""What a Claude model accepts, read from its name.

Versions decide instead of lists of ids, so that a model published tomorrow behaves like its newest relative. Sources:
https://platform.claude.com/docs/en/about-claude/models/overview and the migration guide of each model.
"""

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

_LINE = re.compile(r"opus|sonnet|haiku|fable|mythos")
_VERSION = re.compile(r"(?<![\d.])(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")  # 8 digits are a date, not a version

_NEWEST = (99, 0)  # a name without a version (an alias, a preview) gets today's rules
_NO_LIMIT = (99, 99)

_MAX_TOKENS: tuple[tuple[tuple[int, int], str, int], ...] = (
    ((3, 5), "", 4_096),
    ((3, 7), "", 8_192),
    ((4, 0), "", 64_000),
    ((4, 5), "opus", 32_000),
    ((4, 6), "", 64_000),
    ((4, 7), "sonnet", 64_000),
    (_NO_LIMIT, "haiku", 64_000),
    (_NO_LIMIT, "", 128_000),
)
"""(versions below, line or any, tokens): the most that the vendor lets the models write, because OpenAI's default is
"until the model is done" while Anthropic demands a number."""

UNKNOWN_MAX_TOKENS = 4_096
"""For a model that is not a Claude: every model on this wire format allows that many."""


class NoThinking(Enum):
    """How a model is told not to think."""

    OMIT = "omit"  # it thinks only when asked
    DISABLED = "disabled"
    BETWEEN_TOOLS = "between_tools"
    IMPOSSIBLE = "impossible"  # the lowest effort is all there is


@dataclass(frozen=True, slots=True)
class Model:
    line: str
    """opus, sonnet, haiku, fable or mythos; empty when the name shows none."""
    version: tuple[int, int]
    claude: bool = True

    @property
    def max_tokens(self) -> int:
        if not self.claude:
            return UNKNOWN_MAX_TOKENS
        return next(
            tokens for below, line, tokens in _MAX_TOKENS if self.version < below and (not line or line == self.line)
        )

    @property
    def structured_outputs(self) -> bool:
        """`output_config.format` is enforced; without it a forced tool call stands in."""
        return self.claude and self.version >= ((4, 1) if self.line == "opus" else (4, 5))

    @property
    def thinks(self) -> bool:
        return self.claude and self.version >= (3, 7)

    @property
    def adaptive_thinking(self) -> bool:
        """`thinking: adaptive` with an effort; token budgets are deprecated from here on, then rejected."""
        return self.claude and self.version >= (4, 6)

    @property
    def efforts(self) -> tuple[str, ...]:
        """The levels of `output_config.effort`, lowest first."""
        if self.version >= (4, 7):
            return ("low", "medium", "high", "xhigh", "max")
        return ("low", "medium", "high", "max")

    @property
    def no_thinking(self) -> NoThinking:
        if not self.claude or self.version < (5, 0):
            return NoThinking.OMIT
        if self.line in ("fable", "mythos") or (self.line == "opus" and self.version >= (5, 5)):
            return NoThinking.IMPOSSIBLE
        if self.line == "sonnet" and self.version >= (5, 5):
            return NoThinking.BETWEEN_TOOLS
        return NoThinking.DISABLED

    @property
    def sampling(self) -> bool:
        """Whether temperature, top_p and top_k may differ from their defaults."""
        return not self.claude or self.version < (4, 7)

    @property
    def one_sampler(self) -> bool:
        """`temperature` and `top_p` cannot both be specified."""
        return self.claude and self.version >= ((4, 1) if self.line == "opus" else (4, 5))

    @property
    def system_messages(self) -> bool:
        """Takes messages of role system in the middle of a conversation."""
        least = {"opus": (4, 8), "sonnet": (5, 5), "haiku": (5, 5), "fable": (5, 0), "mythos": (5, 0)}
        return self.version != _NEWEST and self.version >= least.get(self.line, _NO_LIMIT)


@lru_cache(maxsize=1024)
def model(name: str) -> Model:
    """`claude-3-5-haiku-20241022` is haiku (3, 5), `claude-opus-4-20250514` is opus (4, 0)."""
    name = name.lower()
    if "claude" not in name:
        return Model("", _NEWEST, claude=False)

    line = _LINE.search(name)
    name = name[name.index("claude") + len("claude") :]
    version = _VERSION.search(name)
    return Model(
        line=line[0] if line else "",
        version=(int(version[1]), int(version[2] or 0)) if version else _NEWEST,
    )
