"""A list of notes per user: Django with its users, behind the gateway. One file instead of a project."""

import os
import sys
from pathlib import Path

import django
from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.contrib.auth.middleware import RemoteUserMiddleware
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import path

HERE = Path(__file__).resolve().parent
notes: dict[str, list[str]] = {}


class GatewayUserMiddleware(RemoteUserMiddleware):
    """Signs in the user that the gateway names. Django creates its own record of a user at the first request."""

    header = "HTTP_X_USER_ID"


settings.configure(
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    SECRET_KEY=os.environ.get("DJANGO_SECRET_KEY", "only for this example"),
    ROOT_URLCONF=__name__,
    DATABASES={
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("DJANGO_DB", HERE / "django.db")}
    },
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        f"{__name__}.GatewayUserMiddleware",
    ],
    AUTHENTICATION_BACKENDS=["django.contrib.auth.backends.RemoteUserBackend"],
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "DIRS": [HERE / "templates"],
            "OPTIONS": {"context_processors": ["django.contrib.auth.context_processors.auth"]},
        }
    ],
    LOGIN_URL="/account/sign-in",
    # The origin that browsers see. Django compares it with the Origin field of forms.
    CSRF_TRUSTED_ORIGINS=[os.environ.get("PUBLIC_URL", "http://localhost:8000")],
    USE_X_FORWARDED_HOST=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()


@login_required
def show_notes(request: HttpRequest) -> HttpResponse:
    own = notes.setdefault(request.user.get_username(), [])
    if request.method == "POST":
        own.append(request.POST["text"])
        return HttpResponseRedirect("/notes")
    return render(request, "notes.html", {"email": request.headers.get("X-User-Email"), "notes": own})


urlpatterns = [path("notes", show_notes)]
application = get_wsgi_application()

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
