"""Limits of the HTTP server: how long clients may take, and how much they may hold."""

from __future__ import annotations

HEADERS_S = 10.0
"""Seconds from the first byte of a request, or from a new connection, to the end of its headers. Browsers send them at
once; 408 if some have arrived."""
BODY_GRACE_S = 20.0
"""Seconds that a body may take at any rate: connections start slowly and stall."""
BODY_BYTES_PER_S = 16 * 1024
"""Average rate that a body must reach after BODY_GRACE_S, else 408. A quarter of a slow mobile line: 64 MB may take 68
minutes, and a body without data ends after BODY_GRACE_S."""
RESPONSE_STALL_S = 60.0
"""Seconds without a byte read after which a connection is closed while a response is being sent."""
RESPONSE_GRACE_S = 60.0
"""Seconds for which a response may be read at any rate."""
RESPONSE_BYTES_PER_S = 4 * 1024
"""Average rate at which a response must be read after RESPONSE_GRACE_S. Readers hold a connection and no thread."""
LINGER_S = 5.0
"""Seconds for which the rest of a refused request is read and dropped. Closing at once would reset the connection, and
the client would never see the answer."""
STOP_LINGER_S = 2.0
"""Seconds that idle connections stay open when the server stops: clients may be sending their next request."""
CHECK_INTERVAL_S = 1.0
"""Seconds between checks of the deadlines."""

MAX_HEADER_BYTES = 32 * 1024
"""Bytes of a request line and its headers together, else 431."""
MAX_CONTROL_BYTES = 8 * 1024
"""Bytes of a chunk's size line, and of the trailers of a chunked body, else 400: both are kept in memory."""
CHUNK_OVERHEAD = 2
"""Times its content that a chunked body may take, beside MAX_CONTROL_BYTES, else 400: each chunk costs time, and bodies
in chunks of one byte take six times their content."""
BODY_OVERHEAD_BYTES = 4 * 1024 * 1024
"""Bytes that a body may have beside the largest image. The application's own limits are below this and have better
messages, so a longer body is dropped and the application asked to refuse its length."""
BODY_IN_MEMORY_BYTES = 64 * 1024
"""Bytes of a body that are kept in memory; a larger one goes to a temporary file."""
BODIES_BYTES = 256 * 1024 * 1024
"""Bytes of all bodies in temporary files together, else 503: four of the largest. Reading forms takes as much again."""
SEND_BUFFER_BYTES = 256 * 1024
"""Size of a connection's send buffer in the kernel, which grows to megabytes by default: a slow reader shows progress
soon enough to be told from one that has stopped."""
PIPELINED = 16
"""Requests of one connection that may wait for the one before them, else 400: each takes memory. Browsers send one."""
RECEIVE_BYTES = 64 * 1024
"""Bytes that are read from one connection before others have their turn."""

QUEUE = 256
"""Complete requests that wait for a thread, else 503: at 5 ms each, about a second of work."""
QUEUE_WAIT_S = 10.0
"""Seconds that a complete request waits for a thread, then 503: few clients wait longer."""
RETRY_AFTER_S = 5
"""Seconds after which a refused client may try again."""

SECURITY_HEADERS = (
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("X-Content-Type-Options", "nosniff"),
)
"""Headers of answers that the application does not give: they are one line of text."""
