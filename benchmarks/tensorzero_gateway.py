"""TensorZero's gateway as a process of its own: `python tensorzero_gateway.py CONFIG PORT_FILE`.

The wheel has no binary of the gateway. It has the gateway itself, compiled, which its Python client starts in threads
and serves over HTTP; this file does the same and then sleeps, so no Python runs while it is measured. It runs in the
virtual environment of the wheel and imports nothing of ours.
"""

import signal
import sys
from pathlib import Path
from urllib.parse import urlsplit

from tensorzero.tensorzero import _start_http_gateway  # type: ignore[import-not-found]


def main() -> None:
    config, port_file = sys.argv[1:]
    gateway = _start_http_gateway(
        config_file=config, clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=False
    )
    partial = Path(f"{port_file}.partial")
    partial.write_text(str(urlsplit(gateway.base_url).port))
    partial.rename(port_file)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    main()
