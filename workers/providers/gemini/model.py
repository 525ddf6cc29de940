"""What a model's name says about the rules it follows: its generation and its class."""

import re
from dataclasses import dataclass
from typing import Self

_VERSION = re.compile(r"gemini-(\d+)(?:\.(\d+))?")
_NEWEST = (3, 0)  # `gemini-flash-latest` and kin name no version and follow the newest rules
_OTHER_FAMILY = (2, 0)  # Gemma and LearnLM speak the same API without Gemini 3's additions


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    version: tuple[int, int]

    @classmethod
    def named(cls, name: str) -> Self:
        if found := _VERSION.search(name):
            return cls(name, (int(found[1]), int(found[2] or 0)))
        return cls(name, _NEWEST if "gemini" in name else _OTHER_FAMILY)

    @property
    def generation_3(self) -> bool:
        """Gemini 3 and later: thinking levels, validated thought signatures, ids of function calls."""
        return self.version >= (3, 0)

    @property
    def json_schema(self) -> bool:
        """Gemini 2.0 and later take `responseJsonSchema`; 1.5 takes only the OpenAPI subset."""
        return self.version >= (2, 0)

    @property
    def flash(self) -> bool:
        return "flash" in self.name

    @property
    def flash_lite(self) -> bool:
        return "flash-lite" in self.name

    @property
    def pro(self) -> bool:
        return "pro" in self.name

    @property
    def path(self) -> str:
        """The model as the URL names it: `models/gemini-2.5-pro`, `tunedModels/mine`."""
        return self.name if self.name.startswith(("models/", "tunedModels/")) else f"models/{self.name}"
