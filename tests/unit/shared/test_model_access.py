"""Which models a key may call: LiteLLM's rules as tables."""

import random
from typing import Any

import pytest

from shared import chat_request
from shared.catalog import Alias, Catalog, Deployment, Routing, Wildcard
from shared.errors import (
    CustomerModelNotAllowed,
    ModelNotAllowed,
    TeamModelNotAllowed,
    UnknownModel,
    UserModelNotAllowed,
)
from shared.job_plan import Caller, JobPlanner
from shared.jobs import Job
from shared.model_access import EVERYTHING, Access, ModelList

CATALOG = Catalog(
    [
        Deployment("1", "gpt-4o", "openai", "gpt-4o"),
        Deployment("2", "claude", "anthropic", "claude", info={"access_groups": ["beta", "premium"]}),
        Deployment("3", "own", "hosted_vllm", "own"),
        Deployment("4", "odd", "openai", "odd", info={"access_groups": "beta"}),
    ],
    [
        Wildcard("openai/*", "*", {"openai": Deployment("w", "openai/*", "openai", "*", credential="c")}),
        Wildcard(
            "lab/*",
            "*",
            {"openai": Deployment("v", "lab/*", "openai", "*", credential="c", info={"access_groups": ["lab-people"]})},
        ),
    ],
    aliases={"cheap": Alias("own"), "secret": Alias("claude", hidden=True)},
    routing=Routing(
        fallbacks={"gpt-4o": ("claude", "own")},
        context_window_fallbacks={"gpt-4o": ("own",), "own": ("claude",)},
        content_policy_fallbacks={"gpt-4o": ("odd",)},
    ),
)


def access(*models: str, **more: Any) -> Access:
    allowed = ModelList.of(models, ModelNotAllowed)
    return Access((allowed,) if allowed else (), **more)


@pytest.mark.parametrize(
    ("models", "model", "allowed"),
    [
        # an empty list and the names that stand for everything
        ([], "gpt-4o", True),
        (["*"], "claude", True),
        (["all-proxy-models"], "claude", True),
        (["all-team-models"], "claude", True),
        (["all-proxy-models", "no-default-models"], "claude", True),
        (["no-default-models"], "gpt-4o", False),
        (["no-default-models", "own"], "own", True),
        (["no-default-models"], "no-default-models", False),
        # exact names
        (["gpt-4o"], "gpt-4o", True),
        (["gpt-4o"], "claude", False),
        (["gpt-4o"], "gpt-4", False),
        (["gpt-4o"], "GPT-4O", False),
        (["gpt-4o"], "", False),
        # aliases of the router: by their own name, or by that of the group they lead to
        (["cheap"], "cheap", True),
        (["own"], "cheap", True),
        (["cheap"], "own", False),
        # wildcards, by what they match
        (["openai/*"], "openai/gpt-5", True),
        (["openai/*"], "gpt-4o", True),
        (["openai/*"], "claude", False),
        (["openai/gpt-5"], "openai/gpt-5", True),
        (["openai/gpt-5"], "openai/gpt-4", False),
        (["open*5"], "openai/gpt-5", True),
        (["openai/*"], "openai/", True),
        (["openai.*"], "openai/gpt-5", False),
        # access groups
        (["beta"], "claude", True),
        (["premium", "x"], "claude", True),
        (["beta"], "secret", True),
        (["beta"], "gpt-4o", False),
        (["beta"], "odd", False),
        (["lab-people"], "lab/anything", True),
        (["lab-people"], "openai/gpt-5", False),
    ],
)
def test_a_list_has_a_model_or_not(models: list[str], model: str, allowed: bool) -> None:
    its = access(*models)

    assert its.allows(model, CATALOG) is allowed
    if allowed:
        assert its.admit(model, CATALOG) == model
    else:
        with pytest.raises(ModelNotAllowed):
            its.admit(model, CATALOG)


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        (
            ModelNotAllowed,
            "The requested model 'claude' is not available for this API key, or the model name is invalid. ",
        ),
        (TeamModelNotAllowed, "The requested model 'claude' is not available for this API key, or the model name is "),
        (UserModelNotAllowed, "The requested model 'claude' is not available for this API key, or the model name is "),
        (CustomerModelNotAllowed, "The requested model 'claude' is not in the allowed models for this customer. "),
    ],
)
def test_a_refusal_says_whose_list_it_is_by_its_type(refusal: type[ModelNotAllowed], message: str) -> None:
    models = ModelList.of(["gpt-4o"], refusal)
    assert models is not None

    with pytest.raises(refusal) as caught:
        models.require("claude", CATALOG, "claude")

    assert type(caught.value) is refusal
    assert caught.value.message.startswith(message)
    assert caught.value.param == "model"


def test_all_lists_must_have_the_model() -> None:
    key, team = ModelList.of(["gpt-4o", "claude"], ModelNotAllowed), ModelList.of(["claude"], TeamModelNotAllowed)
    assert key is not None and team is not None
    both = Access((key, team))

    assert both.allows("claude", CATALOG)
    with pytest.raises(TeamModelNotAllowed):
        both.admit("gpt-4o", CATALOG)


def test_an_alias_of_the_key_is_followed_before_its_list_is_asked() -> None:
    its = access("claude", aliases={"gpt-4o": "claude"})

    assert its.admit("gpt-4o", CATALOG) == "claude"
    with pytest.raises(ModelNotAllowed, match="'theirs'"):
        access("gpt-4o", aliases={"theirs": "claude"}).admit("theirs", CATALOG)


# In a job


def planned(its: Access, **fields: Any) -> Job:
    request = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], **fields}
    envelope = chat_request.Envelope.model_validate(request)
    return JobPlanner(CATALOG, random.Random(7), "here", 600.0).job(envelope, b"{}", Caller("k", access=its), 0.0)


def groups(job: Job) -> list[str]:
    return [leg.group for leg in job.route]


@pytest.mark.parametrize(
    ("its", "route", "barred"),
    [
        (EVERYTHING, ["gpt-4o", "claude", "own"], ()),
        (access("gpt-4o"), ["gpt-4o"], ("claude", "odd", "own")),
        (access("gpt-4o", "own"), ["gpt-4o", "own"], ("claude", "odd")),
        (access("gpt-4o", fallbacks_too=False), ["gpt-4o", "claude", "own"], ()),
    ],
)
def test_configured_fallbacks_that_the_key_may_not_call_are_left_out(
    its: Access, route: list[str], barred: tuple[str, ...]
) -> None:
    job = planned(its)

    assert groups(job) == route
    assert job.barred == barred


def test_fallbacks_that_the_client_names_are_refused_by_name() -> None:
    with pytest.raises(ModelNotAllowed, match="'claude'"):
        planned(access("gpt-4o"), fallbacks=["claude"])
    assert groups(planned(access("gpt-4o", "claude"), fallbacks=["claude"])) == ["gpt-4o", "claude"]
    assert groups(planned(access("gpt-4o", fallbacks_too=False), fallbacks=["claude"])) == ["gpt-4o", "claude"]


def test_a_job_keeps_the_clients_name_of_the_model() -> None:
    job = planned(access(aliases={"mine": "claude"}), model="mine")

    assert (job.model, groups(job)) == ("mine", ["claude"])


def test_a_model_that_nobody_serves_is_unknown_to_those_who_may_call_everything() -> None:
    with pytest.raises(UnknownModel):
        planned(EVERYTHING, model="no-such-model")
    with pytest.raises(ModelNotAllowed):
        planned(access("gpt-4o"), model="no-such-model")


def test_what_is_barred_travels_with_the_job() -> None:
    job = planned(access("gpt-4o"))

    assert Job.from_wire(job.headers(), job.body) == job


# In lists


@pytest.mark.parametrize(
    ("its", "visible"),
    [
        (access(), ["gpt-4o", "claude", "own", "odd", "cheap", "openai/*", "lab/*"]),
        (access("own"), ["own", "cheap"]),
        (access("beta"), ["claude"]),
        (access("openai/*"), ["gpt-4o", "openai/*"]),
        (access("openai/gpt-5", "nothing"), ["openai/gpt-5"]),
        (access("lab-people"), ["lab/*"]),
        (access("own", aliases={"mine": "own", "theirs": "claude"}), ["own", "cheap", "mine"]),
    ],
)
def test_only_what_may_be_called_is_listed(its: Access, visible: list[str]) -> None:
    assert its.visible(CATALOG) == visible
