"""Which hosts a request may name, and how a list of them is written."""

from __future__ import annotations

import pytest

from searchdb.config import Settings
from searchdb.errors import ConfigError
from searchdb.trusted_hosts import TrustedHosts, hosts_of

LIST = "photos.example.org:8443, .example.net, bücher.example, 10.0.0.0/8, [2001:db8::1]:80, 192.0.2.1:80"


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST:5000", "localhost.", "127.0.0.1", "127.9.9.9:1", "[::1]:80", "[0:0::1]"),
        *("photos.example.org.:1", "example.net", "a.b.Example.net", "xn--bcher-kva.example"),
        *("10.1.2.3:8000", "[2001:db8::1]", "192.0.2.1"),
    ],
)
def test_loopback_and_what_is_listed_are_trusted(host: str) -> None:
    assert TrustedHosts.parse(LIST).trusts(host)


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "localhost.evil.example", "evil.localhost", "badexample.net", "org", "[2001:db8::2]"),
        *("192.0.2.2", "127.1", "2130706433", "0x7f.0.0.1", "[::ffff:127.0.0.1]", "[::1", "[::1%25lo]"),
        *("", ".", "localhost..", "localhost,evil.example", "localhost@evil.example", "localhost/", "local host"),
        *("localhost\n", "localhost:99999999", "evil.example#localhost", "x" * 300),
        *("xn--.example.net", "a..example.net", f"{'a' * 64}.example.net"),
    ],
)
def test_everything_else_is_not(host: str) -> None:
    assert not TrustedHosts.parse(LIST).trusts(host)


def test_a_star_trusts_every_host_that_is_well_formed() -> None:
    every = TrustedHosts.parse("*")
    assert every.trusts("evil.example:80")
    assert not every.trusts("evil example")


@pytest.mark.parametrize("entry", ["http://photos.example.org", "a b", "a/b", "..", "*.example.org", "a..b"])
def test_a_malformed_entry_is_an_error_that_names_the_setting(entry: str) -> None:
    with pytest.raises(ConfigError, match=r"SEARCHDB_TRUSTED_HOSTS: .* is not a host name"):
        Settings(trusted_hosts=f"photos.example.org,{entry}")


def test_what_a_server_listens_on_is_trusted() -> None:
    for bound in ("192.168.1.7", "fd00::7", "nas.local", "fe80::7%eth0"):
        assert TrustedHosts.parse(hosts_of(bound)).trusts(f"[{bound.partition('%')[0]}]" if ":" in bound else bound)
    # A container cannot know the addresses of its host; no address is a name that was rebound.
    for wildcard in ("0.0.0.0", "::", "[::]"):
        everywhere = TrustedHosts.parse(hosts_of(wildcard))
        assert everywhere.trusts("192.168.1.7:8000")
        assert everywhere.trusts("[fd00::7]")
        assert not everywhere.trusts("evil.example")
