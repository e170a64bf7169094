"""What `--debug` tells of requests."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from assembler.errors import Unreachable
from assembler.net.client import HttpClient, Request
from assembler.net.retry import RetryPolicy
from assembler.net.trace import Exchanged, bare
from tests.net.servers import Server, answer


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://r.example:5000/v2/app/tags/list", "https://r.example:5000/v2/app/tags/list"),
        ("https://me:s3cret@r.example/v2/?token=s3cret#s3cret", "https://r.example/v2/"),
        ("http://s3cret@[::1]:5000/v2/?a=b?c", "http://[::1]:5000/v2/"),
        ("https://me:s3cret@r@x.example/v2/", "https://x.example/v2/"),
        ("http://[s3cret/", "something that is no URL"),
        ("http://r.example/a\x1bb\n", "http://r.example/a\\x1bb"),
    ],
)
def test_R1_a_url_is_told_without_what_may_be_secret(url: str, shown: str) -> None:
    assert bare(url) == shown


def test_a_line_says_how_it_ended_how_much_there_was_and_how_long_it_took() -> None:
    url = "https://r.example/v2/a?digest=x"
    assert str(Exchanged("PUT", url, 201, 70, 9, 0.0123)) == (
        "PUT https://r.example/v2/a: status 201, 70 bytes sent, 9 received, 12 ms"
    )
    assert str(Exchanged("GET", url, 0, 0, 0, 2.0, "nothing listens there")) == (
        "GET https://r.example/v2/a: nothing listens there, 0 received, 2000 ms"
    )


def test_every_request_is_told_also_of_a_redirect_and_of_what_is_tried_again(
    serve: Callable[..., Server], client: Callable[..., HttpClient], free_port: int
) -> None:
    told: list[Exchanged] = []
    there = serve(answer(body=b"x" * 50_000))
    server = serve(
        answer(307, b"", f"Location: {there.url('/there')}?secret=1"), answer(503), answer(201)
    )
    one = client(trace=told.append, policy=RetryPolicy(tries=2, first=0.001))
    with one.stream(Request("GET", server.url("/here"), "r", "a blob")) as stream:
        for _ in stream.pieces:
            pass
    one.request(Request("PUT", server.url("/put"), "r", "a manifest", body=b"12345"))
    with pytest.raises(Unreachable):
        one.request(Request("GET", f"http://127.0.0.1:{free_port}/gone", "r", "a blob"))
    lines = [re.sub(r"http://127\.0\.0\.1:\d+|, \d+ ms", "", str(one)) for one in told]
    assert [(one.status, one.sent) for one in told] == [
        (307, 0), (200, 0), (503, 5), (201, 5), (0, 0), (0, 0)
    ]  # fmt: skip
    assert 50_000 < told[1].received < 51_000
    assert lines[0].startswith("GET /here: status 307") and "secret" not in "".join(lines)
    assert lines[1].startswith("GET /there: status 200") and "nothing listens" in lines[4]
