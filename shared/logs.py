"""Structured logs on stderr: one event a line, no prompt and no secret in any of them."""

import logging
import sys
from typing import Any

import orjson
import structlog


def configure(level: str, style: str = "auto") -> None:
    """`level` is one of the standard library's; `style` is console, json, or auto: console on a terminal, else JSON."""
    console = style == "console" or (style == "auto" and sys.stderr.isatty())
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: list[Any]
    loggers: structlog.PrintLoggerFactory | structlog.BytesLoggerFactory = structlog.PrintLoggerFactory(sys.stderr)
    if console:
        # The default shows the variables of each frame, keys and prompts among them, and takes a quarter of a second.
        plain = structlog.dev.plain_traceback
        renderer = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    else:
        renderer = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_dumps)]
        loggers = structlog.BytesLoggerFactory(sys.stderr.buffer)
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=loggers,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(
        level=max(number, logging.WARNING), stream=sys.stderr, format="%(levelname)s %(name)s %(message)s"
    )


def _dumps(event: dict[str, Any], **_: Any) -> bytes:
    return orjson.dumps(event, default=repr)
