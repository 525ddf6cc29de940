"""`os.environ/NAME` in configuration values, replaced by the variable's value."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.config_errors import dotted
from shared.errors import ConfigError

PREFIX = "os.environ/"

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Reference:
    """One place that names a variable."""

    variable: str
    file: str
    key: str
    """Dotted: `model_list[0].litellm_params.api_key`."""
    present: bool
    used: bool
    """False below a key that Headrace ignores."""

    def problem(self) -> str:
        return (
            f"{self.file}: {self.key}: environment variable {self.variable} is not set or empty: "
            "set it, or remove the line"
        )


_ABSENT = object()


@dataclass(slots=True)
class Resolver:
    """Replaces references and remembers each of them. Strict, it raises `ConfigError` at the first missing variable;
    lenient, the value is left out as if the line were not there."""

    environ: Mapping[str, str] = field(repr=False)
    lenient: bool
    references: list[Reference] = field(default_factory=list)

    def resolve(self, value: Any, file: str, path: Path) -> Any:
        """`value` with every reference in it replaced; None when it is itself a missing one."""
        resolved = self._resolve(value, file, path)
        return None if resolved is _ABSENT else resolved

    def note(self, value: Any, file: str, path: Path) -> None:
        """Remember the references in a value that nobody uses."""
        match value:
            case str() if value.startswith(PREFIX):
                self._refer(value, file, path, used=False)
            case dict():
                for key, each in value.items():
                    self.note(each, file, (*path, str(key)))
            case list():
                for index, each in enumerate(value):
                    self.note(each, file, (*path, index))

    def _resolve(self, value: Any, file: str, path: Path) -> Any:
        match value:
            case str() if value.startswith(PREFIX):
                return self._lookup(value, file, path)
            case dict():
                pairs = {key: self._resolve(each, file, (*path, str(key))) for key, each in value.items()}
                return {key: each for key, each in pairs.items() if each is not _ABSENT}
            case list():
                items = [self._resolve(each, file, (*path, index)) for index, each in enumerate(value)]
                return [each for each in items if each is not _ABSENT]
        return value

    def _lookup(self, value: str, file: str, path: Path) -> Any:
        reference = self._refer(value, file, path, used=True)
        if reference.present:
            return self.environ[reference.variable]
        if not self.lenient:
            raise ConfigError(reference.problem())
        return _ABSENT

    def _refer(self, value: str, file: str, path: Path, *, used: bool) -> Reference:
        name = value.removeprefix(PREFIX).strip()
        # An empty variable is a forgotten one: an empty master key would leave the door open.
        reference = Reference(name, file, dotted(path), present=bool(self.environ.get(name)), used=used)
        self.references.append(reference)
        return reference
