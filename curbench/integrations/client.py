"""A client of ``curbench serve`` that needs nothing but Python: copy it, or write the same in another language."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit


class Refusal(ValueError):
    """The server's sentence about a request that it refused; ``status`` is that of HTTP, and nothing changed."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Client:
    """Selections from a server and feedback to it, over one connection. Not for several threads at once.

    address  as the server prints it, like http://127.0.0.1:8321
    token    as the server prints it

    Replies are those of the server as dicts (``curbench.serve.messages``, or /openapi.json). Methods raise ``Refusal``
    for a request that the server refuses and OSError for a server that is not there. After an OSError nothing is known:
    ``observe`` may simply be called again, and what a lost ``select`` drew is among the open tickets of ``state``.
    """

    def __init__(self, address: str, token: str, *, timeout_s: float = 60.0) -> None:
        parts = urlsplit(address)
        if parts.scheme != "http" or parts.hostname is None:
            raise ValueError(f"an address looks like http://127.0.0.1:8321; got {address!r}")
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=timeout_s)
        self._header = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def select(self, batch: int, *, keys: bool = False) -> dict[str, Any]:
        """Opens a ticket: ticket, step, problem, propensity and rollouts of ``batch`` slots; with ``keys`` key too."""
        return self._call("POST", "/v1/select", {"batch": batch, "keys": keys})

    def observe(
        self, ticket: int, reward: list[float], success: list[bool], length: list[int], **rest: Any
    ) -> dict[str, Any]:
        """Says how the rollouts of a ticket went, slot after slot; again with the same content changes nothing.

        rest  size, advantage, old_logprob, new_logprob, alignment, policy_step: see ``messages.Observe``
        """
        return self._call(
            "POST",
            "/v1/observe",
            {"ticket": ticket, "reward": reward, "success": success, "length": length, **rest},
        )

    def selection(self, ticket: int) -> dict[str, Any]:
        """What an open ticket waits for."""
        return self._call("GET", f"/v1/selections/{ticket}")

    def state(self, *, full: bool = False) -> dict[str, Any]:
        """Where the server stands: next ticket, open ones; ``full``: the whole state too."""
        return self._call("GET", f"/v1/state?full={'true' if full else 'false'}")

    def metrics(self) -> dict[str, float]:
        """Numbers worth logging."""
        return self._call("GET", "/v1/metrics")

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()

    def _call(self, method: str, path: str, content: dict[str, Any] | None = None) -> Any:
        body = None if content is None else json.dumps(content, allow_nan=False).encode()
        try:
            self._connection.request(method, path, body, self._header)
            reply = self._connection.getresponse()
            data = reply.read()
        except (http.client.HTTPException, OSError) as error:
            self._connection.close()  # the next call begins with a new one
            if isinstance(error, OSError):
                raise
            raise ConnectionError(f"the server's answer was cut short: {error!r}") from None
        if reply.status != 200:
            raise Refusal(reply.status, json.loads(data)["error"])
        return json.loads(data)
