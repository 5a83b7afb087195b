"""String formats: those of JSON Schema as regular expressions, none wider than its standard.

Dates are real dates (RFC 3339, years 0001 to 9999, leap years right); times have an offset, no leap second.
"""

from __future__ import annotations

_YEAR = "(?:[0-9]{3}[1-9]|[0-9]{2}[1-9][0-9]|[0-9][1-9][0-9]{2}|[1-9][0-9]{3})"
_FOURS = "(?:0[48]|[2468][048]|[13579][26])"  # 04 to 96
_LEAP_YEAR = f"(?:[0-9]{{2}}{_FOURS}|{_FOURS}00)"
_LONG = "(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
_SHORT = "(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
_FEBRUARY = "02-(?:0[1-9]|1[0-9]|2[0-8])"
_DATE = f"(?:{_YEAR}-(?:{_LONG}|{_SHORT}|{_FEBRUARY})|{_LEAP_YEAR}-02-29)"
_HOUR_MINUTE = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = rf"{_HOUR_MINUTE}:[0-5][0-9](?:\.[0-9]{{1,6}})?(?:Z|[+-]{_HOUR_MINUTE})"

# RFC 3339, appendix A
_TIME_SPAN = "T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S)"
_DATE_SPAN = "(?:[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?|[0-9]+M(?:[0-9]+D)?|[0-9]+D)"

_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"{_OCTET}(?:\.{_OCTET}){{3}}"
_H16 = "[0-9A-Fa-f]{1,4}"
_LS32 = f"(?:{_H16}:{_H16}|{_IPV4})"


def _hex(n: int) -> str:
    return f"[0-9A-Fa-f]{{{n}}}"


def _uuid(version: int) -> str:
    """RFC 9562: the version stands first in the third group, the variant in the fourth."""
    return f"{_hex(8)}-{_hex(4)}-{version}{_hex(3)}-[89ABab]{_hex(3)}-{_hex(12)}"


# RFC 1123; -- in the third and fourth place is for encodings (xn--), which can be wrong.
_A, _B = "[A-Za-z0-9]", "[A-Za-z0-9-]"


def _label(first: str) -> str:
    """A label of a host name, of up to 63 characters."""
    return f"{first}(?:{_B}?{_A}|{_B}(?:{_A}{_A}|-{_A})|{_B}(?:{_A}{_B}|-{_A}){_B}{{0,58}}{_A})?"


_LABEL, _LAST_LABEL = _label(_A), _label("[A-Za-z]")
_ATEXT = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
# RFC 5321: 64 characters at most.
_LOCAL = (
    "(?:"
    + "|".join(
        rf"{_ATEXT}{{1,{n}}}(?:\.{_ATEXT}{{1,{n}}}){{{dots}}}" for dots, n in enumerate((64, 31, 20, 15))
    )
    + ")"
)
_DOMAIN = rf"{_LABEL}(?:\.{_LABEL})*"
_PORT = "(?:6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[0-9]{1,4})"
_PCHAR = "(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
_PATH = f"(?:{_PCHAR}|/)*"
_SCHEME = "[A-Za-z][A-Za-z0-9+.-]{0,31}"
_QUERY = f"(?:{_PCHAR}|[/?])*"
_HOST = rf"(?:{_IPV4}|(?:{_LABEL}\.)*{_LAST_LABEL})"
_AUTHORITY = rf"//{_HOST}(?::{_PORT})?(?:/{_PATH})?"
_URI = rf"{_SCHEME}:(?:{_AUTHORITY}|/?(?:{_PCHAR}{_PATH})?)(?:\?{_QUERY})?(?:#{_QUERY})?"
_SEGMENT = "(?:[A-Za-z0-9._~!$&'()*+,;=@-]|%[0-9A-Fa-f]{2})+"  # a colon would make it a scheme
_RELATIVE = rf"(?:{_AUTHORITY}|/(?:{_PCHAR}{_PATH})?|{_SEGMENT}(?:/{_PATH})?)?(?:\?{_QUERY})?(?:#{_QUERY})?"
_POINTER = "(?:/(?:[^/~]|~[01])*)*"


def _ipv6() -> str:
    """RFC 4291: eight groups, one run of zeros left out."""
    ways = [f"(?:{_H16}:){{6}}{_LS32}", f"::(?:{_H16}:){{5}}{_LS32}"]
    for before in range(1, 6):
        head = f"(?:{_H16}:){{0,{before - 1}}}{_H16}"
        after = 5 - before
        ways.append(f"(?:{head})?::(?:{_H16}:){{{after}}}{_LS32}")
    ways.append(f"(?:(?:{_H16}:){{0,5}}{_H16})?::{_H16}")
    ways.append(f"(?:(?:{_H16}:){{0,6}}{_H16})?::")
    return "(?:" + "|".join(ways) + ")"


_BASE64 = "(?:[A-Za-z0-9#]{4})*(?:[A-Za-z0-9#]{2}==|[A-Za-z0-9#]{3}=)?"

_PATTERNS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "duration": f"P(?:{_DATE_SPAN}(?:{_TIME_SPAN})?|{_TIME_SPAN}|[0-9]+W)",
    "uuid": f"{_hex(8)}-{_hex(4)}-{_hex(4)}-{_hex(4)}-{_hex(12)}",
    "base64": _BASE64.replace("#", "+/"),
    "base64url": _BASE64.replace("#", "_-"),
    "email": rf"{_LOCAL}@{_DOMAIN}\.{_LAST_LABEL}",
    "hostname": _DOMAIN,
    "ipv4": _IPV4,
    "ipv6": _ipv6(),
    **{f"uuid{version}": _uuid(version) for version in range(1, 9)},
    "uri": _URI,
    "uri-reference": rf"(?:{_URI}|{_RELATIVE})",
    "json-pointer": _POINTER,
    "relative-json-pointer": f"(?:0|[1-9][0-9]{{0,8}})(?:#|{_POINTER})",
}
# These hold more than what is written here, which is a part of them.
_PATTERNS |= {"idn-email": _PATTERNS["email"], "idn-hostname": _DOMAIN, "iri": _URI}
_PATTERNS |= dict.fromkeys(("iri-reference", "uri-template"), _PATTERNS["uri-reference"])
_LONGEST = {"hostname": 253, "idn-hostname": 253, "email": 254, "idn-email": 254}
# Format → the pattern that all of a string must match, and how many characters it may have.
FORMATS = {name: (f"^(?:{pattern})$", _LONGEST.get(name)) for name, pattern in _PATTERNS.items()}
# Formats that ask for nothing a text could lack.
PLAIN_FORMATS = frozenset({"password", "path", "file-path", "directory-path", "binary", "textarea"})
