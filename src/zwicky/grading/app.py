"""The grading page's server: static files, pictures and judgements, on 127.0.0.1 with a token in the address."""

import json
import secrets
import socket
import sqlite3
import webbrowser
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from zwicky.data.labels import GRADES
from zwicky.errors import UserError
from zwicky.grading.database import OBJECT_COLUMNS, Judgements
from zwicky.grading.render import AUTO, COLOURS, STRETCHES, render
from zwicky.grading.session import Session
from zwicky.io import read_json, read_settings, replacing

STATIC = Path(__file__).parent / "static"
KEYS: dict[str, dict[str, str]] = {
    "grades": {"A": "q", "B": "w", "C": "e", "X": "r"},
    "subclasses": {"merger": "a", "spiral": "s", "ring": "d", "elliptical": "f", "disc": "g", "edge-on": "h"},
    "mosaic": {"next page": "f", "previous page": "d", "rest X": "x"},
    "both": {
        **{"undo": "z", "comment": "c", "next ungraded": "n", "view": "m", "score": "o", "context": "k", "help": "?"},
        **{"stretch": "t", "bands": "b", "zoom in": "+", "zoom out": "-", "flip": "v"},
    },
}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",  # the token is part of the address
    "X-Content-Type-Options": "nosniff",
}


def read_keys(path: Path | None) -> dict[str, dict[str, str]]:
    """Return KEYS with the changes of a YAML file, `group: {action: key}`.

    UserError for an unknown group or action, or two actions of one view on one key.
    """
    changes = {} if path is None else read_settings(path)
    keys = {group: dict(actions) for group, actions in KEYS.items()}
    for group, actions in changes.items():
        if group not in keys or not isinstance(actions, dict):
            raise UserError(f"{path}: {group!r} is no group of keys; write {', '.join(KEYS)}: {{action: key}}")
        unknown = [] if group == "subclasses" else [action for action in actions if action not in keys[group]]
        if unknown:
            raise UserError(f"{path}: there is no action {unknown[0]!r}; the {group} are {', '.join(keys[group])}")
        keys[group] |= {str(action): str(key) for action, key in actions.items()}
    for view in ("subclasses", "mosaic"):
        used: dict[str, str] = {}
        for action, key in (keys["grades"] | keys[view] | keys["both"]).items():
            if key in used:
                raise UserError(f"{path}: {action!r} and {used[key]!r} are both on the key {key!r}; change one")
            used[key] = action
    return keys


def create_app(session: Session, judgements: Judgements, grader: str, token: str, keys: Mapping[str, Any]) -> ASGIApp:
    """Return the ASGI application of one grader."""
    slots, bands = session.slots, session.cutouts.bands
    plain = slots.astype(object).where(slots.notna(), None)
    objects = {(row["id"], row["repeat"]): row for row in plain.to_dict("records")}
    rows = set(slots["row"])

    @lru_cache(maxsize=4096)
    def picture(row: int, stretch: str, low: float, high: float, band: int, colours: str) -> bytes:
        return render(session.image(row), bands, stretch, low, high, band, colours)

    def thumbnail(request: Request) -> Response:
        query, row = request.query_params, request.path_params["row"]
        try:
            low, high = float(query.get("low", 0.5)), float(query.get("high", 99.5))
            stretch, band = query.get("stretch", AUTO), int(query.get("band", -1))
            colours = query.get("colours", COLOURS[0])
        except ValueError:
            return PlainTextResponse("limits and band must be numbers", 400)
        exists = row in rows and stretch in (AUTO, *STRETCHES) and colours in COLOURS and band < len(bands)
        if not exists or not 0 <= low < high <= 100:
            return PlainTextResponse("no such picture", 404)
        content = picture(row, stretch, low, high, max(band, -1), colours)
        return Response(content, media_type="image/png", headers={"Cache-Control": "max-age=86400"})

    def state(request: Request) -> Response:
        columns = {name: plain[name].tolist() for name in ("id", "repeat", "row", "ra", "dec", "score")}
        facts = {"grader": grader, "keys": keys, "bands": bands, "stretches": [AUTO, *STRETCHES]}
        facts |= {"colours": COLOURS, "slots": columns}
        return JSONResponse(facts | _changes(judgements.latest(), 0))

    async def judge(request: Request) -> Response:
        try:
            body = json.loads(await request.body())
            sent = [_row(item, objects, grader) for item in body["judgements"]]
            since = int(body["since"])
        except (ValueError, TypeError, KeyError) as error:
            return PlainTextResponse(f"no list of judgements: {error!r}", 400)
        try:
            await run_in_threadpool(judgements.append, sent)
        except sqlite3.Error as error:
            return PlainTextResponse(str(error), 507)
        return JSONResponse(_changes(await run_in_threadpool(judgements.since, since), since))

    async def guard(request: Request, call_next: RequestResponseEndpoint) -> Response:
        if not _is_allowed(request, token):
            return PlainTextResponse("403: open the address that `zwicky grade` printed", 403)
        response = await call_next(request)
        response.headers.update(HEADERS | {"Cache-Control": response.headers.get("Cache-Control", "no-cache")})
        return response

    routes = [
        Route("/state", state),
        Route("/judgements", judge, methods=["POST"]),
        Route("/thumb/{row:int}.png", thumbnail),
        Mount("/", StaticFiles(directory=STATIC, html=True)),
    ]
    return Starlette(
        routes=[Mount(f"/{token}", routes=routes)], middleware=[Middleware(BaseHTTPMiddleware, dispatch=guard)]
    )


def _is_allowed(request: Request, token: str) -> bool:
    """Whether a request has the token, and comes from no page of another origin and through no other host name."""
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    prefix = f"/{token}/"
    return (
        urlsplit(f"//{host}").hostname in ("127.0.0.1", "localhost")
        and (origin is None or urlsplit(origin).netloc == host)
        and secrets.compare_digest(request.scope["path"][: len(prefix)].encode(), prefix.encode())
    )


def _changes(rows: list[dict[str, Any]], since: int) -> dict[str, Any]:
    """Return rows as the page takes them: nothing in them tells which images calibrate."""
    names = ("id", "repeat", "grade", "subclass", "comment", "time")
    return {
        "judgements": [{name: row[name] for name in names} for row in rows],
        "seq": max((row["seq"] for row in rows), default=since),
    }


def _row(item: Mapping[str, Any], objects: Mapping[tuple[Any, ...], Mapping[str, Any]], grader: str) -> dict[str, Any]:
    """Return the row of COLUMNS of a judgement that the page sent; KeyError or ValueError where it is none."""
    identity = str(item["id"]), int(item["repeat"])
    known = objects.get(identity, {})  # nothing for an object of another session, whose page is still open
    row = {name: known.get(name) for name in OBJECT_COLUMNS} | dict(zip(("id", "repeat"), identity, strict=True))
    row |= {"grader": grader}
    row |= {name: str(item[name]) for name in ("key", "grade", "subclass", "comment", "time", "view")}
    if row["grade"] not in ("", *GRADES):
        raise ValueError(f"no grade {row['grade']!r}")
    return row | {"seconds": float(item["seconds"])}


def serve(session: Session, path: Path, grader: str, keys: Mapping[str, Any], port: int, browser: bool) -> None:
    """Serve the page until Ctrl+C.

    The port and the token are kept beside the judgements, so that a page that outlived its server finds the next one
    and delivers what it kept.
    """
    judgements, memory = Judgements(path), path.with_name(f".{path.name}.session")
    last = read_json(memory) if memory.exists() else {}
    token, ports = last.get("token") or secrets.token_urlsafe(18), [port] if port else [last.get("port", 0), 0]
    listener = listen(ports)
    port = listener.getsockname()[1]
    with replacing(memory) as temporary:
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps({"port": port, "token": token}))
    address = f"http://127.0.0.1:{port}/{token}/"
    print(
        f"grading {len(session.slots)} images as {grader}; judgements in {path}\nopen {address}  (Ctrl+C ends)",
        flush=True,
    )
    if browser:
        webbrowser.open(address)
    app = create_app(session, judgements, grader, token, keys)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off")).run(sockets=[listener])
    judgements.close()


def listen(ports: Sequence[int]) -> socket.socket:
    """Return a socket on 127.0.0.1 at the first port that is free; 0 is any."""
    for port in ports:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen(128)  # the browser may come before the server
        except (OSError, OverflowError) as error:  # above 65535
            listener.close()
            reason = getattr(error, "strerror", error)
            continue
        return listener
    raise UserError(f"cannot listen on port {ports[0]}: {reason}; choose another --port, or leave it out")
