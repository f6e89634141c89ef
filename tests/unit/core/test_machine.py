"""What a machine is asked."""

from __future__ import annotations

import psutil

from biollm.core.machine import interface_towards


def test_a_name_that_means_loopback_here_gives_the_interface_that_leads_elsewhere() -> None:
    """None in a container without a network; never loopback, where no other machine could reach this one."""
    loopback = {name for name, found in psutil.net_if_addrs().items() if any(address.address == "127.0.0.1" for address in found)}
    assert interface_towards("localhost") in {None, *psutil.net_if_addrs()} - loopback
    assert interface_towards("no-such-host.invalid") == interface_towards("localhost")
