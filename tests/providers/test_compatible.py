"""Vendors that claim OpenAI's dialect: what they send, as they send it, becomes what OpenAI would have sent."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import providers
from shared.jobs import Usage
from tests.providers.openai_schema import check_completion
from tests.providers.openai_wire import FIXTURES, call, deployment, read, request_body
from workers.providers import registry

_FOLDER = FIXTURES / "compatible"
_STREAMS = sorted(_FOLDER.glob("*.sse"))
_COMPATIBLE = sorted(name for name in providers.known() if providers.provider(name).dialect == "openai")


@pytest.mark.parametrize("path", _STREAMS, ids=lambda path: path.stem)
def test_a_vendors_stream_becomes_openais(path: Path) -> None:
    stream = read(call(deployment(path.stem), stream=True, stream_options={"include_usage": True}), path.read_bytes())

    assert stream.text() == "Café end."
    assert stream.finishes() == [(0, "stop")]
    assert [each["choices"][0]["delta"].get("role") for each in stream.chunks[:-1]].count("assistant") == 1
    assert len({(each["id"], each["created"], each["model"]) for each in stream.chunks}) == 1
    assert stream.chunks[-1]["usage"]["prompt_tokens"] == 19
    assert stream.usage is not None
    assert (stream.usage.prompt, stream.usage.output) == (19, 10)


@pytest.mark.parametrize("name", ["groq", "deepseek", "openrouter", "ollama", "xai", "hosted_vllm"])
def test_reasoning_is_in_reasoning_content_whatever_the_vendor_calls_it(name: str) -> None:
    stream = read(call(deployment(name), stream=True), (_FOLDER / f"{name}.sse").read_bytes())

    assert stream.text("reasoning_content") == "Hmm."


@pytest.mark.parametrize("path", sorted(_FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_a_vendors_answer_becomes_openais(path: Path) -> None:
    done = registry.adapter(path.stem).completion(call(deployment(path.stem)), path.read_bytes())

    check_completion(done.body)
    message = orjson.loads(done.body)["choices"][0]["message"]
    assert message["content"] == "Café end."
    assert message.get("reasoning_content") == message.get("reasoning")
    assert done.usage is not None
    assert (done.usage.prompt, done.usage.output) == (19, 10)


@pytest.mark.parametrize(
    ("name", "usage"),
    [
        ("deepseek", Usage(input=15, cache_read=4, output=10, reasoning=3)),
        ("together_ai", Usage(input=15, cache_read=4, output=10)),
        ("xai", Usage(input=15, cache_read=4, output=10, reasoning=3)),
    ],
)
def test_vendors_own_words_for_cached_and_reasoning_tokens_are_understood(name: str, usage: Usage) -> None:
    assert read(call(deployment(name), stream=True), (_FOLDER / f"{name}.sse").read_bytes()).usage == usage


@given(st.data())
def test_where_reads_are_cut_makes_no_difference(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(_STREAMS))
    wire = path.read_bytes()
    cuts = data.draw(st.lists(st.integers(0, len(wire)), max_size=30))
    made = call(deployment(path.stem), stream=True)

    assert read(made, wire, cuts).raw == read(made, wire).raw


@pytest.mark.parametrize("name", _COMPATIBLE)
def test_every_row_makes_a_request(name: str) -> None:
    to = deployment(name, api_base="" if providers.default_base(name) else "http://localhost:9999")
    request = registry.adapter(name).request(call(to))

    assert request.url.startswith(("https://", "http://localhost"))
    assert request.url.endswith("/chat/completions")


@pytest.mark.parametrize("name", _COMPATIBLE)
def test_every_row_applies_its_own_differences(name: str) -> None:
    row = providers.provider(name)
    refused: dict[str, Any] = dict.fromkeys(row.unsupported, "something")

    sent = request_body(deployment(name, drop_params=True), stream=True, max_completion_tokens=5, **refused)

    assert sent[row.rename.get("max_completion_tokens", "max_completion_tokens")] == 5
    assert not row.rename.keys() & sent.keys()
    assert not row.unsupported & sent.keys()
    assert ("stream_options" in sent) == row.stream_options


def test_a_field_given_under_both_names_keeps_the_vendors_own() -> None:
    assert request_body(deployment("deepseek"), max_tokens=3, max_completion_tokens=5)["max_tokens"] == 3


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("http://gpu:11434", "http://gpu:11434/v1/chat/completions"),
        ("http://gpu:11434/", "http://gpu:11434/v1/chat/completions"),
        ("http://gpu:11434/v1", "http://gpu:11434/v1/chat/completions"),
        ("http://gpu/ollama/v1", "http://gpu/ollama/v1/chat/completions"),
    ],
)
def test_a_local_server_is_found_with_and_without_the_version_in_its_address(base: str, url: str) -> None:
    assert registry.adapter("ollama").request(call(deployment("ollama", api_base=base))).url == url
