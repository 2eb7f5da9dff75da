"""PHP's built-in server, with the redirects and cookies of WordPress."""

import shutil
from collections.abc import Iterator

import pytest

from tests.frameworks.applications import HTTPS, SHOP, Site, application, site

pytestmark = pytest.mark.skipif(shutil.which("php") is None, reason="php is not installed")

APPLICATION = r"""<?php
// The address of the site comes from its database in WordPress. `/own` and its kind use the address of the server.
if (str_contains($_SERVER['HTTP_X_FORWARDED_PROTO'] ?? '', 'https')) { $_SERVER['HTTPS'] = 'on'; }
$scheme = empty($_SERVER['HTTPS']) ? 'http' : 'https';
$site = "$scheme://" . $_SERVER['HTTP_HOST'];
$path = preg_replace('#^/base#', '', parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH));
$base = str_starts_with($_SERVER['REQUEST_URI'], '/base') ? '/base' : '';
if ($path === '/wp-admin') { header("Location: $site$base/wp-admin/", true, 301); exit; }
if ($path === '/wp-admin/' && empty($_COOKIE['wordpress_logged_in'])) {
    header("Location: $site$base/wp-login.php?redirect_to=" . urlencode("$site$base/wp-admin/"), true, 302); exit;
}
if ($path === '/wp-login.php') {
    setcookie('wordpress_sec', 'x', ['path' => "$base/wp-admin", 'httponly' => true]);
    setcookie('wordpress_logged_in', 'x', ['path' => "$base/", 'httponly' => true]);
    header("Location: $base/wp-admin/", true, 302); exit;
}
if ($path === '/moved') { header("Refresh: 0; url=$site$base/2026/11/hello-world/"); exit; }
echo $_SERVER['HTTP_HOST'];
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("php")
    command = ["php", "-S", "127.0.0.1:PORT", "index.php"]
    with application(folder, command, index_php=APPLICATION) as url, site(folder, url) as shop:
        yield shop


@pytest.mark.parametrize("prefix", ["", "/shop", "/mounted", "/own"])
def test_a_visitor_is_led_to_the_login_and_back(shop: Site, prefix: str) -> None:
    assert shop.location(f"{prefix}/wp-admin") == f"http://{SHOP}{prefix}/wp-admin/"
    assert shop.location(f"{prefix}/wp-admin/").startswith(f"http://{SHOP}{prefix}/wp-login.php?redirect_to=http%3A")
    login = shop.ask(f"{prefix}/wp-login.php", method="POST", body=b"")
    assert login.value("location") == f"{prefix}/wp-admin/".encode()
    paths = [value.partition(b"; path=")[2].partition(b";")[0].decode() for value in login.values("set-cookie")]
    assert paths == [f"{prefix}/wp-admin", prefix or "/"]
    assert shop.ask(f"{prefix}/wp-admin/", "Cookie: wordpress_logged_in=x").status == 200


@pytest.mark.parametrize("prefix", ["/shop", "/mounted", "/own"])
def test_https_is_kept_behind_a_proxy_that_terminates_tls(shop: Site, prefix: str) -> None:
    assert shop.location(f"{prefix}/wp-admin", *HTTPS) == f"https://{SHOP}{prefix}/wp-admin/"


@pytest.mark.parametrize("prefix", ["", "/shop", "/mounted", "/own"])
def test_a_refresh_leads_to_the_public_address(shop: Site, prefix: str) -> None:
    refresh = shop.ask(f"{prefix}/moved").value("refresh")
    assert refresh == f"0; url=http://{SHOP}{prefix}/2026/11/hello-world/".encode()


def test_the_application_receives_the_public_host(shop: Site) -> None:
    assert shop.ask("/shop/x").body == SHOP.encode()
