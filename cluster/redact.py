"""Text without the secrets in its URIs: what is logged, printed or saved goes through here. Pure."""

import re

HIDDEN = "***"

# One slash: what `pathlib` makes of a URI that was given as a path.
_URIS = (
    re.compile(r"(https?)?(:/{1,3})([^\s'\"<>]+)", re.IGNORECASE),
    re.compile(r"(https?)?(:/{1,3})((?:(?!:/)[^\s'\"<>])+)", re.IGNORECASE),  # within another
)
_HOST_AND_PORT = re.compile(r"(\[[^\]]*\]|[^:\[\]]*):\d+")
_QUERY = re.compile(r"([?&;])([^=&;?#]+)=([^&;#]+)")
_SECRET = re.compile(r"pass|pwd|secret|token|signature|credential|key|\b(sig|sas)\b", re.IGNORECASE)


def redact(text: str) -> str:
    """The text, with user and password of each URI in it, and secret values in queries, hidden.

    A user without a password stays, except over HTTP, where it may be a token.
    """
    for pattern in _URIS if ":/" in text else ():
        text = pattern.sub(_redacted, text)
    return text


def _redacted(found: re.Match[str]) -> str:
    scheme, slashes, rest = found[1] or "", found[2], found[3]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        user = authority.rpartition("@")[0]
        if ":" in user or scheme:
            rest = f"{HIDDEN}@{rest[len(user) + 1 :]}"
    elif ":" in authority and "@" in rest and not _HOST_AND_PORT.fullmatch(authority):
        # `user:pass/word@host`: whoever forgot to encode a password has still not published it.
        rest = f"{HIDDEN}@{rest.rpartition('@')[2]}"
    return f"{scheme}{slashes}{_QUERY.sub(_without_secret, rest)}"


def _without_secret(found: re.Match[str]) -> str:
    return f"{found[1]}{found[2]}={HIDDEN}" if _SECRET.search(found[2]) else found[0]
