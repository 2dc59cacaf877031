"""Passwords of stores: read from where only their owner reads, and shown nowhere."""

from __future__ import annotations

import json
import shutil
import string
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import mongo_server
import pytest
import yaml
from command_line import campaign
from hypothesis import given, settings
from hypothesis import strategies as st
from mistakes import written
from pymongo.errors import ConfigurationError

from campaign.config import load_config, parse_config, stored_config
from campaign.errors import CampaignError, SiteError
from campaign.launch import launch
from campaign.run_folder import RunFolder
from campaign.site import load_site
from campaign.storage.credentials import (
    check_source,
    database_in,
    holds_secret,
    redact,
    secret_variables,
    secrets_of,
    shown,
    take_from_environment,
    uri_of,
)
from campaign.storage.mongo_documents import check_uri, explain
from campaign.views.progress import Progress

passwords = st.text(
    string.ascii_letters + string.digits + "@:/?#[]%&=+$,;!*'() é", min_size=6, max_size=20
).map(lambda text: f"Zq7{text}")
"""Passwords as people choose them; the beginning makes sure that they are no part of an honest message."""
users = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
places = st.sampled_from(["h", "db.example.org:27017", "a:1,b:2,c:3", "[::1]:27017", "127.0.0.1"])
tails = st.sampled_from(["", "/", "/db", "/db?authSource=admin", "/?tls=true&tlsCAFile=/etc/ca.pem", "?w=1"])
schemes = st.sampled_from(["mongodb", "mongodb+srv"])


@st.composite
def uris(draw: st.DrawFn) -> tuple[str, str]:
    """A password, and a URI that holds it, escaped or as somebody who forgot to escape it wrote it."""
    password = draw(passwords)
    escape = draw(st.sampled_from([quote_plus, str]))
    place, tail = draw(places), draw(tails)
    kind = draw(st.sampled_from(["login", "login", "login", "option", "no host"]))
    scheme, user = draw(schemes), draw(users)
    if kind == "login":
        return password, f"{scheme}://{user}:{escape(password)}@{place}{tail}"
    if kind == "option":
        return password, f"{scheme}://{place}/db?tlsCertificateKeyFilePassword={quote_plus(password)}&w=1"
    return password, f"{scheme}://{user}:{escape(password)}"


def absent(password: str, text: str) -> bool:
    """Tell whether neither a password nor, for long ones, a piece of it occurs in a text."""
    pieces = [password, quote_plus(password), "Zq7"]
    return not any(piece in text for piece in pieces)


@settings(max_examples=400, deadline=None)
@given(uris())
def test_no_password_is_shown(made: tuple[str, str]):
    password, uri = made
    assert holds_secret(uri)
    assert absent(password, redact(uri)), redact(uri)
    document = {"store": {"uri": uri, "x": [uri]}, "password": password}
    assert absent(password, json.dumps(shown(document), ensure_ascii=False))
    with pytest.raises(ValueError, match="env:") as caught:
        check_source(uri)
    assert absent(password, str(caught.value))


@settings(max_examples=60, deadline=None)
@given(uris())
def test_no_password_is_in_an_error_of_the_configuration_or_the_store(made: tuple[str, str]):
    password, uri = made
    document = {"name": "x", "chemistry": {"elements": ["Ca", "Mg"]}}
    stores: list[Any] = [
        {"kind": "mongodb", "uri": uri}, {"kind": "mongodb", "ury": uri}, {"kind": "embedded", "uri": uri},
        uri, [uri], {"kind": uri}, {"kind": "mongodb", "uri": f"env:{uri}"}, {"password": password},
        {"kind": "mongodb", "uri": "mongodb://h", "database": {"password": password}},
        {"kind": "mongodb", "uri": uri.partition("://")[2]},
    ]  # fmt: skip
    for store in stores:
        with pytest.raises(CampaignError) as caught:
            parse_config({**document, "store": store}, "campaign.yaml")
        assert absent(password, str(caught.value)), store
    try:
        check_uri(uri.replace("mongodb+srv", "mongodb"))  # no test asks a name server
    except CampaignError as error:
        assert absent(password, str(error))
    told = explain(ConfigurationError(f"cannot use {password}"), redact(uri), secrets_of(uri))
    assert absent(password, str(told))


@pytest.mark.parametrize(
    ("uri", "seen", "database"),
    [
        ("mongodb://h:27017/db", "mongodb://h:27017/db", "db"),
        ("mongodb://me:p%40ss@h/db?authSource=admin", "mongodb://me:***@h/db", "db"),
        ("mongodb+srv://me:secret@cluster0.example.net/", "mongodb+srv://me:***@cluster0.example.net", ""),
        ("mongodb://me:se/cr@et@h:1,i:2/?replicaSet=r", "mongodb://me:***@h:1,i:2", ""),
        ("mongodb://h?tlsCertificateKeyFilePassword=secret", "mongodb://h", ""),
        ("mongodb://me:secret", "mongodb://***", ""),
        ("env:NAME", "env:NAME", ""),
        ("file:/home/me/uri", "file:/home/me/uri", ""),
        ("http://me:secret@h", "***", ""),
    ],
)
def test_what_is_shown_of_a_uri(uri: str, seen: str, database: str):
    assert redact(uri) == seen
    if uri.startswith("mongodb"):
        assert database_in(uri) == database
    assert "secret" not in " ".join([redact(uri)])


def test_honest_uris_hold_no_secret():
    for uri in (
        "mongodb://h:27017",
        "mongodb://me@h/x",
        "mongodb://a:1,b:2/?tls=true&authSource=x",
        "mongodb://h",
    ):
        assert secrets_of(uri) == frozenset()
        check_source(uri)


def test_a_file_holds_the_uri_if_it_is_its_owners_alone(tmp_path: Path):
    file = tmp_path / "uri"
    file.write_text("mongodb://me:secret@h/x\n")
    source = f"file:{file}"
    for mode in (0o644, 0o640, 0o604, 0o666):
        file.chmod(mode)
        with pytest.raises(CampaignError, match=rf"chmod 600 {file}") as caught:
            uri_of(source)
        assert "secret" not in str(caught.value)
    file.chmod(0o600)
    assert uri_of(source) == "mongodb://me:secret@h/x"
    file.write_text("")
    with pytest.raises(CampaignError, match="one line"):
        uri_of(source)
    file.unlink()
    with pytest.raises(CampaignError, match="No such file"):
        uri_of(source)
    for source in ("file:relative", "file:", "file://h/x", "env:", "env:mongodb://a:b@c", "redis://h"):
        with pytest.raises(ValueError, match=r"file:|env:|begin with"):
            check_source(source)


def test_a_variable_is_taken_from_what_is_started(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TAKEN_URI", "mongodb://me:secret@h")
    assert secret_variables("env:TAKEN_URI") == {"TAKEN_URI"}
    assert secret_variables("file:/x") == secret_variables(None) == frozenset()
    take_from_environment("env:TAKEN_URI")
    shell = [sys.executable, "-c", "import os; print('TAKEN_URI' in os.environ)"]
    assert subprocess.run(shell, capture_output=True, text=True, check=True).stdout.strip() == "False"
    assert uri_of("env:TAKEN_URI") == "mongodb://me:secret@h"


def test_a_site_file_is_no_place_for_a_launchpads_password(tmp_path: Path):
    def site(launchpad: object) -> str:
        (tmp_path / "site.yaml").write_text(
            yaml.safe_dump({"pools": {"dft": {"kind": "fireworks", "launchpad": launchpad}}})
        )
        return "site.yaml"

    for keys in (
        {"username": "me", "password": "secret"},
        {"host": "mongodb://me:secret@h/x", "uri_mode": True},
        {"host": "h", "mongoclient_kwargs": {"tlsCertificateKeyFilePassword": "secret"}},
    ):
        with pytest.raises(SiteError, match=r"my_launchpad\.yaml") as caught:
            load_site(site(keys), tmp_path)
        assert "secret" not in str(caught.value)
    (tmp_path / "my_launchpad.yaml").write_text("{host: h, username: me, password: secret}")
    (tmp_path / "my_launchpad.yaml").chmod(0o644)
    found: Any = load_site(site("my_launchpad.yaml"), tmp_path).pools.dft
    assert "chmod 600" in found.launchpad.note
    assert "secret" not in found.launchpad.note
    (tmp_path / "my_launchpad.yaml").chmod(0o600)
    found = load_site(site("my_launchpad.yaml"), tmp_path).pools.dft
    assert found.launchpad.note == ""
    with pytest.raises(SiteError) as caught:  # a mistake elsewhere in the pool
        document = {"pools": {"dft": {"kind": "firework", "launchpad": {"password": "secret"}}}}
        (tmp_path / "site.yaml").write_text(yaml.safe_dump(document))
        load_site("site.yaml", tmp_path)
    assert "secret" not in str(caught.value)


PASSWORD = "p@ss:w/rd %41é"


def certificates(folder: Path) -> tuple[Path, Path]:
    """Make an authority and a server's certificate for loopback; return the authority's file and the server's."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ("req", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    openssl(*new, "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=tests")
    openssl(*new[:4], "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost")
    openssl(
        *("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
        *("-days", "2", "-out", "server.crt", "-extfile", "names"),
    )
    both = folder / "server.pem"
    both.write_text((folder / "server.key").read_text() + (folder / "server.crt").read_text())
    return folder / "ca.pem", both


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI, without a login, of a server that wants TLS and a login; user `me`, known to `accounts`."""
    import pymongo

    binary = mongo_server.find_mongod()
    if binary is None:
        pytest.skip("no mongod")
    folder = tmp_path_factory.mktemp("guarded")
    authority, both = certificates(folder)
    port, data = mongo_server.free_port(), folder / "db"
    data.mkdir()
    server = mongo_server.start(binary, data, port)
    with pymongo.MongoClient(server.uri) as client:
        roles = [{"role": "readWriteAnyDatabase", "db": "admin"}]
        client.admin.command("createUser", "root", pwd="root", roles=["root"])
        client.accounts.command("createUser", "me", pwd=PASSWORD, roles=roles)
    server.process.terminate()  # in peace: a kill may lose a user that was just made
    server.process.wait()
    tls = ("--tlsMode", "requireTLS", "--tlsCertificateKeyFile", str(both), "--tlsCAFile", str(authority))
    options = (*tls, "--tlsAllowConnectionsWithoutCertificates", "--auth")
    server = mongo_server.start(binary, data, port, *options)
    yield f"127.0.0.1:{port}/?authSource=accounts&tls=true&tlsCAFile={authority}"
    mongo_server.kill(server)


def test_a_campaign_on_a_server_with_login_and_tls_shows_its_password_nowhere(
    guarded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    from rich.console import Console

    uri = f"mongodb://me:{quote_plus(PASSWORD)}@{guarded}"
    monkeypatch.setenv("GUARDED_URI", uri)
    inherited: list[str | None] = []

    class Looking(Progress):
        def begin(self, *arguments: Any) -> None:
            print_variable = [sys.executable, "-c", "import os; print(os.environ.get('GUARDED_URI'))"]
            inherited.append(
                subprocess.run(print_variable, capture_output=True, text=True, check=True).stdout.strip()
            )
            super().begin(*arguments)

    log = {"calculator_options": {"log": str(tmp_path / "executions.jsonl")}}
    options = {"calculator": "components:CountingLennardJones", **log}
    file = written(
        tmp_path,
        store={"kind": "mongodb", "uri": "env:GUARDED_URI", "database": "safe"},
        stop={"rounds": 1},
        labels={"flow": "static", "engine": "mlip", "engine_options": options, "hull": "reference"},
    )
    outcome = launch(file, run_dir=None, pools="threads", progress=Looking(Console()))
    assert outcome.status == "finished"
    assert inherited == ["None"], "what the driver starts does not inherit the variable"
    for argv in (["status", outcome.folder.path], ["query", outcome.folder.path, "campaigns", "--json"]):
        assert campaign(*argv).code == 0
    with outcome.folder.store() as store:
        every = [
            json.dumps(one) for name in ("campaigns", "events", "labels", "jobs") for one in store.query(name)
        ]
        lines = [store.location, *every, *capfd.readouterr()]
    lines += [path.read_text(errors="replace") for path in outcome.folder.path.rglob("*") if path.is_file()]
    lines.append(json.dumps(stored_config(load_config(outcome.folder.config_file))))
    for secret in (PASSWORD, quote_plus(PASSWORD)):
        assert not [line[:200] for line in lines if secret in line]


def test_a_wrong_password_is_told_in_one_line_without_it(
    guarded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = written(tmp_path, store={"kind": "mongodb", "uri": "env:GUARDED_URI", "database": "safe"})
    monkeypatch.setenv("GUARDED_URI", f"mongodb://me:wrongsecret@{guarded}")
    line = campaign("validate", file).error
    assert "refuses the login" in line
    assert "authSource" in line
    monkeypatch.setenv("GUARDED_URI", f"mongodb://me:{PASSWORD}@{guarded}")
    line += campaign("validate", file).error
    assert "%40 for @" in line, "the password was not escaped"
    monkeypatch.setenv("GUARDED_URI", f"mongodb://me:wrongsecret@{guarded.partition('?')[0]}")
    line += campaign("validate", file).error  # no TLS
    assert "wrongsecret" not in line
    assert PASSWORD not in line
    assert "p@ss" not in line


def test_a_password_in_campaign_yaml_is_refused_with_the_cure(tmp_path: Path):
    file = written(tmp_path, store={"kind": "mongodb", "uri": "mongodb://me:secret@127.0.0.1/x"})
    for command in ("validate", "launch"):
        line = campaign(command, file).error
        assert "env:" in line
        assert "file:" in line
        assert "secret" not in line
    assert not RunFolder(tmp_path / "small").path.exists()
