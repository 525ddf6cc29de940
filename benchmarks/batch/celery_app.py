"""What a user would write with Celery: a task that calls the `openai` client. Runs in the peers' environment.

celery -A celery_app worker --pool gevent --concurrency 100
"""

import os
from typing import Any

import openai
from celery import Celery

app = Celery("bench", broker=os.environ["BENCH_BROKER"], backend=os.environ["BENCH_BACKEND"])
app.conf.update(
    task_default_queue=os.environ["BENCH_QUEUE"],
    task_ignore_result=False,
    task_acks_late=True,  # a killed worker loses nothing: what Headrace promises as well
    worker_prefetch_multiplier=4,
    worker_hijack_root_logger=False,
    worker_send_task_events=False,
    task_send_sent_event=False,
    result_expires=3600,
    broker_pool_limit=10,
    redis_max_connections=200,
)

_client = openai.OpenAI(
    base_url=os.environ["BENCH_UPSTREAM"],
    api_key="sk-bench",
    max_retries=2,
    timeout=60,
)


@app.task(name="bench.complete")
def complete(custom_id: str, body: dict[str, Any]) -> dict[str, Any]:
    return {"custom_id": custom_id, "response": _client.chat.completions.create(**body).model_dump()}
