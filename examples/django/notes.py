"""A list of notes per user."""

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import path

notes: dict[str, list[str]] = {}


@login_required
def show(request: HttpRequest) -> HttpResponse:
    own = notes.setdefault(request.user.get_username(), [])
    if request.method == "POST":
        own.append(request.POST["text"])
        return HttpResponseRedirect("/notes")
    return render(request, "notes.html", {"email": request.headers.get("X-User-Email"), "notes": own})


urlpatterns = [path("notes", show)]
