"""The files of a React page, and its JSON API, behind the gateway."""

from collections import defaultdict
from pathlib import Path
from typing import Annotated

from fastapi import Body, FastAPI, Header
from fastapi.staticfiles import StaticFiles

app = FastAPI()
notes: dict[str, list[str]] = defaultdict(list)
UserId = Annotated[str, Header(alias="X-User-Id")]


@app.get("/api/notes")
def show(user: UserId) -> list[str]:
    return notes[user]


@app.post("/api/notes", status_code=201)
def add(user: UserId, text: Annotated[str, Body(embed=True)]) -> list[str]:
    notes[user].append(text)
    return notes[user]


app.mount("/", StaticFiles(directory=Path(__file__).parent / "static", html=True))
