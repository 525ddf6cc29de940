"""OpenAI's sampling and output parameters -> `generationConfig` (https://ai.google.dev/api/generate-content)."""

from typing import Any

from shared.catalog import Deployment
from shared.errors import InvalidRequest, UnsupportedParameter
from workers.providers.gemini.media import resolution
from workers.providers.gemini.model import Model
from workers.providers.gemini.naming import camel, camel_keys
from workers.providers.gemini.schema import to_gemini
from workers.providers.gemini.thinking import from_effort, from_thinking

Parameters = dict[str, Any]

_RENAMED = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "n": "candidateCount",
    "max_tokens": "maxOutputTokens",
    "max_completion_tokens": "maxOutputTokens",  # after max_tokens, which it replaces in OpenAI's format
    "seed": "seed",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}
_PENALTIES = ("presence_penalty", "frequency_penalty")
_TRANSLATED = (
    *("messages", "tools", "tool_choice", "functions", "function_call", "web_search_options", "service_tier"),
    *("stop", "logprobs", "top_logprobs", "response_format", "modalities", "audio", "reasoning_effort", "thinking"),
)
# No counterpart, and nothing is lost without them: routing, accounting and hints.
_IGNORED = (
    *("model", "stream", "stream_options", "user", "metadata", "store", "parallel_tool_calls", "extra_body"),
    *("safety_identifier", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
)
TOP_LEVEL = ("safetySettings", "toolConfig", "cachedContent", "labels")
"""Gemini's own fields beside `generationConfig`."""
_NATIVE = (
    *("topK", "topP", "candidateCount", "maxOutputTokens", "stopSequences", "presencePenalty", "frequencyPenalty"),
    *("responseMimeType", "responseSchema", "responseJsonSchema", "responseModalities", "responseLogprobs"),
    *("thinkingConfig", "speechConfig", "imageConfig", "mediaResolution", "enableEnhancedCivicAnswers"),
)
_AS_THEY_ARE = ("responseJsonSchema", "labels")  # their keys are the user's own names
SERVICE_TIERS = {"default": "standard", "standard": "standard", "flex": "flex", "priority": "priority"}
_AUDIO_FORMAT = "pcm16"  # the only one that Gemini speaks: 16 bit PCM at 24 kHz


def supported(body: Parameters, model: Model, deployment: Deployment) -> Parameters:
    """The parameters to translate. Raises `UnsupportedParameter` for one that Gemini has no word for, unless the
    deployment drops such parameters."""
    kept: Parameters = {}
    for name, value in body.items():
        if value is None or name in deployment.additional_drop_params:
            continue
        if not _refused(name, value, model):
            kept[name] = value
        elif not deployment.drop_params and value not in ("", 0, [], {}):  # which ask for nothing
            raise UnsupportedParameter(
                f"{model.name} does not support {name}={value!r:.100}; leave it out or set drop_params", param=name
            )
    return kept


def generation_config(parameters: Parameters, model: Model) -> Parameters:
    """`generationConfig`; Gemini's own fields, as clients or configurations give them, override what is derived."""
    config = {wire: parameters[name] for name, wire in _RENAMED.items() if name in parameters}
    if (stop := parameters.get("stop")) is not None:
        config["stopSequences"] = stop if isinstance(stop, list) else [stop]
    config |= _log_probabilities(parameters)
    config |= _response_format(parameters.get("response_format"), model)
    config |= _output(parameters)
    if not model.generation_3 and (level := _media_resolution(parameters["messages"])):
        config["mediaResolution"] = level

    own = parameters.get("generationConfig", parameters.get("generation_config"))
    native = {name: value for name, value in parameters.items() if name not in _RENAMED and camel(name) in _NATIVE}
    for name, value in {**(own if isinstance(own, dict) else {}), **native}.items():
        config[camel(name)] = native_value(camel(name), value)
    given = config.get("thinkingConfig", {})
    if not isinstance(given, dict):
        raise InvalidRequest("thinking_config must be an object", param="thinking_config")
    if thinking := {**_thinking(parameters, model), **given}:
        config["thinkingConfig"] = thinking
    return config


def native_value(name: str, value: Any) -> Any:
    """The value of one of Gemini's own fields with the wire's spelling of its keys."""
    if name == "responseSchema":
        return to_gemini(value)
    return value if name in _AS_THEY_ARE else camel_keys(value)


def _refused(name: str, value: Any, model: Model) -> bool:
    if name in _PENALTIES:
        return model.generation_3
    if name == "service_tier":
        return value not in ("auto", *SERVICE_TIERS)
    if name == "audio":
        return isinstance(value, dict) and value.get("format", _AUDIO_FORMAT) != _AUDIO_FORMAT
    if name in _RENAMED or name in _TRANSLATED or name in _IGNORED:
        return False
    return camel(name) not in (*TOP_LEVEL, *_NATIVE, "generationConfig")


def _log_probabilities(parameters: Parameters) -> Parameters:
    wanted, top = parameters.get("logprobs"), parameters.get("top_logprobs")
    if isinstance(wanted, int) and not isinstance(wanted, bool):  # Gemini's own: a number of alternatives
        wanted, top = True, top or wanted
    if not wanted:
        return {}
    return {"responseLogprobs": True} | ({"logprobs": top} if top else {})


def _response_format(response_format: Any, model: Model) -> Parameters:
    if response_format is None:
        return {}
    kind = response_format.get("type") if isinstance(response_format, dict) else None
    if kind == "text":
        return {}
    if kind not in ("json_object", "json_schema"):
        raise InvalidRequest(f"unknown response_format {kind!r}", param="response_format")

    holder = response_format.get("json_schema")
    schema = holder.get("schema") if isinstance(holder, dict) else response_format.get("response_schema")
    config: Parameters = {"responseMimeType": "application/json"}
    if isinstance(schema, dict):
        if model.json_schema:
            config["responseJsonSchema"] = {key: value for key, value in schema.items() if key != "$schema"}
        else:
            config["responseSchema"] = to_gemini(schema)
    return config


def _output(parameters: Parameters) -> Parameters:
    """Which kinds of output are wanted, and whose voice speaks."""
    config: Parameters = {}
    if isinstance(modalities := parameters.get("modalities"), list):
        config["responseModalities"] = [str(each).upper() for each in modalities]
    audio = parameters.get("audio")
    if isinstance(audio, dict) and (voice := audio.get("voice")):
        config["speechConfig"] = {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": voice}}}
    return config


def _thinking(parameters: Parameters, model: Model) -> Parameters:
    if (thinking := parameters.get("thinking")) is not None:
        return from_thinking(model, thinking)
    return from_effort(model, parameters.get("reasoning_effort"))


def _media_resolution(messages: list[Any]) -> str | None:
    """Before Gemini 3 one resolution holds for all media: the highest that any part asks for."""
    contents = [message.get("content") for message in messages if isinstance(message, dict)]
    levels = {resolution(part) for content in contents if isinstance(content, list) for part in content}
    if levels & {"MEDIA_RESOLUTION_HIGH", "MEDIA_RESOLUTION_ULTRA_HIGH"}:
        return "MEDIA_RESOLUTION_HIGH"
    return next((level for level in ("MEDIA_RESOLUTION_MEDIUM", "MEDIA_RESOLUTION_LOW") if level in levels), None)
