"""The configuration file while a gateway serves: taken over whole, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from waypost.app.front import SettingUnusable, make_egress
from waypost.app.live_settings import EgressSettings, LiveSettings
from waypost.app.reload import Reloading
from waypost.app.settings import read_settings
from waypost.transport.tls import ServerTls

AUTHORITY = trustme.CA()


def write_certificate(directory: Path, name: str = "localhost") -> None:
    made = AUTHORITY.issue_cert(name)
    (directory / "cert.pem").write_bytes(b"".join(part.bytes() for part in made.cert_chain_pems))
    made.private_key_pem.write_to_path(directory / "key.pem")


class Served:
    """A file that is followed, and what is in force."""

    def __init__(self, directory: Path, text: str) -> None:
        self.path = directory / "waypost.toml"
        self.path.write_text(text)
        self.settings = read_settings(environment={}, data_dir=directory, config_path=self.path)
        self.adopted: list[LiveSettings] = []
        self.reloading = Reloading(self.settings, self.adopt, process="gateway-0", tells_why=True)

    def adopt(self, live: LiveSettings) -> None:
        make_egress(live.egress)
        if live.tls is not None:
            ServerTls().load(live.tls.certificate, live.tls.private_key)
        self.adopted.append(live)

    def write(self, text: str) -> None:
        self.path.write_text(text)
        self.reloading.look()


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("[server]\ndrain_s = 5", "drain_s", 5.0),
        ("[server]\npublic_url = 'https://b.example'", "public_url", "https://b.example"),
        ("[server]\ncors_origins = ['https://b.example']", "cors_origins", ("https://b.example",)),
        ("[server]\ntrusted_proxies = ['10.0.0.0/8', '::1']", "trusted_proxies", ("10.0.0.0/8", "::1/128")),
        ("[server]\ncontrol_socket = '/run/c.sock'", "control_socket", "/run/c.sock"),
        ("[server]\norganisation_in_flight = 7", "organisation_in_flight", 7),
        ("[server]\nkey_in_flight = 7", "key_in_flight", 7),
        ("[egress]\nallow = ['h:8443', '10.0.0.0/8']", "egress", EgressSettings(allow=("h:8443", "10.0.0.0/8"))),
        ("[egress]\nproxy_except = ['.example.org']", "egress", EgressSettings(proxy_except=(".example.org",))),
    ],
)
def test_each_of_these_is_taken_over(tmp_path: Path, text: str, name: str, value: object) -> None:
    served = Served(tmp_path, "[server]\ndrain_s = 1")

    served.write(text)

    assert getattr(served.reloading.live, name) == value
    assert served.adopted == [served.reloading.live]


def test_limits_are_taken_over(tmp_path: Path) -> None:
    served = Served(tmp_path, "")
    served.write("[server.limits]\nbody_bytes = 2048\nhead_s = 2.5")
    assert (served.reloading.live.limits.body_bytes, served.reloading.live.limits.head_s) == (2048, 2.5)


def test_the_same_content_is_nothing_new(tmp_path: Path) -> None:
    served = Served(tmp_path, "[server]\ndrain_s = 1")
    served.write("[server]\ndrain_s = 1")
    assert served.adopted == []


@pytest.mark.parametrize(
    "bad",
    ["[server]\ndrain_s = 'x'", "[server", "[[providers]]\nid = 'a'", "[egress]\nca_bundle = 'none.pem'"],
)
def test_a_mistake_anywhere_leaves_everything_as_it_was(
    tmp_path: Path, bad: str, capsys: pytest.CaptureFixture[str]
) -> None:
    served = Served(tmp_path, "[server]\ndrain_s = 1\ncors_origins = []")

    served.write(f"[server]\ncors_origins = ['https://b.example']\n{bad.removeprefix('[server]')}")

    assert served.reloading.live == served.settings.live
    said = capsys.readouterr().err
    assert "SettingsRefused" in said
    assert "waypost: " in said
    served.write("[server]\ndrain_s = 2")
    assert served.reloading.live.drain_s == 2


def test_what_a_socket_was_opened_with_stays_and_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served = Served(tmp_path, "[server]\ntls = 'terminated'")

    served.write("[server]\ndrain_s = 2\nsecrets_dir = '/elsewhere'\n[files]\nttl_days = 7")

    assert served.reloading.live.is_tls_terminated
    assert served.reloading.live.drain_s == 2
    said = capsys.readouterr().err
    assert '"setting":"server.tls"' in said
    assert '"setting":"server.secrets_dir"' in said
    assert '"setting":"files"' in said


def test_a_certificate_is_taken_over_once_its_key_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_certificate(tmp_path)
    served = Served(tmp_path, "[server]\ntls = { cert = 'cert.pem', key = 'key.pem' }")
    old_key = (tmp_path / "key.pem").read_bytes()

    write_certificate(tmp_path)
    new_key = (tmp_path / "key.pem").read_bytes()
    (tmp_path / "key.pem").write_bytes(old_key)
    served.reloading.look()
    assert served.adopted == []
    assert "is not the key of the first certificate" in capsys.readouterr().err

    (tmp_path / "key.pem").write_bytes(new_key)
    served.reloading.look()
    assert len(served.adopted) == 1


def test_authorities_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not PEM")
    with pytest.raises(SettingUnusable, match=r"egress\.ca_bundle: .*ca\.pem cannot be read as PEM"):
        make_egress(EgressSettings(ca_bundle=str(tmp_path / "ca.pem")))
