"""Reading `config.yaml` and the files that it includes. What is read here is not yet checked beyond being a mapping."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError

from shared.errors import ConfigError

MAX_FILES = 100


@dataclass(frozen=True, slots=True)
class Document:
    name: str
    """The file as messages name it: its path as seen from the main file's folder."""
    content: dict[str, Any] = field(repr=False)


def read(path: Path) -> list[Document]:
    """The file at `path`, then those it includes, each once, depth first. Includes are relative to the including file.

    Raises `ConfigError` for a file that cannot be read or parsed, and for an include cycle.
    """
    documents: list[Document] = []
    _read(path, path.parent, (), documents, set())
    return documents


def _read(path: Path, root: Path, trail: tuple[Path, ...], documents: list[Document], seen: set[Path]) -> None:
    real = path.resolve()
    name = _name(path, root)
    if real in trail:
        cycle = " -> ".join(_name(each, root.resolve()) for each in (*trail[trail.index(real) :], real))
        parent = _name(trail[-1], root.resolve())
        raise ConfigError(f"{parent}: include: files include each other ({cycle}): remove one of the includes")
    if real in seen:
        return
    seen.add(real)
    if len(seen) > MAX_FILES:
        raise ConfigError(f"{name}: include: more than {MAX_FILES} files: merge some of them")

    content = _parse(path, name)
    documents.append(Document(name, content))
    for included in _includes(content, name):
        target = path.parent / included
        if not target.is_file():
            raise ConfigError(f"{name}: include: no such file {included!r}: create it, or remove the line")
        _read(target, root, (*trail, real), documents, seen)


def _includes(content: dict[str, Any], name: str) -> list[str]:
    includes = content.get("include") or []
    if isinstance(includes, str):
        includes = [includes]
    if not isinstance(includes, list) or not all(isinstance(each, str) for each in includes):
        raise ConfigError(f"{name}: include: expected a list of files: write e.g. include: [models.yaml]")
    return includes


def _parse(path: Path, name: str) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as exc:
        raise ConfigError(f"{name}: no such file: create it, or correct the path") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{name}: not a text in UTF-8: save it as UTF-8") from exc
    except OSError as exc:
        raise ConfigError(f"{name}: cannot be read ({exc.strerror}): make it a readable file") from exc

    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        # `from None`: the YAML error's own text quotes the line, which may hold a secret.
        raise ConfigError(f"{name}: {_syntax(exc)}: correct the YAML there") from None
    except (ValueError, RecursionError) as exc:  # e.g. the date 2024-13-45, or brackets without end
        raise ConfigError(f"{name}: not valid YAML ({type(exc).__name__}): quote dates, correct the nesting") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        kind = "a list" if isinstance(content, list) else "a single value"
        raise ConfigError(f"{name}: top level: expected a mapping, got {kind}: write e.g. model_list: []")
    return {str(key): value for key, value in content.items()}


def _syntax(error: yaml.YAMLError) -> str:
    if isinstance(error, ComposerError) and error.problem_mark is not None:
        # Its text quotes the value: one that begins with * is taken for an alias, be it a password.
        return f"line {error.problem_mark.line + 1}: a bad alias or anchor; quote a value that begins with * or &"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return "contains characters that YAML does not allow"


def _name(path: Path, root: Path) -> str:
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        return path.as_posix()
