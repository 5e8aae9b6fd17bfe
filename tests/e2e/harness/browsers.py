"""Chromium and Firefox without a window, each with a profile of its own that trusts the tests'
certificate authority. Neither downloads a driver: Chromium is driven through a pipe by the protocol
of its developer tools, Firefox by Marionette.

Nothing tells a browser to use HTTP/3. It has to find it by Alt-Svc.
"""

import collections
import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

from .gateway import Gateway
from .h3 import AUTHORITY

START_SECONDS = 60
CALL_SECONDS = 60


class Browser:
    """A browser with one page. `stop` ends it and all of its processes."""

    program: str

    def __init__(self, folder: pathlib.Path, gateway: Gateway):
        self.folder, self.gateway = folder, gateway
        self.base = f"https://{AUTHORITY}:{gateway.port}"
        self.log = folder / f"{self.program}.log"
        self.process: subprocess.Popen | None = None
        self._files = contextlib.ExitStack()
        folder.mkdir(parents=True)

    def start(self):
        raise NotImplementedError

    def open(self, path: str) -> str:
        """Loads a page, and returns the protocol that it came over."""
        self._navigate(self.base + path)
        return self.run("return performance.getEntriesByType('navigation')[0].nextHopProtocol")

    def run(self, script: str, *arguments):
        """Calls an asynchronous function of the page with this body, and returns its result."""
        raise NotImplementedError

    def stop(self):
        if self.process:
            # Nothing of its profile is needed any more.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
        self._files.close()

    def text(self) -> str:
        """Returns what it wrote to standard output and standard error."""
        return self.log.read_text(errors="replace")

    def _launch(self, command: list[str], **settings):
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        environment = {
            "PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8",
            "XDG_RUNTIME_DIR": str(home),
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
                start_new_session=True, **settings,
            )

    def _trust(self, database: pathlib.Path):
        """Adds the tests' authority to a certificate database."""
        database.mkdir(parents=True, exist_ok=True)
        certutil = ["certutil", "-d", f"sql:{database}"]
        subprocess.run([*certutil, "-N", "--empty-password"], check=True)
        authority = str(self.gateway.authority)
        add = ["-A", "-n", "ringway tests", "-t", "C,,", "-i", authority]
        subprocess.run([*certutil, *add], check=True)


class Chromium(Browser):
    """Chromium. Over QUIC it takes certificates of authorities that were added only from hosts that
    are named in `--origin-to-force-quic-on`. The port that is named there is not the gateway's, so
    nothing is forced."""

    program = "chromium"

    def start(self):
        self._trust(self.folder / "home/.pki/nssdb")
        to_browser, ours = os.pipe()
        theirs, from_browser = os.pipe()
        arguments = [
            "--headless", "--no-sandbox", "--remote-debugging-pipe", "--disable-gpu",
            "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--no-proxy-server",
            f"--user-data-dir={self.folder / 'profile'}",
            f"--host-resolver-rules=MAP {AUTHORITY} 127.0.0.1",
            f"--origin-to-force-quic-on={AUTHORITY}:1", "about:blank",
        ]
        # The browser reads commands from its descriptor 3, and writes to 4.
        command = ["bash", "-c", f'exec "$@" 3<&{to_browser} 4>&{from_browser}', "bash", "chromium"]
        self._launch(command + arguments, pass_fds=(to_browser, from_browser))
        os.close(to_browser)
        os.close(from_browser)
        self._commands = self._files.enter_context(os.fdopen(ours, "wb", 0))
        self._replies = self._files.enter_context(os.fdopen(theirs, "rb", 0))
        self._received, self._count, self._events = b"", 0, collections.deque()
        os.set_blocking(theirs, False)
        targets = self._call("Target.getTargets", seconds=START_SECONDS)["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        attach = {"targetId": page["targetId"], "flatten": True}
        self._session = self._call("Target.attachToTarget", **attach)["sessionId"]
        self._call("Page.enable", self._session)

    def run(self, script: str, *arguments):
        expression = f"(async (...arguments) => {{{script}}})(...{json.dumps(arguments)})"
        done = self._call(
            "Runtime.evaluate", self._session, expression=expression, awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def _navigate(self, url: str):
        self._events.clear()
        done = self._call("Page.navigate", self._session, url=url)
        assert "errorText" not in done, f"{url}: {done['errorText']}"
        end = time.monotonic() + CALL_SECONDS
        while "Page.loadEventFired" not in self._events:
            self._handle(self._read(end))

    def _call(self, method: str, session: str | None = None, seconds=CALL_SECONDS, **parameters):
        """Calls a method, and returns its result."""
        self._count += 1
        call = {"id": self._count, "method": method, "params": parameters}
        if session:
            call["sessionId"] = session
        self._commands.write(json.dumps(call).encode() + b"\0")
        end = time.monotonic() + seconds
        while (message := self._read(end)).get("id") != self._count:
            self._handle(message)
        assert "error" not in message, f"{method}: {message['error']}"
        return message["result"]

    def _handle(self, message: dict):
        if "method" in message:
            self._events.append(message["method"])

    def _read(self, end: float) -> dict:
        """Returns the next message."""
        while b"\0" not in self._received:
            piece = self._replies.read(1 << 20)
            if piece:
                self._received += piece
                continue
            assert self.process.poll() is None and piece is None, f"it ended:\n{self.text()}"
            assert time.monotonic() < end, f"it does not respond:\n{self.text()}"
            time.sleep(0.005)
        message, self._received = self._received.split(b"\0", 1)
        return json.loads(message)


class Firefox(Browser):
    """Firefox. QUIC takes certificates of authorities that were added, if a preference is set."""

    program = "firefox-esr"

    PREFERENCES = {
        "marionette.port": 0,
        "network.dns.localDomains": AUTHORITY,
        "network.http.http3.disable_when_third_party_roots_found": False,
        "network.manage-offline-status": False,
        # Nothing is asked of the world outside.
        "network.captive-portal-service.enabled": False,
        "network.connectivity-service.enabled": False,
        "network.trr.mode": 5,
        "network.proxy.type": 0,
        "app.update.disabledForTesting": True,
        "app.normandy.enabled": False,
        "browser.safebrowsing.downloads.remote.enabled": False,
        "services.settings.server": "data:,#remote-settings-dummy/v1",
        "datareporting.policy.dataSubmissionEnabled": False,
        "toolkit.telemetry.enabled": False,
        "browser.startup.homepage": "about:blank",
        "browser.shell.checkDefaultBrowser": False,
    }

    def start(self):
        profile = self.folder / "profile"
        self._trust(profile)
        lines = [f'user_pref("{name}", {json.dumps(value)});'
                 for name, value in self.PREFERENCES.items()]
        (profile / "user.js").write_text("\n".join(lines) + "\n")
        self._launch([self.program, "--headless", "--no-remote", "--marionette",
                      "--profile", str(profile), "about:blank"])
        self._count = 0
        port = self._port(profile / "MarionetteActivePort")
        connection = socket.create_connection(("127.0.0.1", port), CALL_SECONDS + 10)
        self._socket = self._files.enter_context(connection)
        self._reader = self._files.enter_context(connection.makefile("rb"))
        self._read()  # Its greeting.
        self._call("WebDriver:NewSession")
        self._call("WebDriver:SetTimeouts", script=CALL_SECONDS * 1000,
                   pageLoad=CALL_SECONDS * 1000)

    def run(self, script: str, *arguments):
        body = (
            "const done = arguments[arguments.length - 1];"
            f"(async (...arguments) => {{{script}}})(...[...arguments].slice(0, -1)).then("
            "value => done({value}), error => done({error: String(error)}));"
        )
        done = self._call("WebDriver:ExecuteAsyncScript", script=body, args=arguments,
                          newSandbox=True)["value"]
        assert "error" not in done, done["error"]
        return done.get("value")

    def _navigate(self, url: str):
        self._call("WebDriver:Navigate", url=url)

    def _port(self, file: pathlib.Path) -> int:
        """Waits for the file in which it names its port, and returns the port."""
        end = time.monotonic() + START_SECONDS
        while not (file.exists() and file.read_text()):
            assert self.process.poll() is None, f"it ended:\n{self.text()}"
            assert time.monotonic() < end, f"it does not start:\n{self.text()}"
            time.sleep(0.02)
        return int(file.read_text())

    def _call(self, command: str, **parameters):
        """Sends a command, and returns its result."""
        self._count += 1
        message = json.dumps([0, self._count, command, parameters]).encode()
        self._socket.sendall(b"%d:%s" % (len(message), message))
        kind, number, error, result = self._read()
        assert (kind, number) == (1, self._count), (kind, number)
        assert error is None, f"{command}: {error}"
        return result

    def _read(self):
        """Returns the next message: its length, a colon, and JSON."""
        length = b""
        while not length.endswith(b":"):
            byte = self._reader.read(1)
            assert byte, f"it ended:\n{self.text()}"
            length += byte
        return json.loads(self._reader.read(int(length[:-1])))


BROWSERS = {"chromium": Chromium, "firefox": Firefox}


def missing(kind: type[Browser]) -> str | None:
    """Returns the first program that is not installed."""
    programs = (kind.program, "certutil")
    return next((program for program in programs if shutil.which(program) is None), None)
