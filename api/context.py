"""What the routes work with, made once at start-up and found on `app.state.context`."""

from dataclasses import dataclass

from starlette.requests import Request

from api.admission import Admission
from api.auth import Authenticator, Principal
from api.relay import Relay
from broker.backends import Backends
from shared.catalog import Catalog
from shared.settings import Settings


@dataclass(frozen=True, slots=True)
class Context:
    backends: Backends
    catalog: Catalog
    settings: Settings
    authenticator: Authenticator
    admission: Admission
    relay: Relay


def context_of(request: Request) -> Context:
    context = request.app.state.context
    assert isinstance(context, Context)
    return context


def authenticated(request: Request) -> Principal:
    """A dependency: the caller, or 401."""
    return context_of(request).authenticator.principal(request.headers)
