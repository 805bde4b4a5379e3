#!/usr/bin/env python3
"""Looks for key material in everything that a run left behind.

    find_secrets.py --bundle FILE --password-file FILE [--bundle ... --password-file ...] DIRECTORY

Opens the bundles with the public `devolutions-crypto` package, then reads every byte under DIRECTORY and reports each
file that holds a key, or the SHA-256 of one (which is the cipher key of version 2), raw, as hexadecimal or as base64,
or a bundle's password outside its own password file. Exit code 0 when nothing was found, 1 otherwise.
"""

import argparse
import base64
import hashlib
import json
import pathlib
import sys

import devolutions_crypto

# The JSON of a bundle's payload is described in docs/formats.md.


def keys_of(bundle: pathlib.Path, password: bytes) -> list[bytes]:
    payload = json.loads(devolutions_crypto.derive_decrypt_with_password(bundle.read_bytes(), password))
    return [base64.b64decode(key["secret"]) for key in payload["keys"]]


def disguises(name: str, secret: bytes) -> dict[str, bytes]:
    """The forms in which a secret could lie about. Base64 at every alignment within a longer text."""
    forms = {
        f"{name}, raw": secret,
        f"{name}, hexadecimal": secret.hex().encode(),
        f"{name}, HEXADECIMAL": secret.hex().upper().encode(),
    }
    for shift in range(3):
        text = base64.b64encode(b"\0" * shift + secret)
        inner = text[(0, 2, 3)[shift] : len(text) // 4 * 4 - 4]
        forms[f"{name}, base64 at {shift}"] = inner
        forms[f"{name}, url-safe base64 at {shift}"] = inner.replace(b"+", b"-").replace(b"/", b"_")
    listed = ", ".join(str(byte) for byte in secret).encode()
    forms[f"{name}, as a list"] = listed
    forms[f"{name}, as a dense list"] = listed.replace(b" ", b"")
    return forms


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", action="append", required=True, type=pathlib.Path)
    parser.add_argument("--password-file", action="append", required=True, type=pathlib.Path)
    parser.add_argument("directory", type=pathlib.Path)
    options = parser.parse_args()

    needles: dict[str, bytes] = {}
    password_files = {path.resolve() for path in options.password_file}
    passwords: dict[str, bytes] = {}
    for bundle, password_file in zip(options.bundle, options.password_file, strict=True):
        password = password_file.read_bytes().rstrip(b"\r\n")
        passwords[f"password of {bundle.name}"] = password
        for number, key in enumerate(keys_of(bundle, password)):
            name = f"key {number} of {bundle.name}"
            needles |= disguises(name, key)
            needles |= disguises(f"SHA-256 of {name}", hashlib.sha256(key).digest())

    found = 0
    scanned = 0
    for path in sorted(options.directory.rglob("*")):
        if not path.is_file() or path.is_symlink():
            continue
        content = path.read_bytes()
        scanned += 1
        wanted = needles if path.resolve() in password_files else needles | passwords
        for name, needle in wanted.items():
            if needle in content:
                print(f"{path}: {name}", file=sys.stderr)
                found += 1
    if scanned == 0:
        print(f"{options.directory}: nothing to scan", file=sys.stderr)
        return 1
    print(f"{scanned} files scanned, {found} secrets found")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
