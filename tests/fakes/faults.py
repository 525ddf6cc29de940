"""What else goes wrong at providers, byte by byte: faults that operators of gateways have reported.

Each docstring names the variants: the model `fb-f14-b` asks for fault F14, variant b; without one it is a.
"""

import asyncio
import gzip
import json
from email.utils import formatdate
from time import time

from tests.fakes.dialects import Anthropic, Gemini, Json, OpenAI, event
from tests.fakes.scene import Scene

_MIB = 1 << 20


async def f01_not_an_answer(scene: Scene) -> None:
    """(a) HTML, (b) HTML that claims to be JSON, (c) nothing, (d) `null`, (e) an error object; all with a 200."""
    page = (
        b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>" + b"<p>Sign in</p>" * 140 + b"</body></html>"
    )
    error = json.dumps(scene.dialect.error(500, "server_error", None, "The fake provider fails on request.")).encode()
    body = {"a": page, "b": page, "c": b"", "d": b"null", "e": error}[scene.variant]
    kind = "text/html; charset=utf-8" if scene.variant == "a" else "application/json"
    await scene.exchange.answer(200, body, {"Content-Type": kind})


async def f02_broken_gzip(scene: Scene) -> None:
    """(a) gzip without its trailer, (b) a plain body labelled gzip."""
    plain = b"".join(scene.script.events) if scene.ask.stream else json.dumps(scene.script.body).encode()
    body = plain if scene.variant == "b" else gzip.compress(plain)[:-12]
    kind = "text/event-stream" if scene.ask.stream else "application/json"
    await scene.exchange.answer(200, body, {"Content-Type": kind, "Content-Encoding": "gzip"})
    scene.exchange.close()


async def f03_wrong_length(scene: Scene) -> None:
    """(a) 20 bytes too long, then the end; (b) too short, the rest spills; (c) chunked too; (d) a bad chunk size."""
    body = json.dumps(scene.script.body).encode()
    kind = {"Content-Type": "application/json"}
    match scene.variant:
        case "a":
            await scene.exchange.head(200, {**kind, "Content-Length": str(len(body) + 20)}, body)
            scene.exchange.close()
        case "b":
            await scene.exchange.head(200, {**kind, "Content-Length": str(len(body) - 20)}, body)
        case "c":
            both = {"Content-Length": str(len(body)), "Transfer-Encoding": "chunked"}
            await scene.exchange.head(200, {**kind, **both}, b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
            scene.exchange.close()
        case _:
            await scene.exchange.head(200, {**kind, "Transfer-Encoding": "chunked"}, b"zz\r\n" + body + b"\r\n")
            scene.exchange.close()


async def f04_line_endings(scene: Scene) -> None:
    """(a) CRLF, (b) lone CR, (c) CRLF split over two segments, (d) no space after the colon, (e) a byte order mark."""
    await scene.exchange.stream_head(scene.headers)
    for number, healthy in enumerate(scene.script.events):
        match scene.variant:
            case "a":
                await scene.exchange.chunk(healthy.replace(b"\n", b"\r\n"))
            case "b":
                await scene.exchange.chunk(healthy.replace(b"\n", b"\r"))
            case "c":
                for part in healthy.replace(b"\n", b"\r|\n").split(b"|"):
                    await scene.exchange.chunk(part)
                    await asyncio.sleep(0)
            case "d":
                await scene.exchange.chunk(healthy.replace(b"data: ", b"data:", 1))
            case _:
                await scene.exchange.chunk((b"" if number else b"\xef\xbb\xbf") + healthy)
    await scene.exchange.end_chunks()


async def f05_splits(scene: Scene) -> None:
    """One byte in each segment and HTTP chunk: every character, escape and string is torn somewhere."""
    await scene.exchange.stream_head(scene.headers)
    for byte in b"".join(scene.script.events):
        await scene.exchange.chunk(bytes((byte,)))
        await asyncio.sleep(0)  # let the transport send it alone
    await scene.exchange.end_chunks()


async def f06_rare_but_legal(scene: Scene) -> None:
    """Comments, `id:` and `retry:` lines, one object over two `data:` lines, runs of blank lines."""
    await scene.exchange.stream_head(scene.headers)
    for number, healthy in enumerate(scene.script.events):
        over_two_lines = healthy.replace(b'", "', b'",\ndata: "', 1)
        await scene.exchange.chunk(b": comment\n\n\nid: %d\nretry: 1000\n" % number + over_two_lines + b"\n\n")
    await scene.exchange.end_chunks()


async def f07_comments_only(scene: Scene) -> None:
    """A comment every 100 ms, and never any content."""
    await scene.exchange.stream_head(scene.headers)
    for _ in range(int(scene.timings.silence * 10)):
        await scene.exchange.chunk(b": ping\n\n")
        await asyncio.sleep(0.1)
    scene.exchange.close()


async def f08_giant_event(scene: Scene) -> None:
    """One event of so many MiB as the variant says; `endless` is a line that does not end below 64 MiB."""
    await scene.opened()
    if scene.variant == "endless":
        await scene.exchange.chunk(b"data: ")
        for _ in range(64):
            await scene.exchange.chunk(b"x" * _MIB)
        scene.exchange.close()
        return
    size = int(scene.variant.removeprefix("a") or 1)
    giant = scene.script.words[0].replace(scene.reply.words[0].encode(), b"x" * (size * _MIB))
    await scene.send((giant, *scene.script.words[1:]))
    await scene.ended()


async def f10_trickle(scene: Scene) -> None:
    """Ten words, each just within a stall limit of `stall` seconds."""
    await scene.opened()
    await scene.words(scene.script.words[:10], pace=scene.timings.stall * 0.9)
    await scene.words(scene.script.words[10:])
    await scene.ended()


async def f11_odd_finish(scene: Scene) -> None:
    """(a) the finish twice, (b) content after it, (c) a finish without `delta`, (d) the role repeated in each chunk."""
    script = scene.script
    await scene.opened()
    match scene.variant:
        case "a":
            await scene.words(script.words)
            await scene.send(script.finish)
        case "b":
            await scene.words(script.words)
            await scene.send((*script.finish, script.words[-1]))
        case "c":
            await scene.words(script.words)
            await scene.send(tuple(each.replace(b'"delta": {}, ', b"") for each in script.finish))
            await scene.send(script.usage + script.terminator)
            await scene.exchange.end_chunks()
            return
        case _:
            role = b'"delta": {"role": "assistant", "content"'
            await scene.words(tuple(each.replace(b'"delta": {"content"', role) for each in script.words))
    await scene.ended()


async def f12_odd_usage(scene: Scene) -> None:
    """OpenAI's format: (a) none, (b) in the last content chunk, (c) null in every chunk, (d) twice, growing."""
    if not isinstance(scene.dialect, OpenAI) or not scene.ask.stream:
        await scene.exchange.json(200, {name: value for name, value in scene.script.body.items() if name != "usage"})
        return
    usage = scene.script.body["usage"]
    half = {**usage, "completion_tokens": 1, "total_tokens": usage["prompt_tokens"] + 1}
    last = scene.dialect.chunk(scene.reply, {"content": scene.reply.words[-1]})
    bare = {**scene.dialect.chunk(scene.reply, {}), "choices": []}
    late, endings = {
        "a": (last, ()),
        "b": ({**last, "usage": usage}, ()),
        "c": ({**last, "usage": None}, ()),
        "d": ({**last, "usage": half}, (event({**bare, "usage": half}), event({**bare, "usage": usage}))),
    }[scene.variant]
    await scene.opened()
    await scene.words(scene.script.words[:-1])
    await scene.send((event(late), *scene.script.finish, *endings, *scene.script.terminator))
    await scene.exchange.end_chunks()


async def f13_open_arguments(scene: Scene) -> None:
    """A tool call whose arguments break off, in OpenAI's format: finish reason (a) length, (b) tool_calls, (c) cut."""
    assert isinstance(scene.dialect, OpenAI)
    tool = {"index": 0, "id": "call_fake1", "type": "function", "function": {"name": "lookup", "arguments": ""}}
    half = {"index": 0, "function": {"arguments": '{"city": "Par'}}
    await scene.exchange.stream_head(scene.headers)
    for delta in ({"role": "assistant", "content": None}, {"tool_calls": [tool]}, {"tool_calls": [half]}):
        await scene.exchange.chunk(event(scene.dialect.chunk(scene.reply, delta)))
    if scene.variant == "c":
        scene.exchange.close()
        return
    reason = "tool_calls" if scene.variant == "b" else "length"
    await scene.send((event(scene.dialect.chunk(scene.reply, {}, reason)), *scene.script.usage))
    await scene.send(scene.script.terminator)
    await scene.exchange.end_chunks()


async def f14_error_event(scene: Scene) -> None:
    """An error inside a stream of status 200: (a) first, (b) after the prelude, (c) after 20 words; then the end."""
    await scene.exchange.stream_head(scene.headers)
    if scene.variant != "a":
        await scene.send(scene.script.prelude)
    if scene.variant == "c":
        await scene.words(scene.script.words[:20])
    await scene.send((scene.dialect.error_event("overloaded_error", "Overloaded"),))
    await scene.exchange.end_chunks()


async def f15_empty_success(scene: Scene) -> None:
    """OpenAI: (a) `choices: []`, (b) only [DONE], (c) not a byte. Gemini: (a) no candidates, (b) a candidate without
    content, (c) MALFORMED_FUNCTION_CALL, (d) SAFETY, (e) the prompt is blocked. Anthropic: (a) no content blocks."""
    payload = _empty(scene)
    if not scene.ask.stream:
        await scene.exchange.json(200, payload, scene.headers)
        return
    await scene.exchange.stream_head(scene.headers)
    if isinstance(scene.dialect, Anthropic):
        await scene.send((scene.script.prelude[0], scene.script.finish[-1]))
    elif isinstance(scene.dialect, Gemini) or scene.variant == "a":
        await scene.exchange.chunk(event(payload))
    if scene.variant != "c":
        await scene.send(scene.script.terminator)
    await scene.exchange.end_chunks()


def _empty(scene: Scene) -> Json:
    if isinstance(scene.dialect, Anthropic):
        return {**scene.script.body, "content": []}
    if isinstance(scene.dialect, OpenAI):
        return {**scene.script.body, "choices": []}
    rest = {name: value for name, value in scene.script.body.items() if name != "candidates"}
    return {
        "a": rest,
        "b": {**rest, "candidates": [{"index": 0, "finishReason": "STOP"}]},
        "c": {**rest, "candidates": [{"index": 0, "finishReason": "MALFORMED_FUNCTION_CALL"}]},
        "d": {**rest, "candidates": [{"index": 0, "finishReason": "SAFETY"}]},
        "e": {**rest, "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}},
    }[scene.variant]


async def f16_wait_hint(scene: Scene) -> None:
    """A 429 on the first attempt whose hint is (a) a date 3 s ahead, (b) a date in the past, (c) 0, (d) -5, (e) 120s,
    (f) 1.5, (g) a day, (h) retry-after-ms, (i) x-ratelimit-reset-requests; (j) on a 503; (k) a quota that is gone."""
    if scene.nth > 1 and scene.variant != "k":
        await scene.healthy()
        return
    headers = {
        "a": {"Retry-After": formatdate(time() + 3, usegmt=True)},
        "b": {"Retry-After": formatdate(time() - 3600, usegmt=True)},
        "c": {"Retry-After": "0"},
        "d": {"Retry-After": "-5"},
        "e": {"Retry-After": "120s"},
        "f": {"Retry-After": "1.5"},
        "g": {"Retry-After": "86400"},
        "h": {"retry-after-ms": "700"},
        "i": {"x-ratelimit-reset-requests": "1.2s", "x-ratelimit-remaining-requests": "0"},
        "j": {"Retry-After": "1"},
        "k": {},
    }[scene.variant]
    if scene.variant == "j":
        await scene.overloaded(headers)
    elif scene.variant == "k":
        await scene.error(429, "insufficient_quota", "insufficient_quota", "You exceeded your current quota.")
    else:
        await scene.rate_limited(headers)


async def f18_stale_connection(scene: Scene) -> None:
    """(a) closed after the answer; good for one answer, then (b) reset by the next request, (c) silent to it."""
    if scene.variant == "a":
        await scene.healthy()
        scene.exchange.close()
    elif scene.exchange.request.ordinal == 1:
        await scene.healthy()
    elif scene.variant == "b":
        scene.exchange.reset()
    else:
        await asyncio.sleep(scene.timings.silence)
        scene.exchange.close()


async def f20_end_of_stream(scene: Scene) -> None:
    """(a) finish sent, then an open socket and silence; (b) [DONE] after 40 words without a finish; (c) the HTTP body
    ends properly after 40 words; (d) reset after 40 words."""
    await scene.opened()
    if scene.variant == "a":
        await scene.words(scene.script.words)
        await scene.send(scene.script.finish)
        await asyncio.sleep(scene.timings.silence)
        scene.exchange.close()
        return
    await scene.words(scene.script.words[:40])
    if scene.variant == "d":
        scene.exchange.reset()
        return
    if scene.variant == "b":
        await scene.send(scene.script.terminator)
    await scene.exchange.end_chunks()


FAULTS = {
    "f01": f01_not_an_answer,
    "f02": f02_broken_gzip,
    "f03": f03_wrong_length,
    "f04": f04_line_endings,
    "f05": f05_splits,
    "f06": f06_rare_but_legal,
    "f07": f07_comments_only,
    "f08": f08_giant_event,
    "f10": f10_trickle,
    "f11": f11_odd_finish,
    "f12": f12_odd_usage,
    "f13": f13_open_arguments,
    "f14": f14_error_event,
    "f15": f15_empty_success,
    "f16": f16_wait_hint,
    "f18": f18_stale_connection,
    "f20": f20_end_of_stream,
}
