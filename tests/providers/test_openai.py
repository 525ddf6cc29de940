"""OpenAI's requests and whole answers."""

from typing import Any

import orjson
import pytest

from shared import errors
from shared.errors import UnsupportedParameter, UpstreamError
from shared.jobs import Usage
from tests.providers.openai_schema import check_completion
from tests.providers.openai_wire import FIXTURES, call, deployment, request_body
from workers.providers import registry
from workers.providers.base import Completion

OPENAI = registry.adapter("openai")


def completion(answer: Any) -> Completion:
    done = OPENAI.completion(call(), answer if isinstance(answer, bytes) else orjson.dumps(answer))
    check_completion(done.body)
    return done


def answer(**fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi", "refusal": None}, "finish_reason": "stop"}
    own = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-4o", "choices": [choice]}
    return own | fields


class TestRequest:
    def test_goes_to_the_endpoint_with_the_key_and_the_deployments_model(self) -> None:
        request = OPENAI.request(call())

        assert request.url == "https://api.openai.com/v1/chat/completions"
        assert request.headers == {"Content-Type": "application/json", "Authorization": "Bearer sk-test"}
        assert orjson.loads(request.body)["model"] == "gpt-4o"

    @pytest.mark.parametrize(
        ("base", "url"),
        [
            ("https://eu.api.openai.com/v1/", "https://eu.api.openai.com/v1/chat/completions"),
            ("http://host/v1/chat/completions", "http://host/v1/chat/completions"),
            ("http://host", "http://host/chat/completions"),
        ],
    )
    def test_a_configured_address_replaces_the_default(self, base: str, url: str) -> None:
        assert OPENAI.request(call(deployment(api_base=base))).url == url

    def test_no_key_means_no_authorization_header(self) -> None:
        to = deployment("ollama")
        object.__setattr__(to, "api_key", "")

        assert "Authorization" not in registry.adapter("ollama").request(call(to)).headers

    def test_the_deployments_headers_are_merged_last_whatever_their_case(self) -> None:
        to = deployment(headers={"authorization": "Basic x", "X-Team": "a"}, params={"organization": "org-1"})

        request = OPENAI.request(call(to, organization="org-of-the-client"))

        assert request.headers == {
            "Content-Type": "application/json",
            "OpenAI-Organization": "org-1",
            "authorization": "Basic x",
            "X-Team": "a",
        }
        assert b"organization" not in request.body

    def test_the_call_is_not_changed(self) -> None:
        made = call(stream=True, stream_options={"x": 1}, extra_body={"y": 1}, max_tokens=5)
        before = orjson.dumps(made.body)

        OPENAI.request(made)

        assert orjson.dumps(made.body) == before

    @pytest.mark.parametrize(
        ("asked", "sent"),
        [
            ({"stream": True}, {"include_usage": True}),
            ({"stream": True, "stream_options": None}, {"include_usage": True}),
            ({"stream": True, "stream_options": {"include_usage": False, "a": 1}}, {"include_usage": True, "a": 1}),
            ({"stream": False, "stream_options": {"include_usage": True}}, None),
        ],
    )
    def test_streams_and_only_streams_are_asked_for_usage(self, asked: dict[str, Any], sent: Any) -> None:
        assert request_body(**asked).get("stream_options") == sent

    @pytest.mark.parametrize("model", ["o1", "o3-mini", "o4-mini-2025-04-16", "gpt-5", "gpt-5-nano", "ft:o3-mini:a"])
    def test_reasoning_models_get_max_completion_tokens(self, model: str) -> None:
        sent = request_body(deployment(model=model), max_tokens=5)

        assert sent["max_completion_tokens"] == 5
        assert "max_tokens" not in sent

    @pytest.mark.parametrize("model", ["gpt-4o", "gpt-4.1-mini", "gpt-3.5-turbo", "chatgpt-4o-latest"])
    def test_other_models_keep_max_tokens(self, model: str) -> None:
        assert request_body(deployment(model=model), max_tokens=5)["max_tokens"] == 5

    def test_extra_body_is_merged_last(self) -> None:
        sent = request_body(temperature=1, extra_body={"temperature": 0, "new_field": [1]})

        assert (sent["temperature"], sent["new_field"]) == (0, [1])
        assert "extra_body" not in sent

    def test_additional_drop_params_are_left_out(self) -> None:
        assert "seed" not in request_body(deployment(additional_drop_params=("seed",)), seed=1)

    def test_unknown_parameters_pass(self) -> None:
        assert request_body(some_new_parameter={"a": 1})["some_new_parameter"] == {"a": 1}


class TestUnsupportedParameters:
    def test_are_refused_by_name(self) -> None:
        with pytest.raises(UnsupportedParameter, match=r"Groq.*'logit_bias'.*drop_params") as caught:
            request_body(deployment("groq"), logit_bias={"1": 1})

        assert caught.value.param == "logit_bias"

    def test_are_left_out_under_drop_params(self) -> None:
        assert "logit_bias" not in request_body(deployment("groq", drop_params=True), logit_bias={"1": 1})

    @pytest.mark.parametrize(("name", "value"), [("n", 1), ("logprobs", False), ("logit_bias", None)])
    def test_are_left_out_when_they_ask_for_nothing(self, name: str, value: Any) -> None:
        assert name not in request_body(deployment("groq"), **{name: value})


class TestCompletion:
    @pytest.mark.parametrize("name", ["completion.json", "completion_tools.json"])
    def test_what_conforms_passes_byte_for_byte(self, name: str) -> None:
        body = (FIXTURES / "openai" / name).read_bytes()

        done = completion(body)

        assert done.body == body
        assert done.usage == Usage(input=15, cache_read=4, output=10, reasoning=3)
        assert done.model == "gpt-4o-2024-08-06"

    def test_what_a_vendor_leaves_out_is_filled_in(self) -> None:
        done = orjson.loads(completion({"choices": [{"message": {"content": "Hi"}, "finish_reason": "eos"}]}).body)

        assert (done["id"], done["created"], done["model"]) == ("chatcmpl-own", 1_700_000_000, "gpt-4o")
        assert done["choices"][0]["finish_reason"] == "stop"

    @pytest.mark.parametrize(
        ("reason", "mapped"), [("model_length", "length"), ("tool_use", "tool_calls"), ("unheard_of", "stop")]
    )
    def test_finish_reasons_are_openais(self, reason: str, mapped: str) -> None:
        given = answer()
        given["choices"][0]["finish_reason"] = reason

        assert orjson.loads(completion(given).body)["choices"][0]["finish_reason"] == mapped

    @pytest.mark.parametrize("reason", ["error", "abort", "insufficient_system_resource"])
    def test_a_finish_that_says_the_vendor_failed_is_an_error(self, reason: str) -> None:
        given = answer()
        given["choices"][0]["finish_reason"] = reason

        with pytest.raises(UpstreamError) as caught:
            completion(given)

        assert caught.value.retryable

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"null",
            b"[]",
            b'"text"',
            b'{"choices": [{"mess',
            b"<html><script>alert(1)</script><body>Please <b>log in</b></body></html>",
            orjson.dumps(answer(choices=[])),
            orjson.dumps(answer(choices=None)),
            orjson.dumps(answer(choices=[None])),
            orjson.dumps(answer(choices=[{"index": 0, "finish_reason": "stop"}])),
            orjson.dumps(answer(choices=[{"index": 0, "message": {"role": "assistant", "content": ""}}])),
        ],
    )
    def test_what_is_no_answer_is_broken_whatever_its_status(self, body: bytes) -> None:
        with pytest.raises(errors.UpstreamBroken) as caught:
            completion(body)

        assert "<" not in caught.value.message
        assert "alert" not in caught.value.message

    @pytest.mark.parametrize(
        ("error", "kind", "status"),
        [
            ({"message": "Slow down", "type": "rate_limit_error"}, errors.UpstreamRateLimited, 429),
            ({"message": "Slow down", "code": 429}, errors.UpstreamRateLimited, 429),
            ({"message": "x", "code": "context_length_exceeded"}, errors.UpstreamContextWindowExceeded, 400),
            ({"message": "x", "type": "overloaded_error"}, errors.UpstreamOverloaded, 503),
            ({"message": "x", "code": "invalid_api_key"}, errors.UpstreamAuthentication, 401),
            ({"message": "x", "type": "something_new"}, errors.UpstreamServerError, 500),
            ("boom", errors.UpstreamServerError, 500),
        ],
    )
    def test_an_error_object_is_the_error_it_describes(
        self, error: Any, kind: type[UpstreamError], status: int
    ) -> None:
        with pytest.raises(UpstreamError) as caught:
            completion({"error": error})

        assert type(caught.value) is kind
        assert (caught.value.status, caught.value.provider) == (status, "openai")


class TestUsage:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ({"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}, Usage(input=9, output=2)),
            (
                {
                    "prompt_tokens": 100,
                    "completion_tokens": 2,
                    "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30},
                },
                Usage(input=10, cache_read=60, cache_write=30, output=2),
            ),
            ({"prompt_tokens": 9, "completion_tokens": 2, "prompt_cache_hit_tokens": 5}, Usage(4, 5, output=2)),
            ({"prompt_tokens": 9, "completion_tokens": 2, "cached_tokens": 50}, Usage(0, 9, output=2)),
            (
                {
                    "prompt_tokens": 9,
                    "completion_tokens": 2,
                    "total_tokens": 18,
                    "completion_tokens_details": {"reasoning_tokens": 7},
                },
                Usage(input=9, output=9, reasoning=7),
            ),
            ({"prompt_tokens": None, "completion_tokens": -1, "prompt_tokens_details": None}, None),
            ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, None),
            ({}, None),
            (None, None),
        ],
    )
    def test_classes_are_disjoint_and_nothing_is_none(self, given: Any, expected: Usage | None) -> None:
        assert completion(answer(usage=given)).usage == expected


_CASES: list[tuple[int, dict[str, Any], type[UpstreamError]]] = [
    (400, {"message": "bad"}, errors.UpstreamBadRequest),
    (400, {"message": "m", "code": "context_length_exceeded"}, errors.UpstreamContextWindowExceeded),
    (400, {"message": "This model's maximum context length is 8192 tokens"}, errors.UpstreamContextWindowExceeded),
    (413, {"message": "Prompt is too long"}, errors.UpstreamContextWindowExceeded),
    (400, {"message": "m", "code": "content_policy_violation"}, errors.UpstreamContentPolicy),
    (400, {"message": "m", "code": "content_filter"}, errors.UpstreamContentPolicy),
    (400, {"message": "... Azure OpenAI's content management policy."}, errors.UpstreamContentPolicy),
    (403, {"message": "flagged", "metadata": {"flagged_input": "x"}}, errors.UpstreamContentPolicy),
    (400, {"message": "Incorrect API key provided: xa***."}, errors.UpstreamAuthentication),
    (401, {"message": "m"}, errors.UpstreamAuthentication),
    (402, {"message": "Insufficient Balance"}, errors.UpstreamAuthentication),
    (403, {"message": "m"}, errors.UpstreamAuthentication),
    (404, {"message": "m", "code": "model_not_found"}, errors.UpstreamNotFound),
    (408, {"message": "m"}, errors.UpstreamTimeout),
    (504, {"message": "m"}, errors.UpstreamTimeout),
    (409, {"message": "m"}, errors.UpstreamRateLimited),
    (429, {"message": "context length"}, errors.UpstreamRateLimited),
    (429, {"message": "m", "code": "rate_limit_exceeded", "type": "tokens"}, errors.UpstreamRateLimited),
    (429, {"message": "m", "code": "insufficient_quota"}, errors.UpstreamQuotaExhausted),
    (429, {"message": "m", "type": "billing_hard_limit_reached"}, errors.UpstreamQuotaExhausted),
    (415, {"message": "m"}, errors.UpstreamBadRequest),
    (422, {"message": "m"}, errors.UpstreamBadRequest),
    (500, {"message": "maximum context length"}, errors.UpstreamServerError),
    (502, {"message": "m"}, errors.UpstreamServerError),
    (520, {"message": "m"}, errors.UpstreamServerError),
    (503, {"message": "m"}, errors.UpstreamOverloaded),
    (529, {"message": "m"}, errors.UpstreamOverloaded),
]


class TestError:
    @pytest.mark.parametrize(("status", "error", "kind"), _CASES)
    def test_is_classified_by_status_and_by_its_text_only_where_the_status_is_silent(
        self, status: int, error: dict[str, Any], kind: type[UpstreamError]
    ) -> None:
        described = OPENAI.error(status, {}, orjson.dumps({"error": error}))

        assert type(described) is kind
        assert (described.status, described.message) == (status, error["message"])

    def test_names_the_parameter(self) -> None:
        body = b'{"error":{"message":"m","type":"invalid_request_error","param":"temperature","code":null}}'

        assert OPENAI.error(400, {}, body).param == "temperature"

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b'{"error":"model overloaded"}', "model overloaded"),
            (b'{"object":"error","message":"m","type":"BadRequestError","code":400}', "m"),
            (b'{"detail":[{"loc":["body","n"],"msg":"too large"}]}', "body.n: too large"),
            (b'{"detail":"Not Found"}', "Not Found"),
            (b'[{"error":{"message":"in a list"}}]', "in a list"),
            (b"upstream\r\nconnect\x00 error", "The provider answered 400: upstream connect error"),
            (b"", "The provider answered 400: (empty)"),
            (b"\xff\xfe", "The provider answered 400: ��"),
            (
                b"<html><head><style>b{}</style><title>502</title></head><body><h1>Bad\ngateway</h1></body></html>",
                "The provider answered 400: 502 Bad gateway",
            ),
        ],
    )
    def test_every_shape_of_body_gives_a_readable_message(self, body: bytes, message: str) -> None:
        assert OPENAI.error(400, {}, body).message == message

    def test_messages_are_bounded_and_carry_no_key(self) -> None:
        echoed = "sk-proj-abcdefghijklmnop1234"

        long = OPENAI.error(500, {}, orjson.dumps({"error": {"message": f"key {echoed} " + "x" * 9000}}))
        page = OPENAI.error(500, {}, b"<p>" + b"y" * 9000)

        assert len(long.message) == 2000
        assert echoed not in long.message
        assert len(page.message) < 300
