"""A batch with the official OpenAI client: upload, create, poll, download.

    make run                                    # in one terminal
    .venv/bin/python docs/examples/batch.py     # in another

Nothing in it is Headrace's own but the address.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

from openai import APIError, OpenAI
from openai.types import Batch

ENDPOINT: Final = "/v1/chat/completions"
OVER = ("completed", "failed", "expired", "cancelled")
PAUSE = 1.0  # seconds between two looks at the batch


def run(client: OpenAI, model: str, prompts: int) -> int:
    """Exit code 0 when every prompt was answered."""
    lines = b"".join(request(model, number) for number in range(1, prompts + 1))
    uploaded = client.files.create(file=("prompts.jsonl", lines), purpose="batch")
    batch = client.batches.create(input_file_id=uploaded.id, endpoint=ENDPOINT, completion_window="24h")
    print(f"{batch.id}: {prompts} prompts")

    batch = finished(client, batch)
    for error in (batch.errors.data if batch.errors else None) or ():
        print(error.message)
    for answer in content(client, batch.output_file_id):
        message = answer["response"]["body"]["choices"][0]["message"]["content"]
        print(f"{answer['custom_id']}: {message}")
    for failure in content(client, batch.error_file_id):
        print(f"{failure['custom_id']} failed: {failure['error'] or failure['response']['body']['error']}")
    return 0 if batch.request_counts and batch.request_counts.completed == prompts else 1


def request(model: str, number: int) -> bytes:
    """One line of the file. The `custom_id` is how an answer is told from the others."""
    body = {"model": model, "messages": [{"role": "user", "content": f"Summarise document {number}."}]}
    line = {"custom_id": f"document-{number}", "method": "POST", "url": ENDPOINT, "body": body}
    return json.dumps(line).encode() + b"\n"


def finished(client: OpenAI, batch: Batch) -> Batch:
    """The batch at its end; on the way there, how far it is."""
    while batch.status not in OVER:
        time.sleep(PAUSE)
        batch = client.batches.retrieve(batch.id)
        if counts := batch.request_counts:
            print(f"{batch.status}: {counts.completed} of {counts.total} done, {counts.failed} failed")
    return batch


def content(client: OpenAI, file_id: str | None) -> Iterator[dict[str, Any]]:
    """The lines of a file. A batch without answers, or without failures, has no file of that kind."""
    if file_id is not None:
        for line in client.files.content(file_id).iter_lines():
            yield json.loads(line)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base-url", default="http://127.0.0.1:4000/v1", help="of the server (default: %(default)s)")
    parser.add_argument("--model", default="simulated", help="for all prompts (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=20, help="in the batch (default: %(default)s)")
    given = parser.parse_args()
    key = os.environ.get("HEADRACE_API_KEY", "sk-anything")
    try:
        with OpenAI(base_url=given.base_url, api_key=key) as client:
            return run(client, given.model, given.prompts)
    except APIError as error:
        print(f"The batch failed: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
