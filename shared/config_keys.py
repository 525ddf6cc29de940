"""LiteLLM's keys that Headrace knows and does not use, each with the reason that `headrace check` gives."""

_LATER = "not supported yet"
_AWS = "requests to AWS are not signed"
_GOOGLE = "Vertex AI is not supported; use gemini/ with an API key"
_AZURE = "Azure is not supported"
_HEALTH = "there are no background health checks; failing deployments cool down by themselves"
_BUDGETS = "budgets belong to keys, users, teams and customers, not to deployments"
_WINDOWS = "a budget's window follows from the time; nothing resets it"
_CALLBACKS = "there are no callbacks; metrics are at /metrics and spend is in the store"
_CACHE = "answers are not cached"
_STRATEGY = "deployments are chosen by simple-shuffle"
_SCHEDULE = "spend is recorded in bulk from a durable queue, not on a schedule"
_ALWAYS = "always on"
_TAGS = "tags do not route"
_RETRY_POLICY = "retries follow num_retries and the kind of error"

IGNORED: dict[str, dict[str, str]] = {
    "": {
        "callback_settings": _CALLBACKS,
        "guardrails": _LATER,
        "mcp_servers": _LATER,
        "finetune_settings": _LATER,
        "files_settings": _LATER,
        "vector_store_registry": _LATER,
    },
    "litellm_params": {
        "max_retries": "retries are counted by num_retries",
        "tags": _TAGS,
        "tag_regex": _TAGS,
        "itpm": "limits are rpm, tpm and max_parallel_requests",
        "otpm": "limits are rpm, tpm and max_parallel_requests",
        "rpd": "limits are rpm, tpm and max_parallel_requests",
        "tpd": "limits are rpm, tpm and max_parallel_requests",
        "max_budget": _BUDGETS,
        "budget_duration": _BUDGETS,
        "allowed_openai_params": "parameters that a provider may know pass through anyway",
        "use_in_pass_through": "there are no pass-through routes",
        "use_litellm_proxy": "write the model as litellm_proxy/<model>",
        "configurable_clientside_auth_params": "clients may not choose provider keys",
        "merge_reasoning_content_in_choices": _LATER,
        "api_version": _AZURE,
        "azure_ad_token": _AZURE,
        "azure_username": _AZURE,
        "azure_password": _AZURE,
        "tenant_id": _AZURE,
        "client_id": _AZURE,
        "client_secret": _AZURE,
        "region_name": "only the provider's own address or api_base is used",
        "ssl_verify": "certificates are always verified",
        "s3_bucket_name": _AWS,
        "gcs_bucket_name": _GOOGLE,
    },
    "litellm_settings": {
        "modify_params": "requests are not rewritten",
        "set_verbose": "use HEADRACE_LOG_LEVEL",
        "num_retries_per_request": _RETRY_POLICY,
        "callbacks": _CALLBACKS,
        "success_callback": _CALLBACKS,
        "failure_callback": _CALLBACKS,
        "service_callbacks": _CALLBACKS,
        "audit_log_callbacks": _CALLBACKS,
        "prometheus_metrics_config": _CALLBACKS,
        "redact_user_api_key_info": "keys are never logged",
        "redact_messages_in_exceptions": "messages are never logged",
        "cache": _CACHE,
        "cache_params": _CACHE,
        "key_generation_settings": _LATER,
        "default_internal_user_params": _LATER,
        "default_team_params": _LATER,
        "default_team_settings": _LATER,
        "disable_end_user_cost_tracking": _LATER,
        "enable_end_user_cost_tracking_prometheus_only": _LATER,
        "enable_json_schema_validation": "answers are passed on as the provider gave them",
        "network_mock": "use mock_response or the simulated provider",
        "expose_router_debug_in_errors": _LATER,
        "strip_anthropic_total_tokens": _LATER,
        "anthropic_sse_ping_interval_seconds": "use HEADRACE_KEEPALIVE_SECONDS",
        "ssl_verify": "certificates are always verified",
        "force_ipv4": _LATER,
        "forward_traceparent_to_llm_provider": _LATER,
        "telemetry": "nothing is sent anywhere",
        "priority_reservation": _LATER,
        "public_model_groups": _LATER,
    },
    "general_settings": {
        "database_connection_pool_limit": "the pool has a fixed, small size",
        "database_connection_timeout": "connections have a fixed timeout",
        "proxy_batch_write_at": _SCHEDULE,
        "proxy_batch_polling_interval": _SCHEDULE,
        "proxy_budget_rescheduler_min_time": _WINDOWS,
        "proxy_budget_rescheduler_max_time": _WINDOWS,
        "use_redis_transaction_buffer": _SCHEDULE,
        "coordination_redis": "use REDIS_URL",
        "disable_spend_updates": _SCHEDULE,
        "disable_error_logs": _LATER,
        "maximum_spend_logs_retention_interval": "what is too old is looked for all the time",
        "global_max_parallel_requests": "limits belong to keys and deployments; the queue holds the rest",
        "max_response_size_mb": _LATER,
        "allow_requests_on_db_unavailable": "known keys go on while the store is down, unknown ones get 503",
        "fail_closed_rate_limit_enforcement": _ALWAYS,
        "background_health_checks": _HEALTH,
        "health_check_interval": _HEALTH,
        "health_check_details": _HEALTH,
        "alerting_threshold": _LATER,
        "alerting_args": _LATER,
        "alert_types": _LATER,
        "custom_auth": "code is not loaded from the config",
        "enable_jwt_auth": _LATER,
        "litellm_jwtauth": _LATER,
        "enforce_user_param": _LATER,
        "allowed_routes": _LATER,
        "public_routes": _LATER,
        "admin_only_routes": _LATER,
        "pass_through_endpoints": _LATER,
        "forward_client_headers_to_llm_api": _LATER,
        "key_management_system": "secrets come from the environment",
        "key_management_settings": "secrets come from the environment",
        "ui_access_mode": _LATER,
        "user_header_mappings": _LATER,
        "cancel_on_disconnect": _ALWAYS,
        "disable_budget_reservation": "budgets always reserve, or a burst would overshoot them",
        "include_call_id_in_error_body": _LATER,
        "user_api_key_cache_max_size": _LATER,
        "enable_redis_auth_cache": _LATER,
        "token_rate_limit_type": "token limits count all tokens",
        "always_include_stream_usage": _LATER,
        "completion_model": _LATER,
        "infer_model_from_keys": "models come from this file, and from /model/new",
        "encryption_algorithm": _LATER,
        "use_client_credentials_pass_through_routes": "there are no pass-through routes",
        "role_permissions": _LATER,
        "max_in_flight_requests_per_worker": "use HEADRACE_CONCURRENCY",
        "max_queued_requests_per_worker": "use HEADRACE_QUEUE_BOUND",
        "admission_queue_timeout_seconds": "a request waits up to its own timeout",
    },
    "router_settings": {
        "routing_strategy_args": _STRATEGY,
        "retry_policy": _RETRY_POLICY,
        "model_group_retry_policy": _RETRY_POLICY,
        "allowed_fails_policy": "failures count alike, by allowed_fails",
        "enable_pre_call_checks": "context windows are checked by the provider; see context_window_fallbacks",
        "optional_pre_call_checks": _LATER,
        "enable_tag_filtering": _TAGS,
        "tag_filtering_match_any": _TAGS,
        "default_priority": "jobs have lanes, not priorities",
        "polling_interval": "nothing polls",
        "provider_budget_config": _BUDGETS,
        "cache_responses": _CACHE,
        "cache_kwargs": _CACHE,
        "caching_groups": _CACHE,
        "client_ttl": "connections are pooled",
        "set_verbose": "use HEADRACE_LOG_LEVEL",
        "debug_level": "use HEADRACE_LOG_LEVEL",
        "ignore_invalid_deployments": "an invalid deployment is an error",
    },
}

_PREFIXES = {"aws_": _AWS, "vertex_": _GOOGLE, "azure_": _AZURE, "litellm_": _LATER, "s3_": _AWS, "gcs_": _GOOGLE}
"""Parameters of clouds that Headrace does not speak to. They hold secrets: they must not become request parameters."""


def ignored(section: str, key: str) -> str | None:
    """Why a known key is not used; None for a key that is used or unknown."""
    reason = IGNORED.get(section, {}).get(key)
    if reason is None and section == "litellm_params":
        if "cost_per_" in key or key.endswith(("_cost", "_cost_above_1hr")):
            return "prices are per input, output, cache and reasoning token"
        return next((why for prefix, why in _PREFIXES.items() if key.startswith(prefix)), None)
    return reason


_SECRET_WORDS = ("key", "secret", "password", "token", "credential", "url", "auth", "headers")
_COUNTING_WORDS = ("tokens", "_per_", "_cost")


def is_secret(key: str) -> bool:
    """Whether the value of a key with this name may be a secret, or contain one."""
    name = key.lower()
    return any(word in name for word in _SECRET_WORDS) and not any(word in name for word in _COUNTING_WORDS)
