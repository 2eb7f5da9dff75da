"""The user that the gateway names in `X-User-Id`."""

from django.contrib.auth.middleware import RemoteUserMiddleware


class GatewayUserMiddleware(RemoteUserMiddleware):
    """Signs in the user of the request, and signs out a user that the gateway no longer names."""

    header = "HTTP_X_USER_ID"
