"""Settings for people with browsers: sessions by cookie, the gateway's own pages, mail."""

from typing import Any, Literal

from gateway.settings import syntax, syntax_browsers
from gateway.settings.declare import section, setting
from gateway.settings.secret import Secret
from gateway.settings.types import Boolean, Duration, Enum, Integer, Text
from gateway.settings.types_compound import ListOf, Section
from gateway.settings.types_network import FilePath, FolderPath, SecretText, StoreAddress

DAY = 86_400.0

ORIGINS = ListOf(
    Text("an origin", check=syntax_browsers.listed_origin, words="origin"),
    "a list of origins",
    right="for example [https://admin.example.com]",
)
SIGN_IN = Text(
    "pages, refuse or a path",
    check=syntax_browsers.sign_in_place,
    words="`pages` | `refuse` | path",
)


@section
class EncryptionKeySettings:
    """One key that encrypts stored data."""

    id: str = setting(Text("a key id", check=syntax.key_id), "The id of the key, stored beside the encrypted data.")
    key: Secret = setting(
        SecretText("32 bytes in base64", 'for example "${file:/run/secrets/e1}"', syntax_browsers.encryption_key),
        "32 bytes in base64: `openssl rand -base64 32`.",
    )


@section
class SessionSettings:
    """Sessions of browsers, by one cookie that scripts cannot read and upstreams never see."""

    cookie: str = setting(
        Text("a cookie name", check=syntax_browsers.cookie_name, words="cookie name"),
        "The name of the cookie. Browsers receive it behind the prefix `__Host-Http-`; with `http` on this machine, "
        "without the prefix.",
        default="session",
    )
    same_site: Literal["lax", "strict"] = setting(
        Enum("lax", "strict"),
        "The `SameSite` attribute. With `strict`, links from mail and from other sites open signed out.",
        default="lax",
    )
    idle: float = setting(
        Duration(), "A session that is not used for this long ends; at most `lifetime`.", default=12 * 3600.0
    )
    lifetime: float = setting(Duration(), "A session ends this long after it began.", default=7 * DAY)
    remember: float | None = setting(
        Duration().or_null(),
        "The lifetime of sessions whose owners choose to stay signed in: without an idle limit, and with a cookie that "
        "survives a restart of the browser. At least `lifetime`; null: the choice does not exist.",
        default=None,
    )
    per_account: int = setting(
        Integer(1, 10_000), "The most sessions of one account. A further one ends the oldest.", default=50
    )
    origins: tuple[str, ...] = setting(
        ORIGINS,
        "Other origins of the same site whose pages can use sessions, for example `https://admin.example.com`. The "
        "origin of `server.public_url` always can.",
        default=(),
    )
    sign_in: str = setting(
        SIGN_IN,
        "The answer to a browser that navigates to a route where it must sign in: `pages` redirects to the gateway's "
        "sign-in page, a path such as `/login` redirects there, `refuse` answers 401. Without `accounts.pages`, "
        "`pages` acts like `refuse`.",
        default="pages",
    )


@section
class EmailSettings:
    """The verification of e-mail addresses."""

    verification: Literal["none", "optional", "required"] = setting(
        Enum("none", "optional", "required"),
        "`none`: addresses are not verified. `optional`: a new account works at once, and receives a link. "
        "`required`: the link comes first, and the account exists after its use.",
        default="none",
    )
    link_ttl: float = setting(Duration(most=7 * DAY), "Lifetime of a link that verifies an address.", default=DAY)
    forward: Literal["auto", "always", "verified"] = setting(
        Enum("auto", "always", "verified"),
        "The addresses that upstreams receive. `verified`: only verified ones. `auto`: all with `verification: none`, "
        "otherwise only verified ones.",
        default="auto",
    )


@section
class InvitationSettings:
    """Invitations by link."""

    ttl: float = setting(Duration(most=30 * DAY), "Lifetime of an invitation.", default=7 * DAY)


@section
class PageLinkSettings:
    """Links in the footer of pages and mails: an address, a path, or `mailto:`."""

    terms: str | None = setting(
        Text("a link", check=syntax_browsers.footer_link, words="link").or_null(), "The terms of use.", default=None
    )
    privacy: str | None = setting(
        Text("a link", check=syntax_browsers.footer_link, words="link").or_null(), "The privacy notice.", default=None
    )
    support: str | None = setting(
        Text("a link", check=syntax_browsers.footer_link, words="link").or_null(), "Help for users.", default=None
    )


_LINK_TEMPLATE: Any = Text(
    "an address that contains {token} once", check=syntax_browsers.link_template, words="address with `{token}`"
)


@section
class PageUrlSettings:
    """Pages of your own front end that links in mails open. The gateway's own pages stay for earlier links."""

    verify: str | None = setting(
        _LINK_TEMPLATE.or_null(),
        "For links that verify an address, for example `https://app.example.com/verify?token={token}`.",
        default=None,
    )
    reset: str | None = setting(_LINK_TEMPLATE.or_null(), "For links that reset a password.", default=None)
    invitation: str | None = setting(_LINK_TEMPLATE.or_null(), "For invitations.", default=None)


@section
class PageSettings:
    """The gateway's own pages for accounts. They need `sessions`."""

    path: str = setting(
        Text("a path", check=syntax.own_prefix, words="path"), "The path below which the pages are.", default="/account"
    )
    name: str | None = setting(
        Text("a name").or_null(),
        "The name of the product, in pages and mails; null: the host of `server.public_url`.",
        default=None,
    )
    logo: str | None = setting(
        FilePath(content=syntax_browsers.logo_file).or_null(),
        "A file `.svg`, `.png` or `.webp` of at most 256 KiB; null: none.",
        default=None,
    )
    # Black or white has a contrast of at least 4.58:1 on every colour, so each one can carry text.
    accent: str | None = setting(
        Text("a colour", check=syntax_browsers.colour, words="colour").or_null(),
        'The colour of buttons and links, in quotes: `"#0a5fd7"`; null: that of the shipped style.',
        default=None,
    )
    languages: tuple[str, ...] = setting(
        ListOf(
            Text("a language", check=syntax_browsers.language, words="language"),
            "a list of at least one language",
            least=1,
            right="for example [en, de]",
        ),
        "The languages. The first is the default.",
        default=("en",),
    )
    messages: str | None = setting(
        FolderPath().or_null(),
        "A folder of `LANGUAGE.yaml` files: texts that replace shipped ones, or a further language; null: none.",
        default=None,
    )
    templates: str | None = setting(
        FolderPath().or_null(), "A folder of templates that replace shipped ones, by name; null: none.", default=None
    )
    links: PageLinkSettings = setting(
        Section(PageLinkSettings), "Links in the footer of pages and mails.", default=PageLinkSettings()
    )
    after_sign_in: str = setting(
        Text("a path", check=syntax_browsers.local_path, words="path"),
        "The page after a sign-in that began without a destination.",
        default="/",
    )
    errors: bool = setting(
        Boolean(),
        "Refusals to a browser that navigates are pages, with the same status and code.",
        default=True,
    )
    urls: PageUrlSettings = setting(
        Section(PageUrlSettings), "Pages of your own front end that links in mails open.", default=PageUrlSettings()
    )


@section
class MailLimitSettings:
    """Limits on mails that anonymous requests cause. Beyond them the answer is the same, without a mail."""

    per_recipient: int = setting(Integer(1, 1_000_000), "Mails per recipient…", default=5)
    per_address: int = setting(Integer(1, 1_000_000), "…and per client address…", default=20)
    per: float = setting(Duration(), "…per this period.", default=3600.0)


@section
class MailSettings:
    """Mail for links and notices, over SMTP or into a folder. It needs `server.public_url`."""

    from_: str = setting(
        Text("an e-mail address", check=syntax_browsers.mailbox, words="e-mail address"),
        'The sender: `"Example <no-reply@example.com>"`.',
    )
    reply_to: str | None = setting(
        Text("an e-mail address", check=syntax_browsers.mailbox, words="e-mail address").or_null(),
        "The address for replies; null: the sender.",
        default=None,
    )
    smtp: Secret | None = setting(
        StoreAddress("the address of an SMTP server", syntax_browsers.smtp_address).or_null(),
        "The server: `smtp://USER:PASSWORD@HOST:587` with STARTTLS, `smtps://` with TLS from the start, or "
        "`smtp+plain://` without TLS, to this machine only.",
        default=None,
    )
    folder: str | None = setting(
        Text("the path of a folder", words="path").or_null(),
        "For development, instead of `smtp`: a folder that receives each mail as a file `.eml`.",
        default=None,
    )
    limits: MailLimitSettings = setting(
        Section(MailLimitSettings), "Limits on mails that anonymous requests cause.", default=MailLimitSettings()
    )
    notices: Literal["all", "changes"] = setting(
        Enum("all", "changes"),
        "`changes`: no mails about sign-ins from a new place. Mails about changes of an account are always sent.",
        default="all",
    )
