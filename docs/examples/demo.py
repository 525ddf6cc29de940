"""Headrace in one run: a stream, a tool call, a batch through limited keys, and the bill.

    make demo

Everything is local: the models are simulated, and only the official OpenAI client talks to them. `demo_server` starts
and stops Headrace; from `stream` on down this is what an application of yours would contain.
"""

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator

import demo_bill
import demo_server
from openai import APIError, AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

IN_FLIGHT = 200  # requests of the batch that wait or run at a time

_WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Bern"]}},
            "required": ["city"],
        },
    },
}

console = Console(highlight=False)


async def run(prompts: int) -> None:
    console.print("Starting Headrace: one process, simulated providers, a temporary ledger ...")
    async with demo_server.running() as server:
        console.print(f"It listens on {server.url}")
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0, timeout=120) as client:
            await stream(client)
            await call_a_tool(client)
            answered = await batch(client, prompts)
            await show_bill(client.with_options(base_url=server.url), answered + 3)
    console.print("Headrace has stopped.")


async def stream(client: AsyncOpenAI) -> None:
    """Tokens as they come."""
    console.rule("A stream", align="left")
    console.print("[bold]>[/] What is a headrace?")
    began = time.monotonic()
    first = 0.0
    async with await client.chat.completions.create(
        model="story", messages=[{"role": "user", "content": "What is a headrace?"}], stream=True
    ) as chunks:
        async for chunk in chunks:
            if chunk.choices and (text := chunk.choices[0].delta.content):
                first = first or time.monotonic() - began
                console.print(escape(text), end="", soft_wrap=True)
    console.print(f"\n[dim]first token after {first:.2f} s, all of it after {time.monotonic() - began:.2f} s[/]")


async def call_a_tool(client: AsyncOpenAI) -> None:
    """The model asks for a function, gets its result, and answers."""
    console.rule("A tool call", align="left")
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Do I need a coat in Bern?"}]
    console.print("[bold]>[/] Do I need a coat in Bern?")

    asked = await client.chat.completions.create(model="helper", messages=messages, tools=[_WEATHER])
    messages.append(asked.choices[0].message.to_dict())  # type: ignore[arg-type]  # what came goes back as it is
    for call in asked.choices[0].message.tool_calls or ():
        if call.type == "function":
            result = json.dumps({"celsius": 21, "sky": "clear"})
            console.print(
                f"  it calls {call.function.name}({escape(call.function.arguments)}), which returns {result}",
                soft_wrap=True,
            )
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})

    answer = await client.chat.completions.create(model="helper", messages=messages, tools=[_WEATHER])
    console.print(escape(str(answer.choices[0].message.content)))


async def batch(client: AsyncOpenAI, prompts: int) -> int:
    """All prompts, a bounded number at a time; returns how many were answered."""
    console.rule(f"A batch of {prompts:,} prompts", align="left")
    console.print(
        f"{demo_server.KEYS} keys of {demo_server.KEY_RPM} requests a minute each. The provider refuses the excess\n"
        f"and fails {demo_server.FAILURES:.0%} of the rest. {IN_FLIGHT} requests are in flight: what is over a limit\n"
        "waits in the queue, what fails is tried again."
    )
    tally: Counter[str] = Counter()
    columns = (
        BarColumn(bar_width=30), MofNCompleteColumn(), TextColumn("{task.fields[rate]:.0f}/s"),
        TimeRemainingColumn(compact=True), TextColumn("{task.fields[errors]} errors"),
    )  # fmt: skip
    began = time.monotonic()
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("batch", total=prompts, rate=0.0, errors=0)

        async def work(numbers: Iterator[int]) -> None:
            for number in numbers:
                tally[await ask(client, number)] += 1
                rate = tally.total() / (time.monotonic() - began)
                progress.update(bar, advance=1, rate=rate, errors=tally["error"])

        numbers = iter(range(prompts))
        async with asyncio.TaskGroup() as group:
            for _ in range(min(IN_FLIGHT, prompts)):
                group.create_task(work(numbers))
    elapsed = time.monotonic() - began
    console.print(f"{tally['answer']:,} answers and {tally['error']} errors in {elapsed:.1f} s")
    return tally["answer"]


async def ask(client: AsyncOpenAI, number: int) -> str:
    prompt = f"Summarise document {number}."
    try:
        await client.chat.completions.create(model="worker", messages=[{"role": "user", "content": prompt}])
    except APIError:
        return "error"
    return "answer"


async def show_bill(client: AsyncOpenAI, answers: int) -> None:
    """What it cost, from `/spend/logs` and `/global/spend`."""
    console.rule("The bill", align="left")
    rows, total = await demo_bill.complete_bill(client, answers)
    console.print(demo_bill.table(rows, total))
    refused = sum(row["metadata"].get("error_information", {}).get("error_class") == "RateLimitError" for row in rows)
    console.print(
        f"{answers:,} answers took {len(rows):,} attempts, each of them in the ledger once.\n"
        f"The provider refused {refused} of them because a key was over its limit."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompts", type=int, default=1000, help="in the batch (default: 1000)")
    prompts = parser.parse_args().prompts
    try:
        asyncio.run(run(prompts))
    except KeyboardInterrupt:
        console.print("\nInterrupted; Headrace has stopped.")
        return 130
    except (demo_server.ServerFailed, demo_bill.BillIncomplete, APIError) as error:
        Console(stderr=True).print(f"The demo failed: {escape(str(error))}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
