"""Origins, and which addresses are inside."""

from __future__ import annotations

import pytest

from assembler.net.origin import Origin, Zone, is_loopback, zone_of, zone_of_host


def test_origins_differ_by_scheme_host_and_port() -> None:
    assert Origin.of("https://A.example/x?y") == Origin.of("https://a.example:443/z")
    assert Origin.of("http://a.example") != Origin.of("https://a.example")
    assert Origin.of("http://127.0.0.1") != Origin.of("http://localhost")
    assert str(Origin.of("http://[::1]:5000/v2/")) == "http://[::1]:5000"
    with pytest.raises(ValueError, match="not an http URL"):
        Origin.of("file:///etc/passwd")


def test_R2_inside_addresses_are_known() -> None:
    assert zone_of_host("169.254.169.254") is Zone.LINK
    assert zone_of_host("10.0.0.1") is zone_of_host("localhost") is Zone.INSIDE
    assert zone_of_host("8.8.8.8") is zone_of_host("r.example") is Zone.PUBLIC
    assert is_loopback("127.9.9.9") and is_loopback("[::1]") and not is_loopback("example.com")


@pytest.mark.parametrize(
    "address",
    "127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1 ::1 ::"
    " fe80::1%eth0 fc00::1 ff02::1 ::ffff:127.0.0.1 ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe"
    " 2002:7f00:1::".split(),
)
def test_R2_no_way_of_writing_an_address_inside_is_public(address: str) -> None:
    assert zone_of(address) is not Zone.PUBLIC


@pytest.mark.parametrize(
    "address",
    "169.254.169.254 ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe 2002:a9fe:a9fe:: fe80::1%eth0"
    " fd00:ec2::254 100.100.100.200".split(),
)
def test_R2_metadata_services_are_further_inside_than_anything(address: str) -> None:
    assert zone_of(address) is Zone.LINK


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_R2_others_are_public(address: str) -> None:
    assert zone_of(address) is Zone.PUBLIC
