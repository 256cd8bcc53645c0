"""The service over HTTP: Starlette on uvicorn, JSON or msgpack by content type, OpenAPI from the message types.

Starlette, because a request here costs tens of microseconds of curator: routing and a request object are all that is
wanted of a framework, and msgspec decodes, checks and describes the messages. One event loop applies requests one by
one; answers wait for the journal, which a thread commits for all that came meanwhile (group commit).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from hmac import compare_digest
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from curbench import __version__
from curbench.serve.messages import Observe, Observed, Problem, Select, Selected, Status
from curbench.serve.service import Refused, Service

JSON, MSGPACK = "application/json", "application/msgpack"
DECODE: dict[str, dict[type, Callable[[bytes], Any]]] = {
    JSON: {kind: msgspec.json.Decoder(kind).decode for kind in (Select, Observe)},
    MSGPACK: {kind: msgspec.msgpack.Decoder(kind).decode for kind in (Select, Observe)},
}
ENCODE = {JSON: msgspec.json.Encoder().encode, MSGPACK: msgspec.msgpack.Encoder().encode}


class Durable:
    """Group commit: whoever waits is woken when the journal holds all that was applied before."""

    def __init__(self, service: Service, stop: Callable[[], None]) -> None:
        self.service, self.stop = service, stop
        self.failed: Exception | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._work = asyncio.Event()

    def fail(self, error: Exception) -> None:
        """Acknowledges nothing any more and stops: memory and journal may differ, and a new start reads the journal."""
        self.failed = error
        self.stop()

    def committed(self) -> Awaitable[None]:
        """Done when everything applied so far is durable; raises OSError if it could not be made so."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._work.set()
        return future

    async def run(self) -> None:
        """Commits until it is cancelled."""
        loop, journal = asyncio.get_running_loop(), self.service.journal
        while True:
            await self._work.wait()
            self._work.clear()
            waiting, self._waiting = self._waiting, []
            data, state, number = journal.take(), None, journal.number
            if self.service.snapshot_due:
                state = self.service.capture()
            try:
                await loop.run_in_executor(None, journal.commit, data)
                for future in waiting:
                    if not future.done():
                        future.set_result(None)
                if state is not None:
                    await loop.run_in_executor(None, journal.snapshot, state, number)
            except OSError as error:
                self.fail(error)
                for future in [*waiting, *self._waiting]:
                    if not future.done():
                        future.set_exception(error)
                return


class Limits(msgspec.Struct):
    """body_bytes of one request; requests that may be under way at once, their answers not yet sent."""

    body_bytes: int = 16 << 20
    requests: int = 1024


def make_app(service: Service, token: str, *, limits: Limits | None = None, stop: Callable[[], None]) -> Starlette:
    """The application. ``stop`` is called when the journal can no longer be written or something broke inside."""
    limits = limits or Limits()
    durable = Durable(service, stop)
    bearer = f"Bearer {token}".encode()
    under_way = 0

    def answer(request: Request, content: Any, status: int = 200, **headers: str) -> Response:
        kind = MSGPACK if MSGPACK in request.headers.get("accept", "") else JSON
        return Response(ENCODE[kind](content), status, headers, media_type=kind)

    async def body(request: Request) -> bytes:
        declared = request.headers.get("content-length", "0")
        part, size = [], int(declared) if declared.isdecimal() else 0
        if size <= limits.body_bytes:
            size = 0
            async for chunk in request.stream():
                part.append(chunk)
                size += len(chunk)
                if size > limits.body_bytes:
                    break
            else:
                return b"".join(part)
        raise Refused(413, f"a request may have {limits.body_bytes} bytes; got {size} or more")

    async def message(request: Request, kind: type) -> Any:
        sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if sent not in DECODE:
            raise Refused(415, f"content-type must be {JSON} or {MSGPACK}; got {sent or 'none'!r}")
        data = await body(request)
        try:
            return DECODE[sent][kind](data)
        except msgspec.ValidationError as error:
            raise Refused(422, f"{kind.__name__}: {error}") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refused(400, f"the body is not {sent}: {error}") from None

    def endpoint(handle: Callable[[Request], Awaitable[Any]]) -> Callable[[Request], Awaitable[Response]]:
        """Checks the token and the queue first, and turns every refusal into a sentence."""

        async def guarded(request: Request) -> Response:
            nonlocal under_way
            if not compare_digest(request.headers.get("authorization", "").encode(), bearer):
                return answer(request, Problem("give the token: Authorization: Bearer TOKEN"), 401, **CHALLENGE)
            if durable.failed is not None:
                return answer(request, Problem(f"the server stops: {durable.failed}"), 503)
            if under_way >= limits.requests:
                sentence = f"{limits.requests} requests are under way already; try again"
                return answer(request, Problem(sentence), 429, **{"Retry-After": "1"})
            under_way += 1
            try:
                return answer(request, await handle(request))
            except Refused as refusal:
                return answer(request, Problem(str(refusal)), refusal.status)
            except ClientDisconnect:
                return Response(status_code=400)  # nobody is there to read it
            except ValueError as error:
                return answer(request, Problem(str(error)), 422)
            except OSError as error:
                return answer(request, Problem(f"the journal cannot be written: {error}"), 503)
            except Exception as error:
                durable.fail(error)  # half of a change may have happened in memory, and none of it in the journal
                raise
            finally:
                under_way -= 1

        return guarded

    async def select(request: Request) -> Selected:
        reply = service.select(await message(request, Select))
        await durable.committed()
        return reply

    async def observe(request: Request) -> Observed:
        reply = service.observe(await message(request, Observe))
        await durable.committed()  # of a repeated one too: the first may still be on its way
        return reply

    async def selection(request: Request) -> Selected:
        reply = service.selection(request.path_params["ticket"])
        await durable.committed()
        return reply

    async def state(request: Request) -> Status:
        asked = request.query_params.get("full", "false")
        if asked not in ("true", "false"):
            raise ValueError(f"full must be true or false; got {asked!r}")
        reply = service.status(full=asked == "true")
        await durable.committed()
        return reply

    async def metrics(request: Request) -> dict[str, float]:
        return service.ledger.metrics()

    async def health(request: Request) -> Response:
        good = durable.failed is None
        return answer(request, {"status": "ok" if good else "stopping"}, 200 if good else 503)

    async def openapi(request: Request) -> Response:
        return Response(msgspec.json.encode(describe_api()), media_type=JSON)

    async def no_route(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return answer(
            request,
            Problem(f"{request.method} {request.url.path}: {error.detail}"),
            error.status_code,
            **(error.headers or {}),
        )

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        committing = asyncio.create_task(durable.run())
        try:
            yield
        finally:
            committing.cancel()
            if durable.failed is None:
                service.journal.commit(service.journal.take())
            service.journal.close()

    routes = [
        Route("/v1/select", endpoint(select), methods=["POST"]),
        Route("/v1/observe", endpoint(observe), methods=["POST"]),
        Route("/v1/selections/{ticket:int}", endpoint(selection), methods=["GET"]),
        Route("/v1/state", endpoint(state), methods=["GET"]),
        Route("/v1/metrics", endpoint(metrics), methods=["GET"]),
        Route("/health", health, methods=["GET"]),
        Route("/openapi.json", openapi, methods=["GET"]),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: no_route}, lifespan=lifespan)
    app.state.durable = durable
    return app


CHALLENGE = {"WWW-Authenticate": "Bearer"}


def describe_api() -> dict[str, Any]:
    """The OpenAPI 3.1 document; schemas are those that requests are checked against."""
    kinds: tuple[Any, ...] = (Select, Observe, Selected, Observed, Status, Problem)
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    schema: dict[Any, Any] = dict(zip(kinds, schemas, strict=True))
    for kind in (Select, Observe):  # the name of a command is for the journal; here the path says it
        del components[kind.__name__]["properties"]["op"]
        components[kind.__name__]["required"].remove("op")

    def content(one: Any) -> dict[str, Any]:
        return {JSON: {"schema": one}, MSGPACK: {"schema": one}}

    def replies(good: Any, *refusals: int) -> dict[str, Any]:
        bad = {"description": "refused; nothing changed", "content": content(schema[Problem])}
        return {"200": {"description": "done", "content": content(good)}} | {str(code): bad for code in refusals}

    def operation(summary: str, good: Any, *refusals: int, sent: type | None = None, **rest: Any) -> dict[str, Any]:
        one = {"summary": summary, "responses": replies(good, 401, 429, 503, *refusals), **rest}
        if sent is not None:
            one["requestBody"] = {"required": True, "content": content(schema[sent])}
        return one

    ticket = {"name": "ticket", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 0}}
    full = {"name": "full", "in": "query", "schema": {"type": "boolean"}}
    number = {"type": "object", "additionalProperties": {"type": ["number", "null"]}}
    health = {"type": "object", "properties": {"status": {"type": "string"}}, "required": ["status"]}
    posted = (400, 413, 415, 422)
    paths: dict[str, Any] = {
        "/v1/select": {"post": operation("Open a ticket", schema[Selected], *posted, sent=Select)},
        "/v1/observe": {
            "post": operation("Say how a ticket went", schema[Observed], *posted, 404, 409, 410, sent=Observe)
        },
        "/v1/selections/{ticket}": {
            "get": operation("What an open ticket waits for", schema[Selected], 404, parameters=[ticket])
        },
        "/v1/state": {"get": operation("Where the server stands", schema[Status], 422, parameters=[full])},
        "/v1/metrics": {"get": operation("Numbers worth logging", number)},
        "/health": {"get": {"summary": "Whether it serves", "responses": replies(health, 503), "security": []}},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "curbench serve", "version": __version__, "description": "One curator over HTTP."},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}],
    }


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what is bound there.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Server(uvicorn.Server):
    """An application bound to an address, to be run; it stops when ``should_exit`` is set.

    port   0 takes a free one
    ready  called with the address once requests are answered
    Raises OSError if the address cannot be bound.
    """

    def __init__(
        self,
        service: Service,
        token: str,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        limits: Limits | None = None,
        ready: Callable[[str], None] = lambda address: None,
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._bound, self._ready = socket.create_server((host, port), family=family, backlog=512), ready
        name = f"[{host}]" if ":" in host else host
        self.address = f"http://{name}:{self._bound.getsockname()[1]}"
        self.app = make_app(service, token, limits=limits, stop=self._stop)
        how: dict[str, Any] = {"log_level": "warning", "access_log": False, "server_header": False}
        how |= {"date_header": False, "proxy_headers": False, "ws": "none"}
        super().__init__(uvicorn.Config(self.app, lifespan="on", loop="uvloop", http="httptools", **how))

    def _stop(self) -> None:
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready(self.address)

    def serve_until_stopped(self) -> Exception | None:
        """Runs until a signal or an error, which is returned."""
        with self._bound:
            self.run(sockets=[self._bound])
        failed: Exception | None = self.app.state.durable.failed
        return failed
