"""Browsers as judges: they find HTTP/3 by Alt-Svc, use it for everything that a page does, and do
without it where it does not work.

Each test has a network namespace of its own. Nothing waits for a time: a page is loaded again until
it comes over the wanted protocol.
"""

import re
import time

import pytest

from harness import bodies, browsers, tcp
from harness.bodies import MIB
from harness.firewall import Firewall
from harness.gateway import REPOSITORY, Gateway
from harness.h3 import AUTHORITY
from harness.site import Site

SETTLE_SECONDS = 60

ENTRY = """
const entry = async url => {
    for (;;) {
        const found = performance.getEntriesByName(new URL(url, location.href).href, "resource");
        if (found.length) return found[found.length - 1];
        await new Promise(done => setTimeout(done, 5));
    }
};
"""
"""A function that waits for the record of a transfer, which comes soon after the transfer."""

FETCH = ENTRY + """
const [path] = arguments;
const text = await (await fetch(path)).text();
return [(await entry(path)).nextHopProtocol, text];
"""

# Both bodies are compared with what the test has computed: the download by the page, and the upload
# by the site.
EXCHANGE = ENTRY + """
const [down, up] = arguments;
const body = await (await fetch(down)).arrayBuffer();
const sum = new Uint8Array(await crypto.subtle.digest("SHA-256", body));
const report = await (await fetch(up, {method: "POST", body})).json();
return {
    length: body.byteLength,
    sha256: [...sum].map(byte => byte.toString(16).padStart(2, "0")).join(""),
    report,
    protocols: [(await entry(down)).nextHopProtocol, (await entry(up)).nextHopProtocol],
};
"""

# The site sends each event once this page has seen the one before it.
EVENTS = """
const [count] = arguments;
const source = new EventSource("/events/" + count), seen = [];
return await new Promise((done, fail) => {
    source.onmessage = async event => {
        seen.push(event.data);
        if (seen.length == count) source.close();
        await fetch("/seen/" + event.data);
        if (seen.length == count) done(seen);
    };
    source.onerror = () => fail(new Error("the stream broke after " + seen.length));
});
"""

IMAGES = ENTRY + """
const [count] = arguments;
const load = number => new Promise((done, fail) => {
    const image = new Image();
    image.onload = () => done(image.naturalWidth);
    image.onerror = () => fail(new Error("image " + number));
    image.src = "/image/" + number;
    document.body.append(image);
});
const numbers = [...Array(count).keys()].map(number => number + 1);
const widths = await Promise.all(numbers.map(load));
const entries = await Promise.all(numbers.map(number => entry("/image/" + number)));
return {widths, protocols: entries.map(entry => entry.nextHopProtocol)};
"""

MOVED = """
[[routes]]
match = { path_prefix = "/moved" }
upstream = "other"
"""

OTHER = """
[upstreams.other]
endpoints = [{{ address = "{address}" }}]
"""


@pytest.fixture
def site(network):
    site = Site("the first site")
    yield site
    site.stop()


@pytest.fixture
def gateway(site, start):
    return start(origin=site.address, listener=tcp.LISTENER)


@pytest.fixture(params=browsers.BROWSERS)
def kind(request):
    kind = browsers.BROWSERS[request.param]
    if missing := browsers.missing(kind):
        pytest.skip(f"{missing} is missing: `scripts/setup test` as root installs it")
    return kind


@pytest.fixture
def browser(kind, tmp_path, gateway):
    browser = kind(tmp_path / "browser", gateway)
    try:
        browser.start()
        yield browser
    finally:
        browser.stop()


class Readme(Gateway):
    """A gateway with the configuration of README.md. It serves another name, and its files and its
    upstream are those of the test."""

    def __init__(self, folder, certificate, site):
        super().__init__(folder, site.address, certificate)
        text = (REPOSITORY / "README.md").read_text()
        self.toml = re.search(r"shortest useful file.*?```toml\n(.*?)```", text, re.S).group(1)
        self.port, self.admin = 4433, 9901
        names = {"localhost": AUTHORITY, "edge.pem": certificate.cert, "edge.key": certificate.key,
                 "127.0.0.1:8080": site.address}
        for name, ours in names.items():
            assert self.toml.count(name) == 1, self.toml
            self.toml = self.toml.replace(name, str(ours))

    def configure(self):
        file = self.folder / "edge.toml"
        file.write_text(self.toml)
        return file


def open_until(browser, protocol: str):
    """Loads the page until it comes over this protocol."""
    end, seen = time.monotonic() + SETTLE_SECONDS, []
    while (last := browser.open("/")) != protocol:
        seen.append(last)
        assert time.monotonic() < end, f"not over {protocol}, but over {seen}"


def logged_protocols(gateway, prefix: str, count: int) -> set[str]:
    """Returns the protocols of the requests for these paths, of which there are so many."""
    def wrong(_):
        found = [line for line in gateway.access_lines(1) if line["path"].startswith(prefix)]
        return None if len(found) == count else f"{len(found)} requests for {prefix}"

    gateway.settle(wrong)
    lines = [line for line in gateway.access_lines(1) if line["path"].startswith(prefix)]
    assert {line["outcome"] for line in lines} == {"complete"}, lines
    return {line["protocol"] for line in lines}


def test_the_first_page_comes_over_http2_and_later_ones_over_http3(browser, gateway):
    assert browser.open("/") == "h2"
    open_until(browser, "h3")
    protocol, text = browser.run(FETCH, "/part")
    assert protocol == "h3" and "the first site" in text
    assert browser.open("/again") == "h3"
    assert logged_protocols(gateway, "/again", 1) == {"HTTP/3"}


def test_the_configuration_of_the_readme_serves_a_browser(kind, site, certificate, tmp_path):
    gateway, browser = Readme(tmp_path, certificate, site), None
    try:
        browser = kind(tmp_path / "browser", gateway.start())
        browser.start()
        assert browser.open("/") == "h2"
        open_until(browser, "h3")
    finally:
        if browser:
            browser.stop()
        gateway.stop()


def test_ten_mebibytes_go_down_and_up(browser):
    open_until(browser, "h3")
    length = 10 * MIB
    done = browser.run(EXCHANGE, f"/bytes/{length}", "/upload")
    whole = {"length": length, "sha256": bodies.digest(length)}
    assert done == {**whole, "report": whole, "protocols": ["h3", "h3"]}


def test_each_event_of_a_stream_arrives_on_its_own(browser, gateway):
    open_until(browser, "h3")
    assert browser.run(EVENTS, 20) == [str(number) for number in range(20)]
    assert logged_protocols(gateway, "/seen/", 20) == {"HTTP/3"}


def test_a_hundred_images_come_at_once(browser, gateway):
    open_until(browser, "h3")
    done = browser.run(IMAGES, 100)
    assert done["widths"] == list(range(1, 101))
    assert set(done["protocols"]) == {"h3"}
    assert logged_protocols(gateway, "/image/", 100) == {"HTTP/3"}


def test_a_reload_applies_to_the_next_request_of_an_open_connection(browser, gateway):
    other = Site("the other site")
    try:
        open_until(browser, "h3")
        accepted = gateway.metrics().sum("connections_accepted_total")
        protocol, text = browser.run(FETCH, "/moved/1")
        assert protocol == "h3" and "the first site" in text
        gateway.reconfigure(2, routes=MOVED, extra=OTHER.format(address=other.address))
        protocol, text = browser.run(FETCH, "/moved/2")
        assert protocol == "h3" and "the other site" in text
        assert gateway.metrics().sum("connections_accepted_total") == accepted
    finally:
        other.stop()


def test_where_udp_is_blocked_pages_come_over_http2(browser, gateway):
    firewall = Firewall(gateway.port, "drop", of_clients_only=True)
    for number in range(5):
        assert browser.open(f"/{number}") == "h2"
    end = time.monotonic() + SETTLE_SECONDS
    while firewall.count() == 0:
        assert browser.open("/more") == "h2"
        assert time.monotonic() < end, "the browser does not try HTTP/3"
    assert browser.open("/last") == "h2"
    assert browser.run(FETCH, "/part")[0] == "h2"


def test_pages_come_over_http2_when_a_reload_takes_http3_off(browser, gateway):
    open_until(browser, "h3")
    gateway.reconfigure(2, listener='protocols = ["h2", "http/1.1"]')
    open_until(browser, "h2")
    firewall = Firewall(gateway.port, "accept", of_clients_only=True)
    end, before = time.monotonic() + SETTLE_SECONDS, None
    while (now := firewall.count()) != before:
        assert time.monotonic() < end, f"the browser still tries HTTP/3: {before}, {now} datagrams"
        before = now
        for number in range(5):
            assert browser.open(f"/{number}") == "h2"
