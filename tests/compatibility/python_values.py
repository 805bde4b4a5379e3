#!/usr/bin/env python3
"""The other side of the tests in crates/keys/tests/python.rs: makes and reads our formats through another implementation.

    python_values.py REQUEST < arguments.json > answer.json

Arguments and answers are JSON; bytes in it are hexadecimal. Needs the public package `devolutions-crypto`, and builds
everything from docs/formats.md alone.

    make-values    {key, plaintexts, aads}                  values of every version and encoding
    open-values    {key, values}                            their plaintexts
    make-bundle    {payload, password}                      a bundle around this JSON text
    open-bundle    {bundle, password}                       the JSON text inside
    make-recipient {}                                       a key pair
    open-sealed    {sealed, private, context}               the JSON text inside
    make-database  {path, key, rows}                        an SQLite file for python_oracle.py
"""

import base64
import json
import sqlite3
import struct
import sys

import devolutions_crypto
from devolutions_crypto import CiphertextVersion

VERSIONS = {"v1": CiphertextVersion.V1, "v2": CiphertextVersion.V2}
ENCODERS = {
    "raw": lambda raw: raw,
    "base64": base64.b64encode,
    "base64-unpadded": lambda raw: base64.b64encode(raw).rstrip(b"="),
    "base64-url": base64.urlsafe_b64encode,
    "base64-url-unpadded": lambda raw: base64.urlsafe_b64encode(raw).rstrip(b"="),
}


def decoded(stored: bytes, encoding: str) -> bytes:
    """Strict on purpose: a value must come back in exactly the form in which it was given."""
    if encoding == "raw":
        return stored
    if encoding.endswith("unpadded"):
        assert not stored.endswith(b"="), stored
        stored += b"=" * (-len(stored) % 4)
    altchars = b"-_" if "url" in encoding else None
    return base64.b64decode(stored, altchars=altchars, validate=True)


def transcript(fields: list[bytes]) -> bytes:
    """Every field behind its length: docs/formats.md, transcript."""
    return b"".join(struct.pack("<Q", len(field)) + field for field in fields)


def make_values(request: dict) -> dict:
    key = bytes.fromhex(request["key"])
    values = []
    for plaintext in map(bytes.fromhex, request["plaintexts"]):
        for aad in map(bytes.fromhex, request["aads"]):
            for version_name, version in VERSIONS.items():
                for encoding, encode in ENCODERS.items():
                    stored = encode(devolutions_crypto.encrypt_with_aad(plaintext, key, aad, version))
                    values.append(
                        {
                            "version": version_name,
                            "encoding": encoding,
                            "aad": aad.hex(),
                            "stored": stored.hex(),
                            "plaintext": plaintext.hex(),
                        }
                    )
    return {"values": values}


def open_values(request: dict) -> dict:
    key = bytes.fromhex(request["key"])
    plaintexts = []
    for value in request["values"]:
        raw = decoded(bytes.fromhex(value["stored"]), value["encoding"])
        plaintexts.append(devolutions_crypto.decrypt_with_aad(raw, key, bytes.fromhex(value["aad"])).hex())
    return {"plaintexts": plaintexts}


def make_bundle(request: dict) -> dict:
    payload, password = request["payload"].encode(), bytes.fromhex(request["password"])
    return {"bundle": devolutions_crypto.derive_encrypt_with_password(payload, password).hex()}


def open_bundle(request: dict) -> dict:
    bundle, password = bytes.fromhex(request["bundle"]), bytes.fromhex(request["password"])
    return {"payload": devolutions_crypto.derive_decrypt_with_password(bundle, password).decode()}


def make_recipient(_request: dict) -> dict:
    pair = devolutions_crypto.generate_keypair()
    return {"private": pair.private_key.hex(), "public": pair.public_key.hex()}


def open_sealed(request: dict) -> dict:
    context = request["context"]
    aad = transcript(
        [
            b"keyturn sealed bundle v1",
            context["farm"].encode(),
            bytes.fromhex(context["rotation"].replace("-", "")),
            context["node"].encode(),
            bytes.fromhex(context["plan_digest"]),
            bytes.fromhex(context["old_key"]),
            bytes.fromhex(context["new_key"]),
            bytes.fromhex(context["mac"]),
        ]
    )
    sealed, private = bytes.fromhex(request["sealed"]), bytes.fromhex(request["private"])
    return {"payload": devolutions_crypto.decrypt_asymmetric_with_aad(sealed, private, aad).decode()}


def make_database(request: dict) -> dict:
    key = bytes.fromhex(request["key"])
    connection = sqlite3.connect(request["path"])
    connection.execute('CREATE TABLE "en""tries" (id INTEGER PRIMARY KEY, secret TEXT, note BLOB)')
    for number in range(request["rows"]):
        version = CiphertextVersion.V1 if number % 5 == 0 else CiphertextVersion.V2
        secret = base64.b64encode(devolutions_crypto.encrypt(f"secret {number}".encode(), key, version)).decode()
        note = devolutions_crypto.encrypt_with_aad(b"note", key, b"notes", version)
        row = (number, None if number == 1 else secret, b"" if number == 2 else note)
        connection.execute('INSERT INTO "en""tries" VALUES (?, ?, ?)', row)
    # The table of the example in docs/formats.md.
    connection.execute("CREATE TABLE connections (id INTEGER PRIMARY KEY, password BLOB)")
    password = devolutions_crypto.encrypt(b"the password of connection 1", key)
    connection.execute("INSERT INTO connections VALUES (1, ?)", (password,))
    connection.commit()
    connection.close()
    return {}


REQUESTS = {
    "make-values": make_values,
    "open-values": open_values,
    "make-bundle": make_bundle,
    "open-bundle": open_bundle,
    "make-recipient": make_recipient,
    "open-sealed": open_sealed,
    "make-database": make_database,
}


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in REQUESTS:
        sys.exit(__doc__)
    json.dump(REQUESTS[sys.argv[1]](json.load(sys.stdin)), sys.stdout)
