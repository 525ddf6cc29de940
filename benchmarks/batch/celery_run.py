"""Submits a file of batch lines to Celery and waits for all results. Runs in the peers' environment.

    python celery_run.py LINES.jsonl

Prints the seconds from the first submission to the last result, and how many answers were right.
"""

import json
import sys
import time

from celery import group
from celery_app import complete


def main() -> None:
    with open(sys.argv[1]) as file:
        lines = [json.loads(line) for line in file]
    started = time.perf_counter()
    result = group(complete.s(line["custom_id"], line["body"]) for line in lines).apply_async()
    answers = result.join_native(timeout=600)
    seconds = time.perf_counter() - started
    right = sum(bool(answer["response"]["choices"][0]["message"]["content"]) for answer in answers)
    print(json.dumps({"seconds": seconds, "right": right, "cpu": time.process_time()}))


if __name__ == "__main__":
    main()
