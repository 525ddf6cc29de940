"""Installs the systems that Headrace is compared with, below `.bench/`, once."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

FOLDER = Path(__file__).parents[1] / ".bench"
LITELLM = FOLDER / "litellm"
TENSORZERO = FOLDER / "tensorzero"
PORTKEY = FOLDER / "portkey"
CELERY = FOLDER / "celery"
PORTKEY_SERVER = PORTKEY / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"

_PORTKEY_PACKAGE = {
    "private": True,
    "dependencies": {"@portkey-ai/gateway": "1.15.2"},
    # With the versions that its own ranges allow today, its streams break.
    "overrides": {"hono": "4.9.7", "@hono/node-server": "1.13.5", "@hono/node-ws": "1.2.0"},
}
_TIMEOUT = 900.0  # seconds for one installation


def install(names: Sequence[str]) -> None:
    """Install what is missing, from the registries; what cannot be installed is said, and left out of the results."""
    for name in names:
        if name in _INSTALLERS and version(name) is None:
            print(f"installing {name} into {FOLDER / name}", file=sys.stderr)
            try:
                _INSTALLERS[name]()
            except (subprocess.SubprocessError, OSError) as error:
                detail = getattr(error, "stderr", None) or str(error)
                print(f"{name} cannot be installed: {detail[-500:]}", file=sys.stderr)


def version(name: str) -> str | None:
    """The version of a peer that is installed completely; none otherwise."""
    try:
        if name == "portkey":
            found: str = json.loads((PORTKEY_SERVER.parents[1] / "package.json").read_text())["version"]
            return found
        python = str(FOLDER / name / "bin" / "python")
        return _run([python, "-c", f"import importlib.metadata as m; print(m.version({name!r}))"]).strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _python(folder: Path, *requirements: str) -> None:
    """Newest version into a virtual environment of its own: their requirements contradict ours and each other's."""
    _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    _run([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *requirements])


def _portkey() -> None:
    PORTKEY.mkdir(parents=True, exist_ok=True)
    (PORTKEY / "package.json").write_text(json.dumps(_PORTKEY_PACKAGE, indent=2))
    _run(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(PORTKEY)])


def _run(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT).stdout


_INSTALLERS: dict[str, Callable[[], None]] = {
    "litellm": lambda: _python(LITELLM, "litellm[proxy]"),
    "tensorzero": lambda: _python(TENSORZERO, "tensorzero"),
    "portkey": _portkey,
    "celery": lambda: _python(CELERY, "celery[gevent,redis]", "openai"),
}
