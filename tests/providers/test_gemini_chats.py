"""Any chat that OpenAI's format allows becomes a request that Google's types and documented rules allow."""

from typing import Any

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.providers.gemini_wire import a_call, check_request
from tests.providers.test_gemini_schema import SCHEMAS
from workers.providers.gemini import GEMINI

_MODELS = ["gemini-1.5-pro", "gemini-2.0-flash", "gemini-2.5-flash", "gemini-2.5-pro", "gemini-3-flash", "gemini-3-pro"]
_FUNCTIONS = st.sampled_from(["weather", "now", "search-files"])
_TEXT = st.text(max_size=8)
_PARTS = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, _TEXT),
    st.builds(
        lambda url, detail: {"type": "image_url", "image_url": {"url": url, "detail": detail}},
        st.sampled_from(["data:image/png;base64,iVBORw0KGgo=", "https://mill.test/a.webp", "data:image/gif,%00"]),
        st.sampled_from(["auto", "low", "high"]),
    ),
    st.just({"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}),
    st.just({"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0=", "filename": "a.pdf"}}),
)
_CONTENT = st.one_of(_TEXT, st.lists(_PARTS, max_size=3))
_SYSTEM = st.builds(
    lambda role, text: [{"role": role, "content": text}], st.sampled_from(["system", "developer"]), _TEXT
)
_USER = st.builds(lambda content: [{"role": "user", "content": content}], _CONTENT)
_ANSWER = st.builds(
    lambda text, thought: [{"role": "assistant", "content": text, "reasoning_content": thought}],
    st.one_of(st.none(), _TEXT),
    st.one_of(st.none(), _TEXT),
)


@st.composite
def _tool_turn(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A user's question, an answer with parallel calls, and their results in any order."""
    names = draw(st.lists(_FUNCTIONS, min_size=1, max_size=3))
    ids = [f"call_{at}{draw(st.sampled_from(['', '__thought__c2ln']))}" for at in range(len(names))]
    arguments = draw(st.sampled_from(["{}", "", '{"city": "Zürich", "days": [1, 2]}']))
    calls = [
        {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
        for id, name in zip(ids, names, strict=True)
    ]
    content = st.one_of(st.sampled_from(["", "rain", "[1]", '{"a": 1}', "{}"]), st.lists(_PARTS, max_size=2))
    results = [{"role": "tool", "tool_call_id": id, "content": draw(content)} for id in ids]
    answer = {"role": "assistant", "content": draw(st.one_of(st.none(), _TEXT)), "tool_calls": calls}
    return [{"role": "user", "content": "go"}, answer, *draw(st.permutations(results))]


_TURNS = st.lists(st.one_of(_SYSTEM, _USER, _ANSWER, _tool_turn()), max_size=6)
_MESSAGES = _TURNS.map(lambda turns: [message for turn in turns for message in turn])
_TOOLS = st.lists(
    st.one_of(
        st.builds(
            lambda name, schema: {"type": "function", "function": {"name": name, "parameters": schema}},
            _FUNCTIONS,
            SCHEMAS,
        ),
        st.sampled_from([{"googleSearch": {}}, {"type": "web_search"}, {"codeExecution": {}}, {"url_context": {}}]),
    ),
    max_size=3,
)
_PARAMETERS = st.fixed_dictionaries(
    {"messages": _MESSAGES},
    optional={
        "tools": _TOOLS,
        "tool_choice": st.sampled_from(["none", "auto", "required", {"type": "function", "function": {"name": "now"}}]),
        "temperature": st.floats(0, 2),
        "top_p": st.floats(0, 1),
        "n": st.integers(1, 4),
        "max_tokens": st.integers(1, 9000),
        "max_completion_tokens": st.integers(1, 9000),
        "stop": st.one_of(st.none(), st.just("END"), st.lists(st.just("x"), max_size=4)),
        "seed": st.integers(0, 99),
        "frequency_penalty": st.floats(-2, 2),
        "logprobs": st.booleans(),
        "top_logprobs": st.integers(0, 5),
        "reasoning_effort": st.sampled_from(["none", "minimal", "low", "medium", "high", "xhigh", None]),
        "modalities": st.just(["text"]),
        "user": st.just("u"),
        "stream": st.booleans(),
        "logit_bias": st.just({"1": 2}),
        "response_format": st.one_of(
            st.sampled_from([{"type": "text"}, {"type": "json_object"}]),
            st.builds(
                lambda schema: {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
                st.sampled_from([{"type": "object", "properties": {"a": {"type": ["string", "null"]}}}]),
            ),
        ),
    },
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_PARAMETERS, st.sampled_from(_MODELS))
def test_any_chat_becomes_a_request_that_google_accepts(body: dict[str, Any], model: str) -> None:
    request = GEMINI.request(a_call(body, model=model, drop_params=True))

    check_request(orjson.loads(request.body))
