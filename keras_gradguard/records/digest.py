"""Tells whether a text is the one that was seen before."""

import hashlib


def digest_of(text):
    """Returns the SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()
