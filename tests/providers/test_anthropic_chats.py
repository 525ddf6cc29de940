"""Any chat that OpenAI accepts becomes one that Anthropic accepts, whatever hypothesis comes up with."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.providers.anthropic_calls import MARK, PDF, PNG, made_call, result, sent
from tests.providers.anthropic_types import check_request

WORDS = st.text(max_size=8)
PARTS = st.one_of(
    WORDS.map(lambda words: {"type": "text", "text": words}),
    st.just({"type": "text", "text": "marked", **MARK}),
    st.just({"type": "image_url", "image_url": {"url": PNG}}),
    st.just({"type": "file", "file": {"file_data": PDF}}),
)
CONTENT = st.one_of(WORDS, st.lists(PARTS, max_size=3))
TEXTS = st.one_of(WORDS, st.lists(WORDS.map(lambda words: {"type": "text", "text": words}), max_size=2))
NAMES = st.sampled_from(["f", "get.weather", "get weather", "get_weather", "ü", "x" * 140])
THOUGHTS = st.lists(
    st.sampled_from(
        [
            {"type": "thinking", "thinking": "Hm", "signature": "s"},
            {"type": "thinking", "thinking": "unsigned"},
            {"type": "redacted_thinking", "data": "x"},
        ]
    ),
    max_size=2,
)


@st.composite
def call_turns(draw: st.DrawFn) -> list[dict[str, Any]]:
    """An assistant that calls tools, and all the results, perhaps with something said in between."""
    ids = draw(st.lists(st.sampled_from(["call_0", "call_1", "a:b", "a.b", "toolu_1"]), min_size=1, max_size=3))
    made = [made_call(each, draw(NAMES), draw(st.sampled_from(["", "{}", '{"x": [1]}']))) for each in ids]
    assistant: dict[str, Any] = {"role": "assistant", "content": draw(st.none() | TEXTS), "tool_calls": made}
    if thoughts := draw(THOUGHTS):
        assistant["thinking_blocks"] = thoughts
    between = draw(st.lists(SPOKEN, max_size=1))
    results = [result(each, draw(CONTENT)) for each in draw(st.permutations(sorted(set(ids))))]
    return [assistant, results[0], *between, *results[1:]]


SPOKEN = st.one_of(
    CONTENT.map(lambda content: {"role": "user", "content": content}),
    TEXTS.map(lambda content: {"role": "system", "content": content}),
    TEXTS.map(lambda content: {"role": "developer", "content": content}),
)
ANSWERS = st.builds(
    lambda content, thoughts: {"role": "assistant", "content": content, "thinking_blocks": thoughts}, TEXTS, THOUGHTS
)
CHATS = st.lists(
    st.one_of(SPOKEN.map(lambda each: [each]), ANSWERS.map(lambda each: [each]), call_turns()), min_size=1, max_size=6
).map(lambda steps: [message for step in steps for message in step])
PARAMETERS = st.fixed_dictionaries(
    {},
    optional={
        "stream": st.booleans(),
        "temperature": st.sampled_from([0, 0.5, 1]),
        "top_p": st.sampled_from([0.9, 1]),
        "max_tokens": st.integers(1, 9_000),
        "reasoning_effort": st.sampled_from(["none", "minimal", "low", "medium", "high", "xhigh"]),
        "tools": st.lists(NAMES, max_size=4, unique=True).map(
            lambda names: [{"type": "function", "function": {"name": name}} for name in names]
        ),
        "tool_choice": st.sampled_from(["auto", "none", "required"]),
        "parallel_tool_calls": st.booleans(),
        "stop": st.one_of(WORDS, st.lists(WORDS, max_size=3)),
        "user": WORDS,
        "response_format": st.just(
            {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object", "properties": {}}}}
        ),
        "web_search_options": st.just({}),
        "seed": st.integers(),
    },
)
MODELS = st.sampled_from(
    [
        "claude-3-5-haiku-20241022",
        "claude-3-7-sonnet-20250219",
        "claude-sonnet-4-5",
        "claude-opus-4-6",
        "claude-opus-4-8",
        "claude-sonnet-5-5",
        "claude-opus-5-5",
        "claude-mythos-preview",
    ]
)


@settings(deadline=None, max_examples=200)  # two busy cores
@given(messages=CHATS, parameters=PARAMETERS, model=MODELS)
def test_any_chat_becomes_a_request_that_anthropic_documents(
    messages: list[dict[str, Any]], parameters: dict[str, Any], model: str
) -> None:
    wire = sent({"messages": messages, **parameters}, model=model, drop_params=True)

    check_request(wire)
