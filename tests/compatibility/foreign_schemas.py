#!/usr/bin/env python3
"""Rotates a database that Keyturn has never seen: schemas, rows, first key and bundles all come from this script.

    foreign_schemas.py KEYTURN sqlite|postgres|mariadb|mariadb-copies [--directory DIR]

KEYTURN is the binary. Everything else is made here, from docs/by-hand.md, docs/database.md and docs/formats.md alone,
through another implementation of the cipher (the package `devolutions-crypto`): rows under a raw key of 16 bytes that
the farm then adopts, bundles, and an application that opens `encryption.config` itself. For `postgres` and `mariadb` a
temporary server of this machine's binaries is started; psql and pg_dump, or mariadb and mariadb-dump, must be on the PATH.

What is checked, on tables with odd names, keys, types, triggers, rules, policies and partitions:

- an undo from each of three phases leaves every value readable under the old key, and nothing else changed;
- a rotation leaves every value readable under the new key in its old version and form, and nothing else changed:
  no other column, row, trigger, definition, or attribute of the application's role;
- what must be refused in Preflight is refused, and a refusal changes nothing;
- the content digest of each table is the one that is computed here from the plaintexts.

Every check that fails is named on standard error. Exit code 0 when all held, 1 otherwise, 2 on wrong usage.
"""

import argparse
import base64
import contextlib
import dataclasses
import json
import os
import pathlib
import pwd
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
import urllib.parse
import uuid

import devolutions_crypto
from devolutions_crypto import CiphertextVersion

FARM = "foreign"
PASSWORD = b"a password that only this test knows"
# A command that says nothing for so long is a failure, not slowness.
COMMAND_DEADLINE_S = 120
STATE_DEADLINE_S = 90
# Differences beyond these are counted, but not named.
DIFFERENCES_NAMED_MAX = 10


class CheckFailed(Exception):
    """Something does not hold; the text says what."""


def end_process(process: subprocess.Popen, number: signal.Signals) -> None:
    """Tells it to end, and ends it when it does not."""
    process.send_signal(number)
    try:
        process.wait(STATE_DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# BLAKE3, which Python lacks: small and slow, for key ids and digests of short values.

BLAKE3_IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
BLAKE3_PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
BLAKE3_COLUMNS_AND_DIAGONALS = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)  # fmt: skip
CHUNK_START, CHUNK_END, PARENT, ROOT, KEYED_HASH, DERIVE_CONTEXT, DERIVE_MATERIAL = (1 << bit for bit in range(7))
MASK_32 = 0xFFFFFFFF


def blake3_compress(chaining, block: bytes, counter: int, flags: int) -> tuple[int, ...]:
    words = struct.unpack("<16I", block.ljust(64, b"\0"))
    state = [*chaining, *BLAKE3_IV[:4], counter & MASK_32, counter >> 32, len(block), flags]
    for _ in range(7):
        for index, (a, b, c, d) in enumerate(BLAKE3_COLUMNS_AND_DIAGONALS):
            for word, turn_d, turn_b in ((words[2 * index], 16, 12), (words[2 * index + 1], 8, 7)):
                state[a] = (state[a] + state[b] + word) & MASK_32
                mixed = state[d] ^ state[a]
                state[d] = (mixed >> turn_d | mixed << (32 - turn_d)) & MASK_32
                state[c] = (state[c] + state[d]) & MASK_32
                mixed = state[b] ^ state[c]
                state[b] = (mixed >> turn_b | mixed << (32 - turn_b)) & MASK_32
        words = [words[index] for index in BLAKE3_PERMUTATION]
    return tuple(state[index] ^ state[index + 8] for index in range(8))


def blake3_words(key, message: bytes, flags: int, first_chunk: int, root: int) -> tuple[int, ...]:
    if len(message) > 1024:
        left = 1024
        while left * 2 < len(message):
            left *= 2
        parts = (blake3_words(key, message[:left], flags, first_chunk, 0),
                 blake3_words(key, message[left:], flags, first_chunk + left // 1024, 0))  # fmt: skip
        block = struct.pack("<16I", *parts[0], *parts[1])
        return blake3_compress(key, block, 0, flags | PARENT | root)
    blocks = [message[start : start + 64] for start in range(0, len(message), 64)] or [b""]
    chaining = key
    for index, block in enumerate(blocks):
        first = CHUNK_START if index == 0 else 0
        last = CHUNK_END | root if index == len(blocks) - 1 else 0
        chaining = blake3_compress(chaining, block, first_chunk, flags | first | last)
    return chaining


def keyed(key: bytes, message: bytes) -> bytes:
    words = blake3_words(struct.unpack("<8I", key), message, KEYED_HASH, 0, ROOT)
    return struct.pack("<8I", *words)


def derive(context: str, material: bytes) -> bytes:
    """`derive` of docs/formats.md."""
    context_key = blake3_words(BLAKE3_IV, context.encode(), DERIVE_CONTEXT, 0, ROOT)
    return struct.pack("<8I", *blake3_words(context_key, material, DERIVE_MATERIAL, 0, ROOT))


def fields(*parts: bytes) -> bytes:
    """A transcript of docs/formats.md."""
    return b"".join(struct.pack("<Q", len(part)) + part for part in parts)


# Bundles and the key store.


def key_id(secret: bytes) -> str:
    return derive("keyturn key id v1", secret)[:16].hex()


def write_bundle(path: pathlib.Path, active: bytes, decrypt_only: tuple[bytes, ...] = ()) -> None:
    now = int(time.time() * 1000)
    keys = [
        {"id": key_id(secret), "state": state, "created_at_ms": now, "secret": base64.b64encode(secret).decode()}
        for state, secret in [("active", active), *(("decrypt-only", secret) for secret in decrypt_only)]
    ]
    # The order of the fields, the white space and the unknown field are ours: readers accept any JSON of this form.
    key_set = {"comment": "made elsewhere", "keys": keys, "created_at_ms": now, "farm": FARM}
    key_set |= {"version": 1, "format": "keyturn-bundle"}
    text = json.dumps(key_set, indent=1).encode()
    path.write_bytes(devolutions_crypto.derive_encrypt_with_password(text, PASSWORD))


def active_key(key_set: bytes) -> bytes:
    parsed = json.loads(key_set)
    if (parsed["format"], parsed["version"], parsed["farm"]) != ("keyturn-bundle", 1, FARM):
        raise CheckFailed(f"not a key set of this farm: {parsed['format']} {parsed['version']} {parsed['farm']}")
    [key] = [key for key in parsed["keys"] if key["state"] == "active"]
    secret = base64.b64decode(key["secret"], validate=True)
    if key["id"] != key_id(secret):
        raise CheckFailed(f"key id {key['id']} is not the secret's, {key_id(secret)}")
    return secret


def open_bundle(path: pathlib.Path) -> bytes:
    return active_key(devolutions_crypto.derive_decrypt_with_password(path.read_bytes(), PASSWORD))


def open_store(node: pathlib.Path) -> bytes:
    """The active key in a node's encryption.config, as an application reads it."""
    config = json.loads((node / "application/encryption.config").read_text())
    machine = pathlib.Path("/etc/machine-id").read_bytes().strip()
    wrapping = derive("keyturn hostkey v1", fields((node / "hostkey").read_bytes(), machine))
    aad = fields(b"keyturn-encryption-config v1", b"hostkey")
    ciphertext = base64.b64decode(config["ciphertext"], validate=True)
    return active_key(devolutions_crypto.decrypt_with_aad(ciphertext, wrapping, aad))


# The application: a word in a file for its state, and the key that it read when it was started.


def run_instance(verb: str, node: pathlib.Path) -> None:
    state, memory = node / "instance-state", node / "instance-key"
    if verb == "observe":
        print(state.read_text())
    elif verb == "canary":
        ciphertext = base64.b64decode(sys.stdin.buffer.read())
        sys.stdout.buffer.write(devolutions_crypto.decrypt(ciphertext, memory.read_bytes()))
    else:
        if verb == "start" and state.read_text() == "offline":
            memory.write_bytes(open_store(node))
            state.write_text("started")
        elif verb == "drain" and state.read_text() == "online":
            state.write_text("drained")
        elif verb == "admit":
            state.write_text("online")
        elif verb == "offline":
            memory.unlink(missing_ok=True)
            state.write_text("offline")


# Values in all the forms that an application may have written.


@dataclasses.dataclass(frozen=True)
class Column:
    name: str
    encoding: str = "raw"
    aad: bytes = b""


@dataclasses.dataclass
class Table:
    """A registered table: `values` holds the other columns of each row, ciphertexts are made for it."""

    name: str
    key: list[str]
    columns: list[Column]
    ddl: list[str]
    rows: list[dict]
    schema: str | None = None
    # Statements that are run behind the insertion of the rows: triggers and the like.
    afterwards: list[str] = dataclasses.field(default_factory=list)
    # Instead of the usual round of plaintexts.
    plaintexts: list[bytes] | None = None

    def label(self) -> str:
        """How plans and digests call it."""
        parts = [part for part in (self.schema, self.name) if part is not None]
        return ".".join(quoted(part) if "." in part or '"' in part else part for part in parts)

    def sql(self) -> str:
        return ".".join(quoted(part) for part in (self.schema, self.name) if part is not None)


PLAINTEXTS = [b"x", b"", b"correct horse", bytes(range(256)), "pässwörd \U0001f511".encode(), b"\0\0\0", b"y" * 1000]
BASE64_FORMS = ["padded", "unpadded", "url", "url-unpadded", "newline"]


def encode(raw: bytes, form: str) -> bytes:
    text = base64.urlsafe_b64encode(raw) if form.startswith("url") else base64.b64encode(raw)
    text = text.rstrip(b"=") if form.endswith("unpadded") else text
    return text + b"\r\n" if form == "newline" else text


def decode(stored: bytes) -> bytes:
    text = stored.rstrip(b"\r\n").rstrip(b"=")
    altchars = b"-_" if b"-" in text or b"_" in text else None
    return base64.b64decode(text + b"=" * (-len(text) % 4), altchars=altchars, validate=True)


def form_of(stored: bytes | str, column: Column) -> tuple:
    """What a rotation keeps of a value, whatever the ciphertext."""
    value = stored.encode() if isinstance(stored, str) else stored
    raw = decode(value) if column.encoding == "base64" else value
    form = [type(stored), len(value), raw[:8]]
    if column.encoding == "base64":
        form += [value.endswith(b"\r\n"), value.rstrip(b"\r\n").endswith(b"=")]
    return tuple(form)


def make_value(secret: bytes, column: Column, plaintext: bytes, number: int) -> bytes:
    version = CiphertextVersion.V1 if number % 3 == 1 else CiphertextVersion.V2
    if column.aad:
        raw = devolutions_crypto.encrypt_with_aad(plaintext, secret, column.aad, version)
    else:
        raw = devolutions_crypto.encrypt(plaintext, secret, version)
    return raw if column.encoding == "raw" else encode(raw, BASE64_FORMS[number % len(BASE64_FORMS)])


def open_value(secret: bytes, column: Column, stored: bytes | str) -> bytes:
    value = stored.encode() if isinstance(stored, str) else stored
    raw = decode(value) if column.encoding == "base64" else value
    return devolutions_crypto.decrypt_with_aad(raw, secret, column.aad)


def fill(table: Table, secret: bytes, as_text: set[str]) -> None:
    """Gives every row of a table its ciphertexts: NULL, empty, and every version and form of every plaintext."""
    number = 0
    for row in table.rows:
        for column in table.columns:
            if column.name in row:
                continue
            number += 1
            if table.plaintexts is not None:
                value = make_value(secret, column, table.plaintexts[number % len(table.plaintexts)], number)
            elif number % 11 == 3:
                value = None
            elif number % 11 == 7:
                value = b""
            else:
                value = make_value(secret, column, PLAINTEXTS[number % len(PLAINTEXTS)], number)
            row[column.name] = value.decode() if column.name in as_text and value is not None else value


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


# The databases. A snapshot is, by table, the rows by key with all their columns as Python values.

Snapshot = dict[str, dict[str, dict]]


class Sqlite:
    kind = "sqlite"
    role = ""
    # How tables are turned.
    strategy = "auto"

    def __init__(self, directory: pathlib.Path):
        self.path = directory / "a folder" / "väult.db"
        self.path.parent.mkdir()
        self.url = "sqlite://" + str(self.path).replace(" ", "%20").replace("ä", "%C3%A4")

    def connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None)
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    def create(self, tables: list[Table]) -> None:
        connection = self.connect()
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN")
        for table in tables:
            for statement in table.ddl:
                connection.execute(statement)
            for row in table.rows:
                names = ", ".join(map(quoted, row))
                marks = ", ".join("?" * len(row))
                connection.execute(f"INSERT INTO {table.sql()} ({names}) VALUES ({marks})", list(row.values()))
        connection.execute("COMMIT")
        for table in tables:
            for statement in table.afterwards:
                connection.execute(statement)
        connection.close()

    def execute(self, statement: str) -> None:
        connection = self.connect()
        connection.execute(statement)
        connection.close()

    def snapshot(self, tables: list[Table]) -> Snapshot:
        connection = self.connect()
        taken = {}
        for table in tables:
            cursor = connection.execute(f"SELECT * FROM {table.sql()}")
            names = [name for name, *_ in cursor.description]
            taken[table.label()] = {}
            for values in cursor:
                row = dict(zip(names, values, strict=True))
                taken[table.label()][self.key_text(row, table)] = row
        connection.close()
        return taken

    def key_text(self, row: dict, table: Table) -> str:
        """docs/database.md, keys in messages."""
        parts = []
        for name in table.key:
            value = row[name]
            if isinstance(value, int):
                parts.append(f"i:{value}")
            elif isinstance(value, bytes):
                parts.append(f"b:{value.hex()}")
            else:
                parts.append(f"t:{value}")
        return json.dumps(parts, ensure_ascii=False, separators=(",", ":"))

    def definition(self) -> str:
        connection = self.connect()
        listed = connection.execute(
            "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE tbl_name NOT LIKE 'keyturn%' ORDER BY 1, 2"
        ).fetchall()
        checks = [connection.execute("PRAGMA integrity_check").fetchall()]
        checks += [connection.execute("PRAGMA foreign_key_check").fetchall()]
        settings = [connection.execute(f"PRAGMA {name}").fetchone() for name in ("journal_mode", "user_version")]
        connection.close()
        return "\n".join(map(repr, [*listed, *checks, *settings]))

    def stop(self) -> None:
        pass


class Postgres:
    kind = "postgres"
    strategy = "auto"
    role = 'application_role = "Vault App"'
    agent = "keyturn_agent"
    settings = {
        "datestyle": "German", "timezone": "Asia/Kolkata", "bytea_output": "escape",
        "standard_conforming_strings": "off", "client_encoding": "LATIN1",
        "default_transaction_isolation": "serializable",
        "extra_float_digits": "-3", "row_security": "on", "xmloption": "document",
    }  # fmt: skip

    def __init__(self, directory: pathlib.Path):
        binaries = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
        found = shutil.which("initdb")
        self.binaries = binaries[-1] if binaries else pathlib.Path(found).resolve().parent
        # The path of a socket may be no longer than 107 bytes.
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="keyturn-pg-", dir="/tmp"))
        self.drop = []
        if os.getuid() == 0:
            shutil.chown(self.directory, "postgres")
            self.drop = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        initdb = [self.binaries / "initdb", "--pgdata=data", "--username=postgres", "--auth=trust", "--encoding=UTF8"]
        initdb += ["--locale=C.UTF-8", "--no-sync"]
        subprocess.run([*self.drop, *initdb], cwd=self.directory, check=True, stdout=subprocess.DEVNULL)
        command = [*self.drop, self.binaries / "postgres", "-D", "data", "-k", self.directory, "-h", ""]
        self.process = subprocess.Popen(
            command, cwd=self.directory, stdout=subprocess.DEVNULL, stderr=(directory / "postgres.log").open("wb")
        )
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        self.url = f"postgres://{self.agent}@{str(self.directory).replace('/', '%2F')}/vault"

    def wait_until_ready(self) -> None:
        end = time.monotonic() + STATE_DEADLINE_S
        while subprocess.run([self.binaries / "pg_isready", "-q", "-h", self.directory]).returncode != 0:
            if self.process.poll() is not None or time.monotonic() > end:
                raise CheckFailed("the database server does not start")
            time.sleep(0.1)

    def psql(self, script: str, database: str = "vault") -> str:
        command = ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", self.directory, "-U", "postgres"]
        # Over what the database itself sets.
        settings = "-c datestyle=ISO -c timezone=UTC -c bytea_output=hex -c standard_conforming_strings=on"
        settings += " -c client_encoding=UTF8 -c default_transaction_read_only=off"
        environment = {**os.environ, "PGOPTIONS": settings}
        done = subprocess.run([*command, database], input=script, capture_output=True, text=True, env=environment)
        if done.returncode != 0:
            raise CheckFailed(f"psql: {done.stderr[-2000:]}")
        return done.stdout

    execute = psql

    def create(self, tables: list[Table]) -> None:
        # The statements of docs/database.md, Grants.
        self.psql(
            """CREATE ROLE "Vault App" LOGIN CONNECTION LIMIT 17;
            CREATE ROLE keyturn_agent LOGIN CREATEROLE BYPASSRLS;
            GRANT pg_signal_backend, pg_read_all_stats TO keyturn_agent;
            GRANT SET ON PARAMETER session_replication_role TO keyturn_agent;
            CREATE DATABASE vault OWNER "Vault App";""",
            "postgres",
        )
        # What an administrator may have set for every session.
        for setting, value in self.settings.items():
            self.psql(f"ALTER DATABASE vault SET {setting} = {self.literal(value)}")
        self.psql("GRANT CONNECT ON DATABASE vault TO keyturn_agent; CREATE SCHEMA keyturn AUTHORIZATION keyturn_agent")
        for schema in sorted({table.schema for table in tables if table.schema}):
            self.psql(f'CREATE SCHEMA IF NOT EXISTS {quoted(schema)} AUTHORIZATION "Vault App"')
        script = ['GRANT ALL ON SCHEMA public TO "Vault App"; SET SESSION AUTHORIZATION "Vault App"']
        for table in tables:
            script += table.ddl
            for start in range(0, len(table.rows), 500):
                rows = table.rows[start : start + 500]
                names = ", ".join(map(quoted, rows[0]))
                values = ", ".join(f"({', '.join(map(self.literal, row.values()))})" for row in rows)
                script.append(f"INSERT INTO {table.sql()} ({names}) VALUES {values}")
        for table in tables:
            script += table.afterwards
            script += self.grants(table)
        self.psql("BEGIN;\n" + ";\n".join(script) + ";\nCOMMIT;")

    def grants(self, table: Table) -> list[str]:
        written = ", ".join(quoted(column.name) for column in table.columns)
        read = ", ".join([*map(quoted, table.key), written])
        return [
            f"GRANT USAGE ON SCHEMA {quoted(table.schema or 'public')} TO {self.agent}",
            f"GRANT SELECT ({read}), UPDATE ({written}) ON {table.sql()} TO {self.agent}",
        ]

    @staticmethod
    def literal(value) -> str:
        if value is None:
            return "NULL"
        if isinstance(value, bytes):
            return f"'\\x{value.hex()}'"
        return "'" + str(value).replace("'", "''") + "'"

    def snapshot(self, tables: list[Table]) -> Snapshot:
        taken = {}
        for table in tables:
            # Of the key, the text that PostgreSQL prints, whatever is in it, and its type.
            listed = ", ".join(
                f"encode(convert_to(k.{quoted(name)}::text, 'UTF8'), 'hex'), pg_typeof(k.{quoted(name)})::text"
                for name in table.key
            )
            script = f"SELECT json_build_array(json_build_array({listed}), row_to_json(k)) FROM {table.sql()} k"
            taken[table.label()] = {}
            # Not splitlines: a key may hold other line ends.
            for line in self.psql(script).rstrip("\n").split("\n"):
                if not line:
                    continue
                key, row = json.loads(line)
                for column in table.columns:
                    value = row[column.name]
                    if isinstance(value, str) and value.startswith("\\x"):
                        row[column.name] = bytes.fromhex(value[2:])
                taken[table.label()][self.key_text(key)] = row
        return taken

    @staticmethod
    def key_text(key: list[str]) -> str:
        parts = []
        # A domain is written like what it is over; there is only this one in our keys.
        key = ["bigint" if part == "ordinal" else part for part in key]
        for text, kind in zip(key[::2], key[1::2], strict=True):
            value = bytes.fromhex(text).decode()
            if kind in ("smallint", "integer", "bigint"):
                parts.append("i:" + value)
            elif kind in ("text", "character varying"):
                parts.append("t:" + value)
            elif kind == "bytea":
                parts.append("b:" + value[2:])
            else:
                parts.append("o:" + value)
        return json.dumps(parts, ensure_ascii=False, separators=(",", ":"))

    def definition(self) -> str:
        command = [self.binaries / "pg_dump", "-h", self.directory, "-U", "postgres"]
        command += ["--schema-only", "-E", "UTF8", "-N", "keyturn"]
        done = subprocess.run([*command, "vault"], capture_output=True, text=True, check=True)
        # Newer releases put a line with a random word around what they print.
        dump = [line for line in done.stdout.splitlines() if "restrict" not in line]
        roles = self.psql("SELECT rolname, rolcanlogin, rolconnlimit, rolcreaterole, rolsuper FROM pg_roles ORDER BY 1")
        return "\n".join(dump) + roles

    def stop(self) -> None:
        end_process(self.process, signal.SIGINT)
        shutil.rmtree(self.directory)


class Mariadb:
    kind = "mariadb"
    role = 'application_role = "Vault App"'
    agent = "keyturn_agent@'%'"
    user = "nobody"
    # Places, where the URL needs another spelling than SQL, and a grant another than either.
    name = "Vault_2 ü`%"
    # Which copies no table.
    strategy = "auto"
    # What an administrator may have set for every session, and for what is made without saying how.
    settings = (
        "sql-mode=ANSI_QUOTES,PIPES_AS_CONCAT,PAD_CHAR_TO_FULL_LENGTH,IGNORE_SPACE,NO_UNSIGNED_SUBTRACTION",
        "default-time-zone=+05:30", "character-set-server=latin1", "collation-server=latin1_german2_ci",
        "default-storage-engine=MyISAM", "transaction-isolation=SERIALIZABLE", "transaction-read-only=ON",
        "max-statement-time=2", "innodb-lock-wait-timeout=1", "lock-wait-timeout=1", "idle-transaction-timeout=1",
        "group-concat-max-len=4", "innodb-strict-mode=OFF", "div-precision-increment=0",
        "explicit-defaults-for-timestamp=OFF", "autocommit=OFF", "completion-type=CHAIN", "max-allowed-packet=64M",
        "server-id=7", "log-bin=log", "innodb-default-row-format=compact", "event-scheduler=OFF",
        "tmp-memory-table-size=0", "default-week-format=3", "alter-algorithm=COPY",
    )  # fmt: skip

    def __init__(self, directory: pathlib.Path):
        # The path of a socket may be no longer than 107 bytes.
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="keyturn-maria-", dir="/tmp"))
        drop = []
        if os.getuid() == 0:
            # The user that the package of a permanent server makes need not be there.
            with contextlib.suppress(KeyError):
                self.user = pwd.getpwnam("mysql").pw_name
            shutil.chown(self.directory, self.user)
            drop = ["setpriv", f"--reuid={self.user}", f"--regid={pwd.getpwnam(self.user).pw_gid}", "--clear-groups"]
        path = os.environ["PATH"] + ":/usr/sbin"
        self.socket = self.directory / "s"
        data = ["--no-defaults", f"--datadir={self.directory}/data"]
        install = [shutil.which("mariadb-install-db", path=path), *data, f"--tmpdir={self.directory}"]
        install += ["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"]
        subprocess.run([*drop, *install], check=True, stdout=subprocess.DEVNULL, cwd="/")
        command = [*drop, shutil.which("mariadbd", path=path), *data, f"--socket={self.socket}", "--skip-networking"]
        command += ["--skip-name-resolve", f"--tmpdir={self.directory}", "--innodb-flush-log-at-trx-commit=2"]
        command += [f"--{setting}" for setting in self.settings]
        self.process = subprocess.Popen(
            command, cwd="/", stdout=subprocess.DEVNULL, stderr=(directory / "mariadb.log").open("wb")
        )
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        name = urllib.parse.quote(self.name, safe="")
        self.url = f"mariadb://keyturn_agent@localhost/{name}?socket={self.socket}"

    def wait_until_ready(self) -> None:
        end = time.monotonic() + STATE_DEADLINE_S
        while True:
            with contextlib.suppress(CheckFailed):
                return self.sql(["SELECT 1"], "")
            if self.process.poll() is not None or time.monotonic() > end:
                raise CheckFailed("the database server does not start")
            time.sleep(0.1)

    def sql(self, statements: list[str], database: str | None = None) -> str:
        """As the administrator, whatever is set for everybody."""
        command = ["mariadb", "--no-defaults", f"--socket={self.socket}", "--user=root", "--batch", "--raw"]
        command += ["--skip-column-names", "--default-character-set=utf8mb4", "--max-allowed-packet=64M"]
        command += ["--delimiter=//", "--", self.name if database is None else database]
        ours = [
            "SET SESSION sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES,NO_AUTO_VALUE_ON_ZERO', time_zone = '+00:00'",
            "SET SESSION max_statement_time = 0, lock_wait_timeout = 30, autocommit = 1, completion_type = 0",
            "SET SESSION TRANSACTION READ WRITE",
        ]
        script = "".join(f"{statement}\n//\n" for statement in [*ours, *statements])
        done = subprocess.run(command, input=script, capture_output=True, text=True)
        if done.returncode != 0:
            raise CheckFailed(f"mariadb: {done.stderr[-2000:]}")
        return done.stdout

    def execute(self, statement: str) -> None:
        self.sql([statement])

    def create(self, tables: list[Table]) -> None:
        # The statements of docs/database.md, Grants in MariaDB. In the name for a whole database two letters are patterns.
        here, pattern = quoted(self.name), quoted(self.name.replace("_", "\\_").replace("%", "\\%"))
        ledger = ["keyturn_rotation", "keyturn_shard", "keyturn_shadow", "keyturn_note"]
        self.sql(
            [
                f"CREATE DATABASE {here} CHARACTER SET utf8mb4 COLLATE utf8mb4_turkish_ci",
                "CREATE USER 'Vault App'@'%' WITH MAX_USER_CONNECTIONS 17",
                # One that was locked before.
                "CREATE USER 'Vault App'@localhost ACCOUNT LOCK",
                f"GRANT ALL ON {pattern}.* TO 'Vault App'@'%'",
                f"CREATE USER {self.agent}",
                f"GRANT PROCESS, CONNECTION ADMIN, CREATE USER ON *.* TO {self.agent}",
                f"GRANT SELECT (Host, User, Priv) ON mysql.global_priv TO {self.agent}",
                *(f"GRANT SELECT, INSERT, UPDATE, DELETE, CREATE ON {here}.{one} TO {self.agent}" for one in ledger),
                f"GRANT SELECT ON {pattern}.* TO {self.agent}",
                # And for copies.
                f"GRANT SELECT, INSERT, CREATE, DROP, ALTER, LOCK TABLES, SHOW VIEW ON {pattern}.* TO {self.agent}",
            ],
            "",
        )
        script = ["SET SESSION foreign_key_checks = 0, default_storage_engine = InnoDB"]
        for table in tables:
            script += table.ddl
            for start in range(0, len(table.rows), 100 if table.plaintexts is None else 1):
                rows = table.rows[start : start + (100 if table.plaintexts is None else 1)]
                names = ", ".join(map(quoted, rows[0]))
                values = ", ".join(f"({', '.join(map(self.literal, row.values()))})" for row in rows)
                script.append(f"INSERT INTO {table.sql()} ({names}) VALUES {values}")
        for table in tables:
            script += table.afterwards
        self.sql(script)
        self.sql([grant for table in tables for grant in self.grants(table)])

    def grants(self, table: Table) -> list[str]:
        # Also columns that would change by themselves.
        found = self.sql([
            f"SELECT HEX(COLUMN_NAME) FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE() "
            f"AND TABLE_NAME = {self.literal(table.name)} AND EXTRA LIKE '%on update%'"
        ])  # fmt: skip
        kept = [bytes.fromhex(line).decode() for line in found.split()]
        written = ", ".join(map(quoted, [*(column.name for column in table.columns), *kept]))
        return [f"GRANT SELECT, TRIGGER, UPDATE ({written}) ON {quoted(self.name)}.{table.sql()} TO {self.agent}"]

    @staticmethod
    def literal(value) -> str:
        if value is None:
            return "NULL"
        if isinstance(value, bytes):
            return f"X'{value.hex()}'"
        return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"

    def snapshot(self, tables: list[Table]) -> Snapshot:
        return {table.label(): self.rows(table) for table in tables}

    def rows(self, table: Table) -> dict[str, dict]:
        listed = self.sql([
            f"SELECT HEX(COLUMN_NAME), DATA_TYPE, COLUMN_TYPE, COALESCE(CHARACTER_SET_NAME, '') "
            f"FROM information_schema.COLUMNS "
            f"WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = {self.literal(table.name)} ORDER BY ORDINAL_POSITION"
        ])  # fmt: skip
        # Each column as the digits of its bytes; hidden ones too, which `*` would leave out.
        columns, read = {}, []
        for line in listed.rstrip("\n").split("\n"):
            name, kind, full, character_set = line.split("\t")
            name = bytes.fromhex(name).decode()
            columns[name] = (kind, full, bool(character_set))
            sql = f"t.{quoted(name)}"
            if kind in ("enum", "set"):
                read.append(f"HEX(CONCAT({sql} + 0, ':', {sql}))")
            elif kind in ("float", "bit"):
                read.append(f"HEX(CAST({sql} + 0e0 AS CHAR))")
            elif kind == "point" or "blob" in kind or "binary" in kind:
                read.append(f"HEX({sql})")
            elif not character_set:
                read.append(f"HEX(CAST({sql} AS CHAR))")
            elif name in table.key:
                read.append(f"HEX(CONVERT({sql} USING utf8mb4))")
            else:
                read.append(f"HEX(CAST({sql} AS BINARY))")
        taken = {}
        for line in self.sql([f"SELECT {', '.join(read)} FROM {table.sql()} AS t"]).split("\n")[:-1]:
            cells = [None if cell == "NULL" else bytes.fromhex(cell) for cell in line.split("\t")]
            row = dict(zip(columns, cells, strict=True))
            key = self.key_text([(row[name], *columns[name][:2]) for name in table.key])
            for column in table.columns:
                if columns[column.name][2] and row[column.name] is not None:
                    row[column.name] = row[column.name].decode("ascii")
            taken[key] = row
        return taken

    @staticmethod
    def key_text(key: list[tuple[bytes, str, str]]) -> str:
        parts = []
        for value, kind, full in key:
            if kind in ("binary", "varbinary"):
                parts.append("b:" + value.hex())
            elif kind in ("char", "varchar"):
                parts.append("t:" + value.decode())
            elif kind.endswith("int") and full.replace(" zerofill", "") != f"{kind}(20) unsigned":
                parts.append(f"i:{int(value)}")
            else:
                parts.append("o:" + value.decode())
        return json.dumps(parts, ensure_ascii=False, separators=(",", ":"))

    def definition(self) -> str:
        """Everything that is defined; all data but the rows of registered tables; all accounts and their rights."""
        tables = self.sql(["SELECT HEX(TABLE_NAME) FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE()"])
        tables = [bytes.fromhex(line).decode() for line in tables.split()]
        ours = [f"--ignore-table={self.name}.{name}" for name in tables if name.startswith("keyturn_")]
        command = ["mariadb-dump", "--no-defaults", f"--socket={self.socket}", "--user=root", "--skip-dump-date"]
        command += ["--skip-comments", "--hex-blob", "--default-character-set=utf8mb4", *ours]
        parts = []
        for options in (["--no-data", "--routines", "--events"], ["--no-create-info", "--skip-triggers"]):
            left = [f"--ignore-table={self.name}.{name}" for name in self.registered] if "--no-data" not in options else []
            done = subprocess.run([*command, *options, *left, "--", self.name], capture_output=True)
            if done.returncode != 0:
                raise CheckFailed(f"mariadb-dump: {done.stderr[-2000:]}")
            parts.append(done.stdout.decode())
        parts.append(self.sql(["SELECT *, ROW_START, ROW_END FROM remembered FOR SYSTEM_TIME ALL ORDER BY 1, 2"]))
        parts.append(self.sql([f"CHECK TABLE {quoted(name)}" for name in tables if not name.startswith("keyturn_")]))
        users = self.sql(["SELECT CONCAT(QUOTE(User), '@', QUOTE(Host)) FROM mysql.user WHERE User <> 'root' ORDER BY 1"])
        parts.append(self.sql([f"SHOW {what} {user}" for user in users.split("\n")[:-1] for what in ("CREATE USER", "GRANTS FOR")]))
        parts.append(self.sql([
            "SELECT VARIABLE_NAME, GLOBAL_VALUE FROM information_schema.SYSTEM_VARIABLES "
            "WHERE VARIABLE_NAME NOT LIKE '%GTID%' ORDER BY 1"
        ]))  # fmt: skip
        return "\n".join(parts)

    @property
    def registered(self) -> list[str]:
        return [table.name for table in mariadb_tables()] + ["heavy"]

    def stop(self) -> None:
        end_process(self.process, signal.SIGTERM)
        shutil.rmtree(self.directory)


class MariadbCopies(Mariadb):
    """The same, where every table is copied that can be."""

    strategy = "shadow"


def compare(tables: list[Table], old: Snapshot, new: Snapshot, old_key: bytes, new_key: bytes) -> list[str]:
    """How two snapshots differ otherwise than by a rotation from one key to the other (or by its undo)."""
    differences = []
    for table in tables:
        before, after = old[table.label()], new[table.label()]
        if before.keys() != after.keys():
            differences.append(f"{table.label()}: other rows: {sorted(before.keys() ^ after.keys())[:3]}")
        columns = {column.name: column for column in table.columns}
        for key in before.keys() & after.keys():
            for name, value in before[key].items():
                where = f"{table.label()} {key} {name}"
                now = after[key][name]
                if name not in columns or not value:
                    if (type(value), value) != (type(now), now):
                        differences.append(f"{where}: was {value!r:.80} and is {now!r:.80}")
                    continue
                column = columns[name]
                if type(now) is not type(value) or form_of(now, column) != form_of(value, column):
                    differences.append(f"{where}: another form")
                    continue
                try:
                    same = open_value(new_key, column, now) == open_value(old_key, column, value)
                except devolutions_crypto.DevolutionsCryptoError as error:
                    differences.append(f"{where}: does not open: {error!r}")
                    continue
                if not same:
                    differences.append(f"{where}: another plaintext")
                if new_key != old_key and now == value:
                    differences.append(f"{where}: the same ciphertext")
    return differences


def content_digest(table: Table, taken: Snapshot, keys: tuple[bytes, bytes], rotation: str) -> str:
    """docs/formats.md, content digest; the snapshot is under the second key."""
    digest_key = derive("keyturn content digest v1", fields(*keys, uuid.UUID(rotation).bytes))
    total = 0
    for key, row in taken[table.label()].items():
        for column in table.columns:
            value = row[column.name]
            if value is None:
                tag, content = b"\0", b""
            elif not value:
                tag, content = b"\1", b""
            else:
                tag, content = b"\2", open_value(keys[1], column, value)
            message = fields(table.label().encode(), column.name.encode(), key.encode(), tag, content)
            total += int.from_bytes(keyed(digest_key, message)[:16], "little")
    return f"{total % (1 << 128):032x}"


# The farm.


def toml(value: str) -> str:
    # A JSON text is a TOML text, but for DEL, which occurs nowhere here.
    return json.dumps(value, ensure_ascii=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Farm:
    NODES = ("node-1", "node-2", "node-3")

    def __init__(self, keyturn: pathlib.Path, directory: pathlib.Path, database):
        self.keyturn, self.directory, self.database = keyturn, directory, database
        self.processes: list[subprocess.Popen] = []
        self.environment = {**os.environ, "NO_COLOR": "1", "XDG_CONFIG_HOME": f"{directory}/.config"}
        (directory / "password").write_bytes(PASSWORD + b"\n")

    def run(self, *arguments, codes: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess:
        """A command of keyturn, which must end with one of these exit codes."""
        command = [str(self.keyturn), *map(str, arguments)]
        done = subprocess.run(
            command, cwd=self.directory, env=self.environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=COMMAND_DEADLINE_S,
        )  # fmt: skip
        if done.returncode not in codes:
            raise CheckFailed(f"{' '.join(command[1:])}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def run_json(self, *arguments, codes: tuple[int, ...] = (0,)):
        """The same with -o json: standard output must be one JSON value and nothing else."""
        done = self.run(*arguments, "-o", "json", codes=codes)
        try:
            return json.loads(done.stdout)
        except json.JSONDecodeError as error:
            raise CheckFailed(f"{arguments}: no JSON on standard output: {done.stdout!r:.500}") from error

    def build(self, tables: list[Table], raw_key: bytes) -> None:
        self.run("pki", "init", "--farm", FARM, "--out", "pki")
        self.run("pki", "issue", "coordinator", "1", "--host", "127.0.0.1", "--dir", "pki")
        self.run("pki", "issue", "operator", "alice", "--dir", "pki")
        address = f"127.0.0.1:{free_port()}"

        def tls(certificate: str) -> str:
            path = self.directory / "pki"
            return (f"[tls]\nca = {toml(f'{path}/ca.pem')}\ncertificate = {toml(f'{path}/{certificate}.pem')}\n"
                    f"key = {toml(f'{path}/{certificate}.key')}\n")  # fmt: skip

        (self.directory / "coordinator.toml").write_text(
            f'id = 1\nfarm = "{FARM}"\nlisten = "{address}"\ndata_dir = "coordinator"\n{tls("coordinator-1")}'
            f'[[replica]]\nid = 1\naddress = "https://{address}"\n'
        )
        folder = self.directory / ".config/keyturn"
        folder.mkdir(parents=True)
        (folder / "operator.toml").write_text(f'coordinators = ["https://{address}"]\n{tls("operator-alice")}')
        self.write_targets(tables)
        (self.directory / "raw.key").write_bytes(raw_key)
        addresses = {}
        for node in self.NODES:
            self.run("pki", "issue", "agent", node, "--host", "127.0.0.1", "--dir", "pki")
            addresses[node] = f"127.0.0.1:{free_port()}"
            self.configure(node, addresses[node], tls(f"agent-{node}"))
            done = self.run("key", "import", "--config", f"{node}/agent.toml", "--raw-key-file", "raw.key")
            if len(raw_key) != 32 and "warning: " not in done.stderr:
                raise CheckFailed(f"a key of {len(raw_key)} bytes is adopted without a warning: {done.stderr!r}")
            run_instance("offline", self.directory / node)
            run_instance("start", self.directory / node)
            run_instance("admit", self.directory / node)
        self.start("coordinator", "--config", "coordinator.toml")
        for node in self.NODES:
            self.start("agent", "--config", f"{node}/agent.toml")
        for node in self.NODES:
            self.wait_for(lambda node=node: self.run("node", "enroll", node, "--address", f"https://{addresses[node]}",
                                                     codes=(0, 1, 5)).returncode == 0)  # fmt: skip

    def configure(self, node: str, address: str, tls: str) -> None:
        (self.directory / node / "application").mkdir(parents=True)
        lines = []
        for verb in ("drain", "offline", "start", "observe", "canary", "admit"):
            command = [sys.executable, str(pathlib.Path(__file__).resolve()), "instance", verb]
            command.append(str(self.directory / node))
            lines.append(f"{verb} = {{ command = {json.dumps(command)}, deadline_s = 20 }}")
        (self.directory / node / "agent.toml").write_text(
            f'node = "{node}"\nfarm = "{FARM}"\nlisten = "{address}"\nstate_dir = "state"\n{tls}'
            f'[store]\ndirectory = "application"\nhostkey = "hostkey"\n'
            f"[database]\nurl = {toml(self.database.url)}\n{self.database.role}\ntargets = \"../targets.toml\"\n"
            "[instance]\n" + "\n".join(lines) + "\n"
        )

    def write_targets(self, tables: list[Table]) -> None:
        lines = ["version = 1"]
        for table in tables:
            lines += ["[[table]]", f"name = {toml(table.name)}", f"key = [{', '.join(map(toml, table.key))}]"]
            lines += [f"schema = {toml(table.schema)}"] if table.schema else []
            for column in table.columns:
                lines += ["[[table.column]]", f"name = {toml(column.name)}", f'encoding = "{column.encoding}"']
                try:
                    aad = column.aad.decode()
                except UnicodeDecodeError:
                    aad = "hex:" + column.aad.hex()
                lines += [f"aad = {toml(aad)}"] if aad else []
        (self.directory / "targets.toml").write_text("\n".join(lines) + "\n")

    def start(self, *arguments) -> None:
        with (self.directory / f"{arguments[0]}-{len(self.processes)}.log").open("wb") as log:
            self.processes.append(
                subprocess.Popen([self.keyturn, *arguments], cwd=self.directory, env=self.environment, stderr=log)
            )

    @staticmethod
    def wait_for(condition) -> None:
        end = time.monotonic() + STATE_DEADLINE_S
        while not condition():
            if time.monotonic() > end:
                raise CheckFailed("waited in vain")
            time.sleep(0.2)

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            end_process(process, signal.SIGTERM)


# The schemas.


def sqlite_tables() -> list[Table]:
    return [
        Table(
            'Tab.le "quoted" [Ünï] \U0001f511', ["ID Col"],
            [Column('pass"word', "raw", b"\0\xff"), Column("select", "base64", "ä.b".encode())],
            ['''CREATE TABLE "Tab.le ""quoted"" [Ünï] \U0001f511" ("other one" REAL, "ID Col" INTEGER PRIMARY KEY,
                "pass""word" BLOB, "select" TEXT, updated_at TEXT DEFAULT 'never')'''],
            [{"ID Col": key, "other one": key / 3} for key in
             [-(2**63), -(2**63) + 1, -1, 0, 1, 2**31, 2**53 + 1, 2**63 - 2, 2**63 - 1, *range(100, 400)]],
        ),
        # A key of mixed types, which sort as numbers, text, blobs; columns whose declared types say nothing.
        Table(
            "mixed", ["b", "a"], [Column("c", "base64"), Column("d", "base64", b"mixed.d")],
            ["CREATE TABLE mixed (a, b, c BLOB, d INTEGER, rowid TEXT, _rowid_ TEXT, PRIMARY KEY (b, a))"],
            [{"a": a, "b": b, "rowid": "same"} for a in
             [-5, 0, 2**62, "", "a", "A", "ä", "\n\t\"'\\", "10", b"", b"a", b"\0\xff"]
             for b in [-(2**63), 7, "7", b"7", "\U0010ffff", "a\0b"]],
        ),  # fmt: skip
        Table(
            "no rowid", ["name", "number"], [Column("secret"), Column("note", "base64")],
            ["""CREATE TABLE "no rowid" (number INTEGER, name TEXT COLLATE NOCASE, secret BLOB, note TEXT,
                length INTEGER GENERATED ALWAYS AS (length(secret)) STORED,
                half INTEGER AS (length(note) / 2) VIRTUAL,
                PRIMARY KEY (name DESC, number)) WITHOUT ROWID""",
             'CREATE INDEX "an index" ON "no rowid" (length) WHERE secret IS NOT NULL'],
            [{"name": f"{'Nn'[n % 2]}ame {n // 3}", "number": n - 50} for n in range(300)],
        ),
        # Triggers that would change or forbid everything, in a table that others refer to, and one that refers.
        Table(
            "triggered", ["id"], [Column("secret"), Column("note", "base64")],
            ["CREATE TABLE audit (what TEXT)",
             """CREATE TABLE triggered (id TEXT PRIMARY KEY NOT NULL COLLATE RTRIM, secret BLOB CHECK (secret <> x'00'),
                note TEXT, updated_at INTEGER DEFAULT 0) STRICT"""],
            [{"id": f"row {n}"} for n in range(300)],
            afterwards=[
                'CREATE TRIGGER "a ""trigger""" AFTER UPDATE ON triggered BEGIN '
                "UPDATE triggered SET updated_at = updated_at + 1 WHERE id = new.id; "
                "INSERT INTO audit VALUES ('it''s; changed'); END",
                "CREATE TRIGGER forbids BEFORE UPDATE OF secret ON triggered WHEN old.secret IS NOT NULL "
                "BEGIN SELECT RAISE(ABORT, 'never'); END",
                "CREATE UNIQUE INDEX unlike ON triggered (secret) WHERE length(secret) > 0",
                "CREATE VIEW seen AS SELECT id, secret FROM triggered",
                "CREATE TRIGGER seen_insert INSTEAD OF UPDATE ON seen BEGIN SELECT RAISE(ABORT, 'no'); END",
                "CREATE TRIGGER refers AFTER INSERT ON child BEGIN UPDATE triggered SET note = NULL; END",
            ],
        ),
        Table(
            "child", ["id"], [Column("secret")],
            ["""CREATE TABLE child (id INTEGER PRIMARY KEY AUTOINCREMENT, parent TEXT NOT NULL
                REFERENCES triggered (id) ON UPDATE CASCADE ON DELETE CASCADE, secret)"""],
            [{"id": n + 1, "parent": f"row {n}"} for n in range(200)],
        ),
        Table("empty", ["id"], [Column("secret")], ["CREATE TABLE empty (id BLOB PRIMARY KEY NOT NULL, secret)"], []),
        Table("one", ["id"], [Column("secret")], ["CREATE TABLE one (id INTEGER PRIMARY KEY DESC, secret)"],
              [{"id": 5, "secret": None}]),
    ]  # fmt: skip


def postgres_tables() -> list[Table]:
    odd = 'Größe.& "Co"'
    moments = ["-infinity", "infinity", "0044-03-15 12:00:00+00 BC", "2024-02-29 12:00:00.000001+14"]
    moments.append("1970-01-01 00:00:00+00")
    tables = [
        Table(
            'Tab.le "quoted" Ünï \U0001f511', ["ID Col", "T x"],
            [Column('pass"word', "raw", b"\0\xff"), Column("select", "base64", "ä.b".encode())],
            ['''CREATE TABLE "Größe.& ""Co"""."Tab.le ""quoted"" Ünï \U0001f511" ("other one" float8, gone int,
                "T x" text COLLATE "und-x-icu", "pass""word" bytea, "ID Col" bigint, "select" varchar(4000),
                updated_at timestamptz DEFAULT now(), PRIMARY KEY ("ID Col", "T x"))''',
             'ALTER TABLE "Größe.& ""Co"""."Tab.le ""quoted"" Ünï \U0001f511" DROP COLUMN gone'],
            [{"other one": n / 3, "ID Col": key, "T x": text} for n, (key, text) in enumerate(
                (key, text) for key in [-(2**63), -(2**63) + 1, -1, 0, 2**53 + 1, 2**63 - 1]
                for text in ["", " ", "a", "A", "ä", "Z", "z", "'", '"', "\\", "\\x00", "\n", "\u2028", "{}", "NULL",
                             "\U0010ffff"])],
            schema=odd,
        ),
        # The same name once more in another schema.
        Table("T", ["id"], [Column("s")],
              [f"CREATE TABLE {quoted(odd)}.{quoted('T')} (id smallint PRIMARY KEY, s bytea)"],
              [{"id": n} for n in [-32768, -1, 0, 1, 32767]], schema=odd),
        Table("T", ["id"], [Column("s", "base64")], ['CREATE TABLE "T" (id integer PRIMARY KEY, s bytea)'],
              [{"id": n} for n in [-(2**31), *range(-100, 100), 2**31 - 1]]),
        Table(
            "every_type", ["u", "n", "b", "d", "t", "z", "v", "s", "i", "o"],
            [Column("secret"), Column("note", "base64")],
            ["CREATE DOMAIN ordinal AS bigint CHECK (VALUE <> 3)", "CREATE DOMAIN sealed AS bytea",
             """CREATE TABLE every_type (secret sealed, note text, u uuid, n numeric, b bytea, d date, t timestamp,
                z timestamptz, v varchar(40) COLLATE "C", s smallint, i integer, o ordinal,
                PRIMARY KEY (u, n, b, d, t, z, v, s, i, o)
                INCLUDE (note)) WITH (fillfactor = 30)"""],
            [{"u": str(uuid.UUID(int=(n * 2**101 + n) % 2**128)), "n": number, "b": bytes([n % 256, 0, 255])[: n % 4],
              "d": ["-infinity", "infinity", "0001-01-01 BC", "9999-12-31", "2024-02-29"][n % 5],
              "t": ["-infinity", "infinity", "0044-03-15 BC", "2024-02-29 23:59:59.999999", "1970-01-01"][n // 2 % 5],
              "z": moments[n // 3 % 5], "v": f"{n:x}ß", "s": n - 30, "i": -n, "o": 2**62 + n}
             for n, number in enumerate(["NaN", "Infinity", "-Infinity", "0", "-0.00", "1e-300", "1e300", "1.10"] * 8)],
        ),
        Table(
            "numbers", ["n"], [Column("s")], ["CREATE TABLE numbers (n numeric PRIMARY KEY, s bytea)"],
            [{"n": n} for n in ["NaN", "Infinity", "-Infinity", "0.000", "1e-1000", "-1e1000", "1.50", "-1.5", 2**64,
                                "123456789.987654321"]],
        ),
        Table(
            "moments", ["z"], [Column("s")], ["CREATE TABLE moments (z timestamptz PRIMARY KEY, s bytea)"],
            [{"z": z} for z in [*moments, *(f"2024-03-31 0{n % 10}:{n // 10:02}:00.{n}+02" for n in range(600))]],
        ),
        Table(
            "folded", ["name"], [Column("s", "base64")],
            ["CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
             "CREATE TABLE folded (name text COLLATE folded PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, s text)"],
            [{"name": f"{'Nn'[n % 2]}äme-{n}"} for n in range(1200)],
        ),
        Table(
            "parted", ["region", "id"], [Column("secret"), Column("note", "base64", b"parted.note")],
            ["""CREATE TABLE parted (id bigint GENERATED ALWAYS AS IDENTITY, region text COLLATE "und-x-icu",
                secret bytea, note text, updated_at int DEFAULT 0,
                PRIMARY KEY (region, id)) PARTITION BY LIST (region)""",
             "CREATE TABLE parted_north PARTITION OF parted FOR VALUES IN ('north', 'North') PARTITION BY HASH (id)",
             "CREATE TABLE parted_north_0 PARTITION OF parted_north FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
             # Its columns stand in another order.
             "CREATE TABLE parted_north_1 (note text, secret bytea, region text COLLATE \"und-x-icu\" NOT NULL, "
             "updated_at int DEFAULT 0, id bigint NOT NULL)",
             "ALTER TABLE parted_north ATTACH PARTITION parted_north_1 FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
             'CREATE TABLE "parted rest" PARTITION OF parted DEFAULT'],
            [{"region": ["north", "North", "süd", "", "West"][n % 5]} for n in range(800)],
            afterwards=[
                "CREATE FUNCTION bump() RETURNS trigger LANGUAGE plpgsql AS "
                "'BEGIN NEW.updated_at := NEW.updated_at + 1; RETURN NEW; END'",
                "CREATE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''never''; END'",
                "CREATE TRIGGER bump BEFORE UPDATE ON parted FOR EACH ROW EXECUTE FUNCTION bump()",
                "CREATE TRIGGER forbid BEFORE UPDATE ON parted FOR EACH STATEMENT EXECUTE FUNCTION forbid()",
            ],
        ),
        Table(
            "triggered", ["id"], [Column("secret"), Column("note", "base64")],
            ["CREATE TABLE audit (what text)",
             """CREATE TABLE triggered (id uuid PRIMARY KEY, secret bytea CHECK (octet_length(secret) <> 1), note text,
                updated_at int DEFAULT 0, length int GENERATED ALWAYS AS (octet_length(secret)) STORED)"""],
            [{"id": str(uuid.UUID(int=n * 2**120 + n))} for n in range(256)],
            afterwards=[
                "CREATE TRIGGER bump BEFORE UPDATE ON triggered FOR EACH ROW EXECUTE FUNCTION bump()",
                'CREATE CONSTRAINT TRIGGER "Later" AFTER UPDATE ON triggered DEFERRABLE INITIALLY DEFERRED '
                "FOR EACH ROW EXECUTE FUNCTION forbid()",
                "CREATE RULE noted AS ON UPDATE TO triggered DO ALSO INSERT INTO audit VALUES (NEW.id)",
                "CREATE RULE nothing AS ON UPDATE TO triggered DO INSTEAD NOTHING",
                "CREATE UNIQUE INDEX unlike ON triggered (secret) WHERE length(secret) > 0",
                "CREATE VIEW seen AS SELECT id, secret FROM triggered",
                "CREATE MATERIALIZED VIEW was AS SELECT id, secret FROM triggered",
            ],
        ),
        Table(
            "child", ["id"], [Column("secret")],
            ["""CREATE TABLE child (secret bytea, parent uuid NOT NULL, id int PRIMARY KEY REFERENCES "T" (id),
                kept int REFERENCES "T" (id) ON UPDATE CASCADE)"""],
            [{"parent": str(uuid.UUID(int=n)), "id": n} for n in range(100)],
            afterwards=["ALTER TABLE child ENABLE ROW LEVEL SECURITY", "ALTER TABLE child FORCE ROW LEVEL SECURITY",
                        "CREATE POLICY hides ON child USING (id < 10)"],
        ),
        Table("empty", ["id"], [Column("secret")], ["CREATE TABLE empty (id bytea PRIMARY KEY, secret bytea)"], []),
        Table("one", ["id"], [Column("secret")], ["CREATE TABLE one (id text PRIMARY KEY, secret bytea)"],
              [{"id": "", "secret": None}]),
    ]  # fmt: skip
    return tables


def mariadb_tables() -> list[Table]:
    moments = ["1970-01-01 00:00:01", "2038-01-19 03:14:07.999999", "2024-02-29 12:00:00.000001"]
    odd = 'Tab.le `quoted` "Ünï" -- /*'
    return [
        Table(
            odd, ["ID Col", "T x"],
            [Column("pass`word", "raw", b"\0\xff"), Column("select", "base64", "ä.b".encode())],
            [f"""CREATE TABLE {quoted(odd)} ("other one" double, gone int, "T x" varchar(60) COLLATE utf8mb4_nopad_bin,
                "pass`word" blob, "ID Col" bigint, "select" varchar(4000) CHARACTER SET latin1, hidden int INVISIBLE DEFAULT 7,
                updated_at timestamp(6) NOT NULL DEFAULT current_timestamp(6) ON UPDATE current_timestamp(6),
                "and `then`" datetime NULL ON UPDATE current_timestamp(),
                PRIMARY KEY ("ID Col", "T x")) COMMENT = 'it''s "one"'""",
             f"ALTER TABLE {quoted(odd)} DROP COLUMN gone",
             "CREATE TABLE remembered (id int PRIMARY KEY, what varchar(20)) WITH SYSTEM VERSIONING",
             "INSERT INTO remembered VALUES (1, 'was'), (2, 'is')", "UPDATE remembered SET what = 'now' WHERE id = 1",
             "CREATE TABLE old_engine (id int PRIMARY KEY, what varchar(20)) ENGINE = MyISAM",
             "INSERT INTO old_engine VALUES (1, 'here')",
             "CREATE TABLE in_aria (id int PRIMARY KEY, what varchar(20)) ENGINE = Aria"],
            [{"other one": str(n / 3), "ID Col": key, "T x": text, "updated_at": f"2001-02-03 04:05:06.{n:06}",
              "and `then`": "2000-01-01 00:00:00"}
             for n, (key, text) in enumerate(
                (key, text) for key in [-(2**63), -(2**63) + 1, -1, 0, 2**53 + 1, 2**63 - 1]
                for text in ["", " ", "a", "a ", "A", "ä", "Z", "z", "'", '"', "\\", "\\x00", "\n", "\u2028", "{}", "NULL",
                             "\U0010ffff"])],
        ),
        # The same name in another case.
        Table("T", ["id"], [Column("s")], ["CREATE TABLE \"T\" (id tinyint PRIMARY KEY, s tinyblob)"],
              [{"id": n} for n in [-128, -1, 0, 1, 127]], plaintexts=[b"x", b"", b"correct horse", b"\0\0\0"]),
        Table("t", ["id"], [Column("s", "base64")], ["CREATE TABLE t (id int unsigned zerofill PRIMARY KEY, s blob)"],
              [{"id": n} for n in [*range(200), 2**31, 2**32 - 1]]),
        Table(
            "every_type", ["u", "n", "b", "v", "d", "t", "z", "c", "s", "i", "o", "a4", "a6", "f"],
            [Column("secret"), Column("note", "base64")],
            ["""CREATE TABLE every_type (secret mediumblob COMPRESSED, note longtext CHARACTER SET koi8r, u uuid,
                n decimal(30, 10), b binary(3), v varbinary(4), d date, t datetime(6), z timestamp(3) NOT NULL DEFAULT 0,
                c char(20) CHARACTER SET ascii, s smallint unsigned zerofill, i int, o bigint unsigned, a4 inet4, a6 inet6,
                f decimal(5, 2) unsigned zerofill,
                kind enum('a', 'b''s', '') DEFAULT 'a', flags set('x', 'y;', 'z') CHARACTER SET utf8mb3, doc json, y year,
                clock time(6), bits bit(9), g point, half float, real_one double, wide varchar(20) CHARACTER SET utf32,
                sjis text CHARACTER SET sjis, by_now datetime(2) DEFAULT now(2) ON UPDATE now(2),
                PRIMARY KEY (u, n, b, v, d, t, z, c, s, i, o, a4, a6, f)) ROW_FORMAT = DYNAMIC"""],
            [{"u": str(uuid.UUID(int=(n * 2**101 + n) % 2**128)), "n": number, "b": bytes([n % 256, 0, 255])[: n % 4],
              "v": bytes([255, 0, n % 256, 32])[: n % 5],
              "d": ["0000-00-00", "1000-01-01", "9999-12-31", "2024-02-29", "2023-00-00"][n % 5],
              "t": ["0000-00-00 00:00:00", "9999-12-31 23:59:59.999999", "2024-02-29 23:59:59.5", "1000-01-01"][n // 2 % 4],
              "z": [moments[0], moments[2], "0000-00-00 00:00:00"][n // 3 % 3], "c": f"{n:x} ", "s": n % 9, "i": -n,
              "o": [2**64 - 1 - n, 2**63, n][n % 3], "a4": f"255.0.{n}.1", "a6": f"2001:db8::{n:x}", "f": str(n / 4),
              "kind": ["a", "b's", ""][n % 3], "flags": ["", "x,y;", "z"][n % 3], "doc": '{"a":  [1, "ä"]}',
              "y": [1901, 2155, 0][n % 3], "clock": ["-838:59:59.5", "12:00:00", "838:59:59"][n % 3], "bits": n,
              "half": "0.1", "real_one": "1e-300", "wide": "\U0001f511ß", "sjis": "表ソ", "by_now": None}
             for n, number in enumerate(["0", "-0.5", "12345678901234567890.0123456789", "-1.10", "99999999999999999999"] * 12)],
            afterwards=["UPDATE every_type SET g = POINT(1, 2) WHERE i < -9"],
        ),
        Table(
            "numbers", ["n"], [Column("s")], ["CREATE TABLE numbers (n decimal(65, 30) PRIMARY KEY, s varbinary(2000)) ROW_FORMAT = DYNAMIC"],
            [{"n": n} for n in ["0", "1.50", "-1.5", str(2**64), "123456789.987654321", "-" + "9" * 35 + "." + "9" * 30,
                                "0." + "0" * 29 + "1"]],
        ),
        Table("large", ["n"], [Column("s")], ["CREATE TABLE large (n bigint unsigned zerofill PRIMARY KEY, s blob)"],
              [{"n": n} for n in [0, 1, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1, *range(5, 600)]]),
        Table(
            "moments", ["z"], [Column("s")],
            ["CREATE TABLE moments (z timestamp(6) DEFAULT '2001-01-01 00:00:00' PRIMARY KEY, s blob)"],
            [{"z": z} for z in [*moments, *(f"2024-03-31 0{n % 10}:{n // 10:02}:00.{n:06}" for n in range(600))]],
        ),
        Table(
            "folded", ["name"], [Column("s", "base64")],
            ["CREATE TABLE folded (name varchar(60) CHARACTER SET latin1 COLLATE latin1_german2_ci PRIMARY KEY, s text)"],
            [{"name": f"{'Nn'[n % 2]}äme-{n} "} for n in range(1200)],
        ),
        Table(
            "turkish", ["name"], [Column("s", "base64")],
            ["CREATE TABLE turkish (name varchar(100) PRIMARY KEY, s varchar(3000), KEY (s(20))) DEFAULT CHARSET = utf8mb3"],
            [{"name": f"{'Iıİi'[n % 4]}-ß{n // 2}-{n}"} for n in range(400)],
        ),
        Table(
            "downwards", ["id", "name"], [Column("secret")],
            ["CREATE TABLE downwards (id mediumint unsigned, name varchar(20), secret blob, "
             "PRIMARY KEY (id DESC, name), KEY upwards (id ASC, name DESC)) ROW_FORMAT = COMPRESSED"],
            [{"id": 2**24 - 1 - n // 3, "name": f"{n % 3}"} for n in range(700)],
        ),
        Table(
            "parted", ["region", "id"], [Column("secret"), Column("note", "base64", b"parted.note")],
            ["""CREATE TABLE parted (id bigint NOT NULL, region varchar(20) COLLATE utf8mb4_unicode_ci NOT NULL,
                secret blob, note text, updated_at datetime DEFAULT now() ON UPDATE now(), PRIMARY KEY (region, id))
                PARTITION BY LIST COLUMNS (region) SUBPARTITION BY HASH (id) SUBPARTITIONS 2 (
                    PARTITION "north part" VALUES IN ('north', ''), PARTITION p_rest DEFAULT)"""],
            [{"region": ["north", "North", "süd", "", "West"][n % 5], "id": n, "updated_at": "2000-01-01 00:00:00"}
             for n in range(800)],
        ),
        Table(
            "booked", ["id", "until", "since"], [Column("secret")],
            ["CREATE TABLE booked (id int, since date, until date, secret blob, PERIOD FOR stay (since, until), "
             "PRIMARY KEY (id, stay WITHOUT OVERLAPS))"],
            [{"id": n % 7, "since": f"20{n // 7 + 10}-01-01", "until": f"20{n // 7 + 10}-06-01"} for n in range(200)],
        ),
        Table(
            "triggered", ["id"], [Column("secret"), Column("note", "base64")],
            ["CREATE TABLE audit (what text)", "CREATE SEQUENCE \"next one\" START WITH 9 CACHE 3 CYCLE",
             """CREATE TABLE triggered (id int unsigned AUTO_INCREMENT PRIMARY KEY, secret varbinary(3000), note text,
                ordinal bigint DEFAULT NEXTVAL("next one"), "digest-length" int AS (octet_length(secret)) STORED,
                half int AS (octet_length(note) DIV 2) VIRTUAL INVISIBLE, updated_at timestamp NOT NULL DEFAULT now() ON UPDATE now(),
                CHECK (octet_length(secret) <> 1), CONSTRAINT "check `2`" CHECK (note <> 'forbidden'),
                KEY by_length ("digest-length", half), UNIQUE KEY unlike (id, secret(60)), FULLTEXT KEY words (note)
                ) AUTO_INCREMENT = 1000""",
             ],
            [{"id": n, "updated_at": "2000-01-01 00:00:00"} for n in range(256)],
            afterwards=[
                "CREATE TRIGGER \"an `insert`\" AFTER INSERT ON triggered FOR EACH ROW "
                "BEGIN INSERT INTO audit VALUES ('it''s; in'); SET @x = 1; END",
                "CREATE TRIGGER goes BEFORE DELETE ON triggered FOR EACH ROW INSERT INTO audit VALUES ('gone')",
                "CREATE DEFINER = 'Vault App'@'%' VIEW seen AS SELECT id, secret FROM triggered WITH CHECK OPTION",
                "CREATE DEFINER = 'Vault App'@'%' FUNCTION \"how many\"() RETURNS int READS SQL DATA "
                "BEGIN DECLARE n int; SELECT COUNT(*) INTO n FROM triggered; RETURN n; END",
                "CREATE PROCEDURE changes(IN of int) UPDATE triggered SET note = NULL WHERE id = of",
                "CREATE EVENT \"every second\" ON SCHEDULE EVERY 1 SECOND DISABLE DO DELETE FROM triggered",
            ],
        ),
        Table(
            "child", ["id"], [Column("secret")],
            ["""CREATE TABLE child (secret blob, parent int unsigned NOT NULL, id tinyint unsigned PRIMARY KEY, kept int,
                CONSTRAINT "to the `parent`" FOREIGN KEY (parent) REFERENCES triggered (id) ON UPDATE CASCADE ON DELETE CASCADE,
                FOREIGN KEY (kept) REFERENCES parents (id) ON DELETE SET NULL)""",
             "CREATE TABLE parents (id int PRIMARY KEY, of_child tinyint unsigned, "
             "FOREIGN KEY (of_child) REFERENCES child (id))",
             "INSERT INTO parents VALUES (4, 10)"],
            [{"parent": n, "id": n, "kept": 4 if n % 2 else None} for n in range(100)],
        ),
        Table("empty", ["id"], [Column("secret")], ["CREATE TABLE empty (id varbinary(3000) PRIMARY KEY, secret blob) ROW_FORMAT = DYNAMIC"], []),
        Table("one", ["id"], [Column("secret")], ["CREATE TABLE one (id varchar(760) CHARACTER SET latin1 PRIMARY KEY, secret blob)"],
              [{"id": "", "secret": None}]),
    ]  # fmt: skip


def mariadb_tables_to_copy() -> list[Table]:
    """Without those with foreign keys, triggers, views, generated columns and partitions."""
    return [table for table in mariadb_tables() if table.name not in ("child", "parted", "triggered")]


def heavy_table(kind: str) -> Table:
    """Values of which each is more than a chunk."""
    secret, note = {"sqlite": ("BLOB", "TEXT"), "postgres": ("bytea", "TEXT"), "mariadb": ("LONGBLOB", "LONGTEXT")}[kind]
    ddl = f"CREATE TABLE heavy (id BIGINT PRIMARY KEY, secret {secret}, note {note})"
    columns = [Column("secret"), Column("note", "base64")]
    return Table("heavy", ["id"], columns, [ddl], [{"id": n} for n in (-1, 7)], plaintexts=[b"1", os.urandom(5 << 20)])


def text_columns(table: Table, kind: str) -> set[str]:
    """Of SQLite tables, every second base64 column holds text, as do all of the servers that are declared so."""
    base64_columns = {column.name for column in table.columns if column.encoding == "base64"}
    return base64_columns - {"c"} if kind == "sqlite" else base64_columns


# The checks.


class Report:
    def __init__(self):
        self.failed = 0

    def check(self, name: str, differences: list[str]) -> None:
        print(f"{'FAILED' if differences else 'held  '} {name}", flush=True)
        self.failed += bool(differences)
        for difference in differences[:DIFFERENCES_NAMED_MAX]:
            print(f"  {difference}", file=sys.stderr)
        if len(differences) > DIFFERENCES_NAMED_MAX:
            print(f"  and {len(differences) - DIFFERENCES_NAMED_MAX} more", file=sys.stderr)


def expect(what: str, found, wanted) -> list[str]:
    return [] if found == wanted else [f"{what}: {found!r:.300} is not {wanted!r:.300}"]


# What Preflight must refuse: a name, words of the message, and the statements that bring it about and end it.
REFUSALS = {
    "sqlite": [
        ("a key that is NULL", ["mixed", "NULL"], "INSERT INTO mixed VALUES (NULL, 1, NULL, NULL, NULL, NULL)",
         "DELETE FROM mixed WHERE a IS NULL"),
        ("a value under another key", ["one", "no known key"], "UPDATE one SET secret = x'0d0c02000100020000'",
         "UPDATE one SET secret = NULL"),
    ],
    "postgres": [
        ("hidden rows", ["child", "BYPASSRLS"], "ALTER ROLE keyturn_agent NOBYPASSRLS",
         "ALTER ROLE keyturn_agent BYPASSRLS"),
        ("a trigger that always fires", ["triggered", "bump"], "ALTER TABLE triggered ENABLE ALWAYS TRIGGER bump",
         "ALTER TABLE triggered ENABLE TRIGGER bump"),
        ("missing grants", ["T", "UPDATE"], 'REVOKE UPDATE (s) ON "T" FROM keyturn_agent',
         'GRANT UPDATE (s) ON "T" TO keyturn_agent'),
    ],
    # The same as without copies.
    "mariadb-copies": [],
    "mariadb": [
        ("a table of MyISAM", ["one", "MyISAM"], "ALTER TABLE one ENGINE = MyISAM", "ALTER TABLE one ENGINE = InnoDB"),
        ("a table with its history", ["empty", "SYSTEM VERSIONING"], "ALTER TABLE empty ADD SYSTEM VERSIONING",
         "ALTER TABLE empty DROP SYSTEM VERSIONING"),
        ("a trigger", ["child", "`bu``mp`"], 'CREATE TRIGGER "bu`mp" BEFORE UPDATE ON child FOR EACH ROW SET NEW.kept = 4',
         'DROP TRIGGER "bu`mp"'),
        ("a key of another character set", ["one", "cp1251"],
         "ALTER TABLE one MODIFY id varchar(760) CHARACTER SET cp1251",
         "ALTER TABLE one MODIFY id varchar(760) CHARACTER SET latin1"),
        ("a log of statements", ["binlog_format"], "SET GLOBAL binlog_format = 'STATEMENT'",
         "SET GLOBAL binlog_format = 'MIXED'"),
        ("a server without writes", ["read-only"], "SET GLOBAL read_only = ON", "SET GLOBAL read_only = OFF"),
        ("an event", ["EVENT"], "SET GLOBAL event_scheduler = ON", "SET GLOBAL event_scheduler = OFF"),
        ("missing grants", ["parted", "updated_at"], "REVOKE UPDATE (updated_at) ON parted FROM keyturn_agent@'%'",
         "GRANT UPDATE (updated_at) ON parted TO keyturn_agent@'%'"),
    ],
}  # fmt: skip


class Scenario:
    def __init__(self, farm: Farm, tables: list[Table], old_key: bytes, report: Report):
        self.farm, self.tables, self.report = farm, tables, report
        self.old_key, self.new_key = old_key, os.urandom(32)
        self.before = farm.database.snapshot(tables)
        self.definition = farm.database.definition()
        write_bundle(farm.directory / "current.bundle", old_key)
        write_bundle(farm.directory / "new.bundle", self.new_key)

    def differences(self, key: bytes) -> list[str]:
        """What there is beyond a rotation from the first key to this one: in the database, on the nodes, outside."""
        database = self.farm.database
        found = compare(self.tables, self.before, database.snapshot(self.tables), self.old_key, key)
        found += expect("the database's definition", database.definition(), self.definition)
        for node in self.farm.NODES:
            directory = self.farm.directory / node
            found += expect(f"the key in {node}'s encryption.config", open_store(directory), key)
            found += expect(f"the key that {node}'s instance runs with", (directory / "instance-key").read_bytes(), key)
            found += expect(f"{node}'s instance", (directory / "instance-state").read_text(), "online")
        return found

    def start(self, *options, codes: tuple[int, ...] = (0,)) -> dict:
        return self.farm.run_json(
            "rotation", "start", "--bundle", "new.bundle", "--current-bundle", "current.bundle",
            "--password-file", "password", "--yes", *options, codes=codes,
        )  # fmt: skip

    def undone(self, phase: str) -> None:
        self.farm.run_json("rotation", "plan", "--hold-at", phase, "--strategy", self.farm.database.strategy)
        self.start("--detach")

        def held() -> bool:
            status = self.farm.run_json("rotation", "status", codes=(0, 1, 3, 4, 5, 6))
            if status["outcome"] != "running":
                ended = f"{status['outcome']}: {status['faults']}"
                raise CheckFailed(f"the rotation that was to hold at {phase} is {ended}")
            return status["paused"] and status["phase"] == phase

        try:
            self.farm.wait_for(held)
        except CheckFailed as error:
            raise CheckFailed(f"{error}\n{self.farm.run('rotation', 'status').stdout}") from error
        status = self.farm.run_json("rotation", "abort", "--wait", codes=(3,))
        found = expect("outcome", status["outcome"], "rolled_back")
        self.report.check(f"undone from {phase}", found + self.differences(self.old_key))

    def refused(self, what: str, words: list[str], change: str, back: str) -> None:
        """Preflight names what is wrong while the database is changed so."""
        self.farm.database.execute(change)
        done = self.farm.run("rotation", "plan", "-o", "json", codes=(1,))
        self.farm.database.execute(back)
        status = json.loads(done.stdout)
        messages = " ".join(fault["message"] for fault in status["faults"])
        found = [f"{word!r} is not in {messages!r}" for word in words if word not in messages]
        found += expect("outcome", status["outcome"], "refused") + self.differences(self.old_key)
        self.report.check(f"refused: {what}", found)

    def completed(self) -> None:
        rotation = self.farm.run_json("rotation", "plan", "--strategy", self.farm.database.strategy)["id"]
        status = self.start()
        found = expect("outcome", status["outcome"], "completed") + self.differences(self.new_key)
        if self.farm.database.strategy == "shadow":
            found += expect("kept tables", len(status["kept_tables"]), len(self.tables))
        self.report.check("completed", found)
        rows = sum(len(table.rows) for table in self.tables)
        progress = status["progress"]
        found = expect("rows_reencrypted", progress["rows_reencrypted"], rows)
        found += expect("rows_verified", progress["rows_verified"], rows)
        self.report.check("rows that were counted", found)
        after = self.farm.database.snapshot(self.tables)
        found = []
        for table in self.tables:
            if table.plaintexts is not None:
                continue  # Too slow with our BLAKE3.
            [evidence] = [listed for listed in progress["tables"] if listed["name"] == table.label()]
            wanted = content_digest(table, after, (self.old_key, self.new_key), rotation)
            found += expect(f"{table.label()} before", evidence["content_digest_before"], wanted)
            found += expect(f"{table.label()} after", evidence["content_digest_after"], wanted)
        self.report.check("content digest", found)
        exported = ["--out", "after.bundle", "--password-file", "password"]
        self.farm.run("key", "export", "--config", "node-1/agent.toml", *exported)
        found = expect("the key in it", open_bundle(self.farm.directory / "after.bundle"), self.new_key)
        self.report.check("the exported bundle", found)


SCHEMAS = {
    "sqlite": (Sqlite, sqlite_tables),
    "postgres": (Postgres, postgres_tables),
    "mariadb": (Mariadb, mariadb_tables),
    "mariadb-copies": (MariadbCopies, mariadb_tables_to_copy),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("keyturn", type=pathlib.Path)
    parser.add_argument("database", choices=list(SCHEMAS))
    parser.add_argument("--directory", type=pathlib.Path, help="an empty one to work in, kept; else a temporary one")
    options = parser.parse_args()
    directory = (options.directory or pathlib.Path(tempfile.mkdtemp(prefix="keyturn-foreign-"))).resolve()
    report = Report()
    # So that what was started is also ended then.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # What was begun is undone in the opposite order, whichever part of it fails.
    undo = contextlib.ExitStack()
    if not options.directory:
        undo.callback(shutil.rmtree, directory)
    old_key = b"sixteen bytes \xff!"
    try:
        make, tables_of = SCHEMAS[options.database]
        database = make(directory)
        undo.callback(database.stop)
        tables = tables_of()
        tables.append(heavy_table(database.kind))
        for table in tables:
            fill(table, old_key, text_columns(table, database.kind))
        database.create(tables)
        farm = Farm(options.keyturn.resolve(), directory, database)
        undo.callback(farm.stop)
        farm.build(tables, old_key)
        scenario = Scenario(farm, tables, old_key, report)
        for refusal in REFUSALS[options.database]:
            scenario.refused(*refusal)
        for phase in ("verify", "activate", "start"):
            scenario.undone(phase)
        scenario.completed()
    except CheckFailed as error:
        report.check("the course of things", [str(error)])
    except subprocess.TimeoutExpired as error:
        report.check("the course of things", [f"no end after {error.timeout} s: {error.cmd}"])
    finally:
        undo.close()
    return 1 if report.failed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["instance"]:
        run_instance(sys.argv[2], pathlib.Path(sys.argv[3]))
    else:
        sys.exit(main())
