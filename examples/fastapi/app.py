"""A list of notes per user: FastAPI with server-rendered templates, behind the gateway."""

from collections import defaultdict
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Form, Header, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.templating import Jinja2Templates

app = FastAPI()
templates = Jinja2Templates(Path(__file__).parent / "templates")
notes: dict[str, list[str]] = defaultdict(list)

# The gateway sets these headers, and drops them from requests of clients.
UserId = Annotated[str, Header(alias="X-User-Id")]
UserEmail = Annotated[str, Header(alias="X-User-Email")]


@app.get("/", response_class=HTMLResponse)
def home(request: Request) -> Response:
    return templates.TemplateResponse(request, "home.html", {"email": request.headers.get("X-User-Email")})


@app.get("/notes", response_class=HTMLResponse)
def show(request: Request, user: UserId, email: UserEmail) -> Response:
    return templates.TemplateResponse(request, "notes.html", {"email": email, "notes": notes[user]})


@app.post("/notes")
def add(user: UserId, text: Annotated[str, Form()]) -> Response:
    """The gateway has checked that the form comes from an own page, so the form needs no CSRF token."""
    notes[user].append(text)
    return RedirectResponse("/notes", 303)
