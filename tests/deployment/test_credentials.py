"""Certificates that OpenSSL accepts, keys that Flower reads, and files that only their owner can."""

import ssl
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from typer.testing import CliRunner

from flowerpress import ConfigError
from flowerpress.cli import app
from flowerpress.deployment.credentials import Credentials


def openssl(*arguments: str | Path) -> str:
    return subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False).stdout


def test_the_certificate_is_the_servers_and_the_authoritys(tmp_path: Path) -> None:
    made = Credentials.make(tmp_path / "secrets", ["superlink", "127.0.0.1", "::1"], 0, days=30)
    assert "OK" in openssl("verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", made.ca, made.certificate)
    certificate = x509.load_pem_x509_certificate(made.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["superlink"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=29) < left <= timedelta(days=30)
    ssl.create_default_context(cafile=made.ca)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(made.certificate, made.private_key)


def test_private_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    made = Credentials.make(tmp_path / "secrets", ["localhost"], 2)
    open_to_all = {made.ca, made.certificate, made.public_key(0), made.public_key(1)}
    for path in made.folder.iterdir():
        mode = stat.S_IMODE(path.stat().st_mode)
        assert (mode == 0o600) == (path not in open_to_all), path
    assert stat.S_IMODE(made.folder.stat().st_mode) == 0o700
    assert len({path.read_bytes() for path in made.folder.glob("*.secret")}) == 3  # one for each end


def test_keys_are_pairs_that_flower_reads(tmp_path: Path) -> None:
    made = Credentials.make(tmp_path, ["localhost"], 2)
    keys = [load_ssh_private_key(made.key(i).read_bytes(), None) for i in range(2)]
    for i, key in enumerate(keys):
        assert load_ssh_public_key(made.public_key(i).read_bytes()) == key.public_key()
    assert keys[0].public_key() != keys[1].public_key()


def test_what_is_there_is_kept_but_for_the_certificate(tmp_path: Path) -> None:
    made = Credentials.make(tmp_path, ["localhost"], 1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    Credentials.make(tmp_path, ["localhost", "example.org"], 2)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"server.crt", "server.key", "node-1", "node-1.pub", "node-1.secret"}
    assert "OK" in openssl("verify", "-CAfile", made.ca, made.certificate)


def test_a_certificate_that_has_expired_can_be_told(tmp_path: Path) -> None:
    made = Credentials.make(tmp_path, ["localhost"], 0)
    made.issue(["localhost"], datetime.now(UTC) - timedelta(hours=1))
    assert (
        "expired"
        in subprocess.run(
            ["openssl", "verify", "-CAfile", made.ca, made.certificate], capture_output=True, text=True, check=False
        ).stderr
    )


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected hosts"):
        Credentials.make(tmp_path, [], 1)
    with pytest.raises(ConfigError, match="a day or more"):
        Credentials.make(tmp_path, ["localhost"], 1, days=0)
    with pytest.raises(ConfigError, match="at most 3650 days"):
        Credentials.make(tmp_path, ["localhost"], 1, days=4_000_000)
    for host in ("ünï.example", ""):
        with pytest.raises(ConfigError, match=f"name in ASCII .*, found '{host}'"):
            Credentials.make(tmp_path / "new", ["localhost", host], 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["ca.key", "ca.crt"])
def test_an_authority_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    made = Credentials.make(tmp_path, ["localhost"], 0)
    certificate = made.certificate.read_bytes()
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ConfigError, match="restore both files, or remove them"):
        Credentials.make(tmp_path, ["localhost"], 0)
    assert made.certificate.read_bytes() == certificate


def test_the_command(tmp_path: Path) -> None:
    arguments = ["deploy", "keys", str(tmp_path / "s"), "--host", "superlink", "--host", "10.0.0.1", "--nodes", "3"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "s").glob("node-*.pub")} == {f"node-{i}.pub" for i in range(3)}
