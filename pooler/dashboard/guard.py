"""What stands before the dashboard: which requests are answered, and what browsers may do with it.

- It is for this machine: served on a loopback address only, unless `dashboard.remote` says more.
- A page of somebody else's must not reach it: a request has to name us by an address, as localhost
  or as `dashboard.hosts` says (a name that was made to point here is none of these), and what
  changes something has to come from our own page (its origin, and a header that no form can send).
- Nothing that is shown can act: the page loads and runs what this server sends, and nothing else.
"""

import ipaddress
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from pooler.config.model import Dashboard

OUR_HEADER: Final = "X-Pooler"
"""Sent with what changes something: browsers send no such header for other sites without asking."""

HEADERS: Final = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Of every answer."""


def not_served(settings: Dashboard, host: str) -> str:
    """Say why there is no dashboard for who asked at our address `host`; "": there is one."""
    if not settings.enabled:
        return "The dashboard is off: dashboard.enabled is false."
    if not settings.remote and not _is_loopback(host):
        return (
            "The dashboard is for this machine only: metrics.listen is not a loopback address. "
            "Set dashboard.remote: true to serve it to others, behind a proxy that speaks TLS."
        )
    return ""


def wrong_host(settings: Dashboard, header: str) -> str:
    """Say what is wrong with a Host header; "": nothing."""
    name = _hostname(header)
    if name is not None and (_is_address(name) or name == "localhost" or name in settings.hosts):
        return ""
    return "Unknown host name: add it to dashboard.hosts, or use the address."


def wrong_origin(headers: Mapping[str, str]) -> str:
    """Say why a request that changes something is not our page's; "": it may be."""
    if OUR_HEADER not in headers:
        return f"The header {OUR_HEADER} is missing."
    if headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        return "The request comes from another site."
    origin = headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc.lower() != headers.get("Host", "").lower():
        return "The request comes from another origin."
    return ""


def _hostname(header: str) -> str | None:
    """Return the name or address in a Host header, None where there is none."""
    try:
        name = urlsplit(f"//{header}").hostname
    except ValueError:
        return None
    return name.rstrip(".") if name else None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    ip = ipaddress.ip_address(host.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_loopback
