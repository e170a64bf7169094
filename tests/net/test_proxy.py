"""Which proxy leads where (rule R16)."""

from __future__ import annotations

import pytest

from assembler.errors import UsageError
from assembler.net.origin import Origin
from assembler.net.proxy import Proxies

VARIABLES = {"HTTPS_PROXY": "http://u:s%40cret@proxy.example:3128", "http_proxy": "plain.example"}


def chosen(url: str, **variables: str) -> str:
    return str(Proxies(VARIABLES | variables).choose(Origin.of(url)))


def test_R16_one_for_each_scheme() -> None:
    assert chosen("https://r.example/") == "http://proxy.example:3128"
    assert chosen("http://r.example/") == "http://plain.example:80"
    assert (
        chosen("http://r.example/", http_proxy="", all_proxy="http://[::2]:1") == "http://[::2]:1"
    )
    assert chosen("https://r.example/", HTTPS_PROXY="", ALL_PROXY="") == "None"


def test_R16_this_machine_is_reached_directly() -> None:
    for host in ("localhost", "127.0.0.1:5000", "[::1]:5000", "x.localhost"):
        assert chosen(f"http://{host}/") == "None"


@pytest.mark.parametrize(
    ("page", "quoted"),
    [
        (b'u:p&"/w', True),
        (b"Basic dTpwJiIvdw==", True),
        (b"is it p&amp;&quot;/w?", True),
        (b"?password=p%26%22%2Fw", True),
        (b'{"password": "p&\\"/w"}', True),
        (b"u may not", False),
        (b"", False),
    ],
)
def test_RG16_whether_a_page_has_the_credential(page: bytes, quoted: bool) -> None:
    proxies = Proxies({"HTTP_PROXY": "http://u:p%26%22%2Fw@proxy.example"})
    proxy = proxies.choose(Origin.of("http://r.example"))
    assert proxy is not None and proxy.is_quoted(page) is quoted
    bare = Proxies({"HTTP_PROXY": "proxy.example"}).choose(Origin.of("http://r.example"))
    assert bare is not None and not bare.is_quoted(page)


@pytest.mark.parametrize(
    ("listed", "direct"),
    [
        ("*", True),
        ("r.example", True),
        ("R.Example", True),
        ("example", True),
        (".example", True),
        ("*.example", True),
        (".r.example", False),
        ("ample", False),
        ("other.example, r.example", True),
        ("other.example r.example", True),
        ("r.example:443", True),
        ("r.example:5000", False),
        ("10.0.0.0/8", False),
        ("", False),
        (",, ", False),
    ],
)
def test_R16_no_proxy_for_a_name(listed: str, direct: bool) -> None:
    assert (chosen("https://r.example/", no_proxy=listed) == "None") is direct


@pytest.mark.parametrize(
    ("listed", "direct"),
    [
        ("10.0.0.0/8", True),
        ("10.1.2.3/8", True),
        ("10.1.2.3", True),
        ("10.1.2.3:5000", True),
        ("10.1.2.3:443", False),
        ("10.1.2.0/31", False),
        ("fd00::/8", False),
    ],
)
def test_R16_no_proxy_for_an_address(listed: str, direct: bool) -> None:
    assert (chosen("https://10.1.2.3:5000/", NO_PROXY=listed) == "None") is direct


def test_R16_no_proxy_for_an_ipv6_address() -> None:
    assert chosen("https://[fd00::1]/", NO_PROXY="fd00::/8") == "None"
    assert chosen("https://[fd00::1]:5000/", NO_PROXY="[fd00::1]:5000") == "None"


@pytest.mark.parametrize(
    "value", ["socks5://u:s3cret@h:1", "https://u:s3cret@h", "http://u:s3cret@h:no", "http://"]
)
def test_R16_what_is_no_proxy_is_refused_without_its_password(value: str) -> None:
    with pytest.raises(UsageError) as refused:
        chosen("https://r.example/", HTTPS_PROXY=value)
    assert "HTTPS_PROXY names" in refused.value.message
    assert "s3cret" not in f"{refused.value.message}{refused.value.hint}"


def test_no_secret_is_shown() -> None:
    proxies = Proxies(VARIABLES)
    shown = f"{proxies!r} {proxies.choose(Origin.of('https://r.example'))!r}"
    assert "cret" not in shown and "Basic" not in shown
