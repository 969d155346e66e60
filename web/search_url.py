"""Limits the length of URLs, so that every page of a search has an address that servers and proxies read."""

from __future__ import annotations

from searchdb.errors import QueryError

LONGEST_URL = 8000
"""Characters of a path with its query: a little less than the 8,190 bytes of a request line that gunicorn reads, and
that proxies read by default."""
LONGEST_SEARCH = 7900
"""Characters of a search's URL; the rest is for the number of a later page or the id of an image."""


def checked_search_url(url: str) -> str:
    """Return the URL of a search.

    Raises:
        QueryError: it is too long.
    """
    if len(url) > LONGEST_SEARCH:
        raise QueryError(
            f"the search takes {len(url):,} characters in an address, of which there may be {LONGEST_SEARCH:,}: "
            "leave out some of its texts, filters or ids"
        )
    return url
