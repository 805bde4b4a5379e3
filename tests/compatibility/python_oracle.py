#!/usr/bin/env python3
"""Opens every registered value of an SQLite database with the keys of a bundle, through another implementation.

    python_oracle.py --bundle FILE --password-file FILE --database FILE --targets FILE [--any-key]

Needs the public package `devolutions-crypto` and Python 3.11, and knows nothing of Keyturn but what docs/formats.md
(the bundle) and docs/database.md (targets.toml) say. Every value that is neither NULL nor empty must open under the
bundle's active key, or with --any-key under any key of the bundle.

Prints one line of JSON with the counts to standard output, and every value that does not open to standard error.
Exit code 0 when every value opened and there was at least one, 1 otherwise, 2 on wrong usage.
"""

import argparse
import base64
import binascii
import json
import pathlib
import sqlite3
import sys
import tomllib
import urllib.parse

import devolutions_crypto

# Values beyond these are counted, but not named.
FAILURES_NAMED_MAX = 50


class CheckFailed(Exception):
    """Something does not hold; the text says what."""


def open_bundle(path: pathlib.Path, password_file: pathlib.Path) -> tuple[bytes, list[bytes]]:
    """The active key and the other keys of a bundle."""
    password = password_file.read_bytes()
    # One line end is not part of the password.
    password = password.removesuffix(b"\n").removesuffix(b"\r") if password.endswith(b"\n") else password
    try:
        text = devolutions_crypto.derive_decrypt_with_password(path.read_bytes(), password)
    except devolutions_crypto.DevolutionsCryptoError as error:
        raise CheckFailed(f"{path}: the password does not open it: {error!r}") from error
    payload = json.loads(text)
    if (payload["format"], payload["version"]) != ("keyturn-bundle", 1):
        raise CheckFailed(f"{path}: not a keyturn-bundle of version 1")
    keys: dict[str, list[bytes]] = {"active": [], "decrypt-only": []}
    for key in payload["keys"]:
        keys[key["state"]].append(base64.b64decode(key["secret"], validate=True))
    if len(keys["active"]) != 1:
        raise CheckFailed(f"{path}: {len(keys['active'])} active keys, not one")
    return keys["active"][0], keys["decrypt-only"]


def read_targets(path: pathlib.Path) -> list[dict]:
    """The registered tables."""
    targets = tomllib.loads(path.read_text())
    # Absent means 1 here: this script also reads the shorter files of other tests.
    if targets.get("version", 1) != 1:
        raise CheckFailed(f"{path}: version {targets['version']}, and this script reads version 1")
    if not targets.get("table"):
        raise CheckFailed(f"{path}: registers no table")
    return targets["table"]


def aad_bytes(text: str) -> bytes:
    """The additional authenticated data of a column: plain text, or `hex:` and digits."""
    return bytes.fromhex(text.removeprefix("hex:")) if text.startswith("hex:") else text.encode()


def ciphertext_bytes(stored: bytes | str, encoding: str) -> bytes:
    """The ciphertext behind a stored value."""
    if encoding == "raw":
        if isinstance(stored, str):
            raise CheckFailed("text in a column that is registered as raw")
        return stored
    if encoding != "base64":
        raise CheckFailed(f"unknown encoding {encoding!r}")
    text = (stored.encode() if isinstance(stored, str) else stored).rstrip()
    # Both alphabets, padded or not.
    text = text.translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise CheckFailed("not base64") from error


def opens(ciphertext: bytes, keys: list[bytes], aad: bytes) -> bool:
    """Whether one of the keys opens it."""
    for key in keys:
        try:
            devolutions_crypto.decrypt_with_aad(ciphertext, key, aad)
            return True
        except devolutions_crypto.DevolutionsCryptoError:
            continue
    return False


def quoted(name: str) -> str:
    """An identifier in SQL."""
    return '"' + name.replace('"', '""') + '"'


class Tally:
    """What was counted."""

    def __init__(self) -> None:
        self.counts = {"rows": 0, "null": 0, "empty": 0, "opened": 0, "failed": 0}

    def add(self, what: str) -> None:
        self.counts[what] += 1

    def fail(self, place: str, reason: str) -> None:
        self.add("failed")
        if self.counts["failed"] <= FAILURES_NAMED_MAX:
            print(f"{place}: {reason}", file=sys.stderr)


def check_table(connection: sqlite3.Connection, table: dict, keys: list[bytes], tally: Tally) -> None:
    """Opens every registered value of one table."""
    columns = table["column"]
    name = ".".join(quoted(part) for part in (table.get("schema"), table["name"]) if part)
    # Qualified, because SQLite takes a quoted name that is no column for a text.
    selected = ", ".join("t." + quoted(column) for column in [*table["key"], *(column["name"] for column in columns)])
    for row in connection.execute(f"SELECT {selected} FROM {name} AS t"):
        tally.add("rows")
        key, values = row[: len(table["key"])], row[len(table["key"]) :]
        for column, stored in zip(columns, values, strict=True):
            if stored is None:
                tally.add("null")
            elif len(stored) == 0:
                tally.add("empty")
            else:
                place = f"{table['name']}.{column['name']} {list(key)}"
                try:
                    ciphertext = ciphertext_bytes(stored, column.get("encoding", "raw"))
                    if opens(ciphertext, keys, aad_bytes(column.get("aad", ""))):
                        tally.add("opened")
                    else:
                        tally.fail(place, "opens under none of the keys")
                except CheckFailed as failure:
                    tally.fail(place, str(failure))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", required=True, type=pathlib.Path)
    parser.add_argument("--password-file", required=True, type=pathlib.Path)
    parser.add_argument("--database", required=True, type=pathlib.Path)
    parser.add_argument("--targets", required=True, type=pathlib.Path)
    parser.add_argument("--any-key", action="store_true", help="accept values under a decrypt-only key too")
    options = parser.parse_args()
    try:
        active, decrypt_only = open_bundle(options.bundle, options.password_file)
        keys = [active, *decrypt_only] if options.any_key else [active]
        tables = read_targets(options.targets)
        tally = Tally()
        # Read-only, so that a missing file is an error and not a new database.
        address = f"file:{urllib.parse.quote(str(options.database.resolve()))}?mode=ro"
        connection = sqlite3.connect(address, uri=True)
        try:
            for table in tables:
                check_table(connection, table, keys, tally)
        finally:
            connection.close()
    except (CheckFailed, OSError, sqlite3.Error, KeyError, TypeError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"tables": len(tables), **tally.counts}))
    if tally.counts["opened"] == 0:
        print("not a single value was opened", file=sys.stderr)
        return 1
    return 1 if tally.counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
