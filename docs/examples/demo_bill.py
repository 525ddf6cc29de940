"""The bill: every attempt that the ledger knows, added up by model."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import ceil
from typing import Any

import httpx2 as httpx
from rich.table import Table
