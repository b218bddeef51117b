"""The marks that proxies leave."""

from collections.abc import Mapping

import pytest

from sse_broadcast.doctor.proxy_marks import Proxy, in_order, mark_of_refusal, marks_of

HAPROXY_PAGE = "<html><body><h1>400 Bad request</h1>\nYour browser sent an invalid request.\n</body></html>\n"


@pytest.mark.parametrize(
    ("headers", "proxies"),
    [
        ({"Server": "nginx/1.22.1"}, {Proxy.NGINX}),
        ({"server": "openresty"}, {Proxy.NGINX}),
        ({"Server": "Caddy"}, {Proxy.CADDY}),
        ({"Via": "1.1 Caddy"}, {Proxy.CADDY}),
        ({"Server": "Apache/2.4.62 (Debian)"}, {Proxy.APACHE}),
        ({"Server": "awselb/2.0"}, {Proxy.ALB}),
        ({"Set-Cookie": "AWSALB=abc; Path=/"}, {Proxy.ALB}),
        ({"Server": "cloudflare", "CF-RAY": "8f-FRA"}, {Proxy.CLOUDFLARE}),
        ({"CF-Ray": "8f-FRA", "Server": "nginx"}, {Proxy.CLOUDFLARE, Proxy.NGINX}),
        ({"X-Varnish": "32770"}, {Proxy.VARNISH}),
        ({"Server": "sse-broadcast/0.1.0"}, set()),
        ({}, set()),
    ],
)
def test_headers_give_them_away(headers: Mapping[str, str], proxies: set[Proxy]) -> None:
    assert marks_of(headers) == proxies


@pytest.mark.parametrize(
    ("body", "proxies"),
    [
        ("<html>\r\n<center>nginx</center>\r\n</html>", {Proxy.NGINX}),
        (HAPROXY_PAGE, {Proxy.HAPROXY}),
        ('<!DOCTYPE HTML PUBLIC "-//IETF//DTD HTML 2.0//EN">\n<html>', {Proxy.APACHE}),
        ("400 Bad Request: invalid header name", {Proxy.CADDY, Proxy.TRAEFIK}),
        ("400 Bad Request", {Proxy.CADDY, Proxy.TRAEFIK}),
        ("<html><body>400 Bad Request</body></html>", set()),
    ],
)
def test_pages_of_errors_give_them_away(body: str, proxies: set[Proxy]) -> None:
    assert mark_of_refusal({}, body) == proxies


def test_a_name_beats_a_guess() -> None:
    assert mark_of_refusal({"Server": "Caddy"}, "400 Bad Request") == {Proxy.CADDY}


def test_each_is_named_once_and_in_one_order() -> None:
    found = [Proxy.CLOUDFLARE, Proxy.NGINX, Proxy.CLOUDFLARE]
    assert in_order(found) == (Proxy.NGINX, Proxy.CLOUDFLARE)
