"""Who may ask a service for what, and how much."""

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi import HTTPException, Request
from limits.limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from byzray.client.models import Caller, Problem
from byzray.mistakes import WrongInput
from sweeps.service.settings import Settings
from sweeps.service.tokens import Tokens

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# A body may take so many seconds to arrive.
BODY_SECONDS = 30.0

# Who asks a service that has no tokens, which only this machine can reach.
ANYBODY = "local"


class Guard:
    """Finds out who asks.

    Args:
        settings: of the service.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.tokens = Tokens(settings.storage)
        self._limit = RateLimitItemPerMinute(settings.most_requests)
        self._counts = MovingWindowRateLimiter(MemoryStorage())

    def caller(self, request: Request) -> Caller:
        """Who asks, by the bearer token of a request.

        Raises:
            fastapi.HTTPException: 401, if it has none that is known; 403, if a page of another site sends it; 429, if
                there are too many.
        """
        try:
            found = self._caller(request)
        except HTTPException:
            self._count(f"nobody at {request.client.host if request.client else 'an unknown address'}")
            raise
        self._count(found.name)
        return found

    def _count(self, who: str) -> None:
        if not self._counts.hit(self._limit, who):
            detail = f"more than {self.settings.most_requests} requests in a minute"
            raise HTTPException(429, detail, {"Retry-After": "10"})

    def _caller(self, request: Request) -> Caller:
        origin = request.headers.get("origin")
        if origin is not None and origin != f"{request.url.scheme}://{request.headers.get('host')}":
            raise HTTPException(403, "a page of another site sent this request")
        try:
            known = self.tokens.all()
        except WrongInput:
            raise HTTPException(401, "the tokens of the service are damaged; nobody is let in", _CHALLENGE) from None
        if not known and self.settings.is_local and _is_here(request):
            return Caller(name=ANYBODY, admin=True)
        kind, _, text = request.headers.get("authorization", "").partition(" ")
        found = self.tokens.caller(text.strip()) if kind.lower() == "bearer" else None
        if found is None:
            raise HTTPException(
                401, "expected a bearer token that the service knows: Authorization: Bearer TOKEN", _CHALLENGE
            )
        return found


def _is_here(request: Request) -> bool:
    """Whether a request comes from this machine: Ray Serve may listen elsewhere, too, if another application had it."""
    try:
        return request.client is not None and ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False


_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="byzray"'}


class BodyLimit:
    """ASGI middleware that refuses larger bodies before they are in memory.

    Args:
        app: the application behind it.
        most_bytes: the largest body.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], most_bytes: int) -> None:
        self.app = app
        self.most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if b"content-length" not in headers and b"transfer-encoding" not in headers:  # there is no body
            await self.app(scope, receive, send)
            return
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.most_bytes:
            await self._refuse(send)
            return
        body = b""
        until = asyncio.get_running_loop().time() + BODY_SECONDS
        while True:
            try:
                message = await asyncio.wait_for(receive(), until - asyncio.get_running_loop().time())
            except TimeoutError:
                await self._refuse(send, 408, f"the body took more than {BODY_SECONDS:g} s")
                return
            if message["type"] != "http.request":  # the client left
                return
            body += message.get("body", b"")
            if len(body) > self.most_bytes:
                await self._refuse(send)
                return
            if not message.get("more_body"):
                break
        sent = False

        async def replay() -> MutableMapping[str, Any]:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)

    async def _refuse(self, send: Send, status: int = 413, detail: str = "") -> None:
        problem = Problem(detail=detail or f"the body has more than {self.most_bytes} bytes")
        content = problem.model_dump_json().encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
        await send({"type": "http.response.body", "body": content})
