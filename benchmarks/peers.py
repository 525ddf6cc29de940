"""Installs the systems that Headrace is compared with, below `.bench/`, once."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

FOLDER = Path(__file__).parents[1] / ".bench"
LITELLM = FOLDER / "litellm"
TENSORZERO = FOLDER / "tensorzero"
PORTKEY = FOLDER / "portkey"
PORTKEY_SERVER = PORTKEY / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"

_PORTKEY_PACKAGE = {
    "private": True,
    "dependencies": {"@portkey-ai/gateway": "1.15.2"},
    # With the versions that its own ranges allow today, its streams break.
    "overrides": {"hono": "4.9.7", "@hono/node-server": "1.13.5", "@hono/node-ws": "1.2.0"},
}
_TIMEOUT = 900.0  # seconds for one installation


def install(names: Sequence[str]) -> dict[str, str]:
    """The version of each peer that is installed, or could be; what cannot be is said and left out."""
    installers: dict[str, Callable[[], str]] = {
        "litellm": lambda: _python(LITELLM, "litellm[proxy]"),
        "tensorzero": lambda: _python(TENSORZERO, "tensorzero"),
        "portkey": _portkey,
    }
    versions = {}
    for name in names:
        if name in installers:
            try:
                versions[name] = installers[name]()
            except (subprocess.SubprocessError, OSError) as error:
                detail = getattr(error, "stderr", None) or str(error)
                print(f"{name} cannot be installed and is left out: {detail[-500:]}", file=sys.stderr)
    return versions


def _python(folder: Path, requirement: str) -> str:
    """Newest version into a virtual environment of its own: their requirements contradict ours and each other's."""
    name = requirement.partition("[")[0]
    python = folder / "bin" / "python"
    version = [str(python), "-c", f"import importlib.metadata as m; print(m.version({name!r}))"]
    if python.exists():
        try:
            return _run(version).strip()
        except subprocess.CalledProcessError:
            shutil.rmtree(folder)  # a run that was interrupted left it half done
    print(f"installing {requirement} into {folder}", file=sys.stderr)
    _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement])
    return _run(version).strip()


def _portkey() -> str:
    if not PORTKEY_SERVER.exists():
        print(f"installing @portkey-ai/gateway into {PORTKEY}", file=sys.stderr)
        PORTKEY.mkdir(parents=True, exist_ok=True)
        (PORTKEY / "package.json").write_text(json.dumps(_PORTKEY_PACKAGE, indent=2))
        _run(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(PORTKEY)])
    version: str = json.loads((PORTKEY_SERVER.parents[1] / "package.json").read_text())["version"]
    return version


def _run(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT).stdout
