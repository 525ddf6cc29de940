"""What a user would write by hand: asyncio over the `openai` client. Runs in the peers' environment.

    python script.py LINES.jsonl BASE_URL CONCURRENCY OUTPUT.jsonl

No ledger, no limits, nothing durable. Prints the seconds it took, and how many answers were right.
"""

import asyncio
import json
import sys
import time
from typing import Any

import openai


async def main(path: str, base_url: str, concurrency: int, output: str) -> None:
    with open(path) as file:
        lines = [json.loads(line) for line in file]
    started = time.perf_counter()
    right = 0
    waiting = iter(lines)
    async with openai.AsyncOpenAI(base_url=base_url, api_key="sk-bench", max_retries=2, timeout=60) as client:
        with open(output, "w") as results:

            async def work() -> None:
                nonlocal right
                for line in waiting:
                    answer: Any = await client.chat.completions.create(**line["body"])
                    right += bool(answer.choices[0].message.content)
                    results.write(json.dumps({"custom_id": line["custom_id"], "response": answer.model_dump()}) + "\n")

            await asyncio.gather(*(work() for _ in range(concurrency)))
    print(json.dumps({"seconds": time.perf_counter() - started, "right": right, "cpu": time.process_time()}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
