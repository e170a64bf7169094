"""Which devices `--allow` grants (M12)."""

from __future__ import annotations

import pytest

from assembler.errors import UsageError
from assembler.plan.entitlements import DeviceAllowance, device_allowance


@pytest.mark.parametrize(
    ("allow", "expected"),
    [
        ((), DeviceAllowance()),
        (("network.host", "security.insecure"), DeviceAllowance()),
        (("device",), DeviceAllowance(every=True)),
        (("device=",), DeviceAllowance(every=True)),
        (("device=v/c=d", "device=class"), DeviceAllowance(names=("v/c=d", "class"))),
        (("device=v/c=d,alias=gpu",), DeviceAllowance(aliases={"gpu": "v/c=d"})),
        (("device=v/c", "device"), DeviceAllowance(every=True, names=("v/c",))),
        (("devices=x",), DeviceAllowance()),
    ],
)
def test_M12_allowances(allow: tuple[str, ...], expected: DeviceAllowance) -> None:
    assert device_allowance(allow) == expected


@pytest.mark.parametrize("word", ["device=a,b", "device=a,name=b", "device=,alias=b", 'device="'])
def test_M12_allowances_that_are_none(word: str) -> None:
    with pytest.raises(UsageError) as caught:
        device_allowance((word,))
    assert caught.value.message.startswith(f"--allow {word}: ")
    assert caught.value.hint == "--allow device=VENDOR/CLASS=NAME[,alias=NAME]"
