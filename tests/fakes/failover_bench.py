"""Failover Bench's sixteen scenarios, and their twins for answers that do not stream."""

import asyncio
import json

from tests.fakes.dialects import OpenAI
from tests.fakes.scene import Scene


async def ok(scene: Scene) -> None:
    if scene.variant == "noprefill" and scene.ask.turns and scene.ask.turns[-1][0] in ("assistant", "model"):
        await scene.error(400, "invalid_request_error", "invalid_prefill", "The last message must not be an answer.")
        return
    await scene.healthy()


async def s01_one_429(scene: Scene) -> None:
    if scene.nth > 1:
        await scene.healthy()
        return
    await scene.rate_limited({"Retry-After": str(scene.timings.retry_after)})


async def s02_always_429(scene: Scene) -> None:
    await scene.rate_limited()


async def s03_one_500(scene: Scene) -> None:
    if scene.nth > 1:
        await scene.healthy()
        return
    await scene.error(500, "server_error")


async def s04_always_503(scene: Scene) -> None:
    await scene.overloaded()


async def s05_reset_before_headers(scene: Scene) -> None:
    if scene.nth > 1:
        await scene.healthy()
        return
    scene.exchange.reset()


async def s06_silence(scene: Scene) -> None:
    await asyncio.sleep(scene.timings.silence)
    scene.exchange.close()


async def s07_slow_first_token(scene: Scene) -> None:
    if not scene.ask.stream:
        await asyncio.sleep(scene.timings.first_token)
        await scene.healthy()
        return
    await scene.exchange.stream_head(scene.headers)
    await asyncio.sleep(scene.timings.first_token)
    await scene.send(scene.script.prelude)
    await scene.words(scene.script.words)
    await scene.ended()


async def s08_cut(scene: Scene) -> None:
    if not scene.ask.stream:
        await scene.half_a_body()
        return
    await scene.opened()
    await scene.words(scene.script.words[:40])
    scene.exchange.close()


async def s09_stall(scene: Scene) -> None:
    if not scene.ask.stream:
        await scene.half_a_body(then_silent=scene.timings.stall)
        return
    await scene.opened()
    await scene.words(scene.script.words[:20])
    await asyncio.sleep(scene.timings.stall)
    scene.exchange.close()


async def s10_malformed(scene: Scene) -> None:
    if not scene.ask.stream:
        body = json.dumps(scene.script.body).encode()
        broken = body[: len(body) // 2] + b"\x00garbage"
        await scene.exchange.answer(200, broken, {"Content-Type": "application/json"})
        return
    await scene.opened()
    await scene.words(scene.script.words[:10])
    await scene.send((scene.dialect.broken_event(),))
    await scene.words(scene.script.words[10:])
    await scene.ended()


async def s11_no_done(scene: Scene) -> None:
    if not scene.ask.stream:
        await scene.healthy()
        return
    await scene.opened()
    await scene.words(scene.script.words)
    await scene.send(scene.script.finish + scene.script.usage)
    await scene.exchange.end_chunks()


async def s12_context_too_long(scene: Scene) -> None:
    message = (
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9631 tokens. "
        "Please reduce the length of the messages."
    )
    if not isinstance(scene.dialect, OpenAI):
        message = "prompt is too long: 9631 tokens > 8192 maximum"
    await scene.error(400, "invalid_request_error", "context_length_exceeded", message, "messages")


async def s13_refused(scene: Scene) -> None:
    message = "Your request was rejected by our content filtering policy."
    await scene.error(400, "invalid_request_error", "content_policy_violation", message)


async def s15_flapping(scene: Scene) -> None:
    if scene.since_first < scene.timings.outage:
        await scene.overloaded()
    else:
        await scene.healthy()


FAULTS = {
    "ok": ok,
    "s01": s01_one_429,
    "s02": s02_always_429,
    "s03": s03_one_500,
    "s04": s04_always_503,
    "s05": s05_reset_before_headers,
    "s06": s06_silence,
    "s07": s07_slow_first_token,
    "s08": s08_cut,
    "s09": s09_stall,
    "s10": s10_malformed,
    "s11": s11_no_done,
    "s12": s12_context_too_long,
    "s13": s13_refused,
    "s14": s08_cut,
    "s15": s15_flapping,
    "s16": s04_always_503,
}
