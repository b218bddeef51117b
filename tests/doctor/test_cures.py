"""Cures of faults."""

import pytest

from sse_broadcast.doctor.cures import CURES, cure_for
from sse_broadcast.doctor.findings import Fault
from sse_broadcast.doctor.proxy_marks import Proxy


@pytest.mark.parametrize("fault", Fault)
def test_every_fault_has_a_cure_without_a_proxy(fault: Fault) -> None:
    assert cure_for(fault, ()) == CURES[fault][None]


@pytest.mark.parametrize("fault", [Fault.BUFFERING, Fault.IDLE, Fault.AWAY])
@pytest.mark.parametrize("proxy", [each for each in Proxy if each is not Proxy.VARNISH])
def test_the_commonest_faults_have_one_for_each_proxy(fault: Fault, proxy: Proxy) -> None:
    assert cure_for(fault, (proxy,)).startswith(f"{proxy}: ")


def test_of_two_proxies_both_are_told() -> None:
    cure = cure_for(Fault.IDLE, (Proxy.NGINX, Proxy.ALB))
    assert cure == (
        "nginx: proxy_read_timeout 180s; in the location of /events; "
        "or ALB: idle_timeout.timeout_seconds = 180 of the load balancer"
    )


def test_a_proxy_without_a_cure_gets_the_general_one() -> None:
    assert cure_for(Fault.CLOCK, (Proxy.NGINX,)) == CURES[Fault.CLOCK][None]
