"""Decides which host names a request may be addressed to, against DNS rebinding.

A page of another site can give its own name our address. The browser then counts our answers as that site's, and its
scripts read them. Such a request has the foreign name as its host, and is refused for it. Werkzeug's `TRUSTED_HOSTS`
is not used: it tells upper from lower case, knows no IPv6 addresses and no networks, and exempts no route.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from contextlib import suppress
from dataclasses import dataclass

ANY = "*"
"""Stands for every host: for a server whose proxy checks the names."""
LONGEST_HOST = 255
"""Characters of the longest name that DNS can hold, with the port."""

_LABELS = r"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*"
_HOST = re.compile(rf"(\[[0-9a-fA-F:.]+\]|{_LABELS}\.?)(?::[0-9]{{0,5}})?")
_NAME = re.compile(rf"\.?{_LABELS}")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_LOOPBACK_NAMES = frozenset({"localhost"})
_LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
_EVERY_ADDRESS = "0.0.0.0/0, ::/0"
_WILDCARDS = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - compared with, not listened on


@dataclass(frozen=True, kw_only=True)
class TrustedHosts:
    """Host names and networks that requests may be addressed to; those of the loopback interface always are.

    `suffixes` are domains with all their subdomains; `every` trusts any host.
    """

    names: frozenset[str] = _LOOPBACK_NAMES
    suffixes: tuple[str, ...] = ()
    networks: tuple[Network, ...] = _LOOPBACK
    every: bool = False

    @classmethod
    def parse(cls, text: str) -> TrustedHosts:
        """Return the hosts of a comma-separated list; ports in it are ignored.

        An entry is a name, `.example.org` for a domain with its subdomains, an address, a network such as
        `192.168.0.0/16`, or `*`.

        Raises:
            ValueError: an entry is none of these.
        """
        names, suffixes, networks = set(_LOOPBACK_NAMES), list[str](), list(_LOOPBACK)
        entries = [each.strip() for each in text.split(",") if each.strip()]
        for entry in entries:
            network = _network(entry)
            if network is not None:
                networks.append(network)
            elif entry != ANY:
                name = _ascii(re.sub(r":[0-9]+$", "", entry))
                if not _NAME.fullmatch(name):
                    raise ValueError(f"{entry[:100]!r} is not a host name, an address or a network")
                if name.startswith("."):
                    suffixes.append(name)
                    name = name[1:]
                names.add(name)
        return cls(names=frozenset(names), suffixes=tuple(suffixes), networks=tuple(networks), every=ANY in entries)

    def trusts(self, host: str) -> bool:
        """Return whether a `Host` header, a name or an address with or without a port, is well-formed and trusted."""
        name = host_name(host)
        if name is None:
            return False
        if self.every or name in self.names or name.endswith(self.suffixes):
            return True
        try:
            address = ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return any(address in network for network in self.networks)


def host_name(host: str) -> str | None:
    """Return the name or address in a `Host` header, in lower case, without port and final dot; None if malformed."""
    match = _HOST.fullmatch(host) if len(host) <= LONGEST_HOST else None
    if match is None:
        return None
    name = match[1].lower().removesuffix(".")
    if "xn--" in name:  # may be no international name, which routing cannot handle
        try:
            name.encode("ascii").decode("idna")
        except UnicodeError:
            return None
    return name


def hosts_of(bound: str) -> str:
    """Return the entries for a server that listens on an address or a name, as `TrustedHosts.parse` reads them.

    On a wildcard address those are the machine's names and every address. The machine's own addresses would be too few:
    a container is reached at those of its host. A request for an address cannot come from a rebound name.
    """
    if bound.strip("[]") not in _WILDCARDS:
        return bound.partition("%")[0]  # without the zone of a link-local address
    name = socket.gethostname().lower().removesuffix(".")
    named = [name, f"{name}.local"] if _NAME.fullmatch(name) else []  # the second is its name in multicast DNS
    return ", ".join([*named, _EVERY_ADDRESS])


def _network(entry: str) -> Network | None:
    """Return the network that an entry names, of one address where it is an address; None if it is a name."""
    match = re.fullmatch(r"\[([^\]]*)\](?::[0-9]+)?|([0-9.]+):[0-9]+", entry)
    try:
        return ipaddress.ip_network((match[1] or match[2]) if match else entry, strict=False)
    except ValueError:
        return None


def _ascii(name: str) -> str:
    with suppress(UnicodeError):  # the pattern refuses such a name
        name = name if name.isascii() else name.encode("idna").decode("ascii")
    return name.lower().removesuffix(".")
