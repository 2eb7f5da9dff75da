"""A list of notes per user: Flask with server-rendered templates, behind the gateway."""

from collections import defaultdict

from flask import Flask, redirect, render_template, request
from werkzeug import Response

app = Flask(__name__)
notes: dict[str, list[str]] = defaultdict(list)


@app.get("/")
def home() -> str:
    return render_template("home.html", email=request.headers.get("X-User-Email"))


@app.get("/notes")
def show() -> str:
    """The gateway sets these headers, and drops them from requests of clients."""
    own = notes[request.headers["X-User-Id"]]
    return render_template("notes.html", email=request.headers["X-User-Email"], notes=own)


@app.post("/notes")
def add() -> Response:
    """The gateway has checked that the form comes from an own page, so the form needs no CSRF token."""
    notes[request.headers["X-User-Id"]].append(request.form["text"])
    return redirect("/notes", 303)
