"""What is searched in a structure, and which name tells what a value in it is.

`{"ssn": "123456789"}` is searched as `ssn="123456789"` is, `{"name": "API_KEY", "value": "…"}` as `API_KEY="…"`; what
is in a list, or in a dict under a name that holds secrets, has the name of that.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

_A_NUMBER: Final = 10**10  # shorter ones are no telephone number
_A_NAMED_NUMBER: Final = 10**6
_NO_NUMBER: Final = 10**20
_SHORTEST: Final = 6  # characters of a name that is searched itself
_SILENT: Final = frozenset({"role", "content", "text", "type"})
"""Names of most texts. They tell nothing, and hold nothing."""
_TELLING: Final = re.compile(
    r"(?i:key|token|secret|pass|pwd|auth|cred|cookie|phone|mobile|licen|ssn|iban|card|cv[vc]|account|routing|cpf|curp|pesel|aadha|nric|steuer|ausweis"
    r"|kennwort|contrase|senha|wachtwoord|clave|mdp|heslo|parola|salasana|social|insurance|national|identi[tf]|tax_?(?:id|n)|id_?(?:num|no|card)|contact"
    r"|密|口令|令牌|手机|手機|电话|電話|身份|身分|护照|護照|パス|暗証|番号|번호|парол|телефон|паспорт|инн|снилс"
    r"|(?<![a-z])(?:pw|pin|tel|fax|cell|sin|dni|nie|nif|nhs|bsn|pan|rut|rfc|tfn|nino|e?itin|ein|ip|whatsapp|psk|sid)(?![a-z]))"
)
_HOLDERS: Final = re.compile(r"(?i)(?:secret|credential|api_?key|token|password)s?\Z")
_VALUES: Final = frozenset({"value", "val", "default", "secretValue", "Value", "VALUE"})
_NAMES: Final = ("name", "key", "Name", "Key", "NAME", "KEY", "field", "variable")
_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def collect(value: Any, together: list[str], key: str = "") -> bool:
    """Put everything that is searched into `together`, line by line. Return True if there are texts that were cut."""
    if isinstance(value, dict):
        cuts = False
        for name, item in value.items():
            if name in _SILENT and isinstance(item, str):
                together += item, "\n"
                continue
            if item is not None:
                cuts |= collect(item, together, name_for_value(value, name, key))
            if isinstance(name, str) and len(name) >= _SHORTEST:
                together += name, "\n"
        return cuts
    if isinstance(value, str):
        together += (key, '="', value, '"\n') if key else (value, "\n")
    elif is_cut(value):
        together += value.head, "\n", value.tail, "\n"
        return True
    elif is_in_pieces(value):
        together += *value.pieces, "\n", "\n".join(value.pieces), "\n"
    elif isinstance(value, (list, tuple)):
        if len(value) > 1:
            texts = [text for item in value if (text := text_of(item)) is not None]
            if len(texts) > 1:
                together += *parted(texts), "\n"
        cuts = False
        for item in value:
            cuts |= collect(item, together, key)
        return cuts
    elif is_number(value, key):
        together += (key, '="', str(value), '"\n') if key else (str(value), "\n")
    return False


def name_for_value(holder: dict[Any, Any], name: Any, key: str) -> str:
    """Return the name that tells what stands under `name`, or ""; `key` is what tells of `holder` itself."""
    if not isinstance(name, str):
        return key
    if name in _VALUES:
        for other in _NAMES:
            if isinstance(said := holder.get(other), str):
                return _spelled(said)
        return key
    return _spelled(name) or (key if key and _HOLDERS.search(key) else "")


@lru_cache(1024)
def _spelled(name: str) -> str:
    """Return a name with dashes between its words if it tells something, else ""."""
    return _HUMP.sub("_", name) if len(name) < 64 and '"' not in name and _TELLING.search(name) else ""


def is_number(value: Any, key: str) -> bool:
    """Return True for an integer that may identify a person."""
    return type(value) is int and (_A_NAMED_NUMBER if key else _A_NUMBER) <= abs(value) < _NO_NUMBER


def is_cut(value: Any) -> bool:
    """Return True for both ends of a text that was cut."""
    return isinstance(value, tuple) and hasattr(value, "head")


def is_in_pieces(value: Any) -> bool:
    """Return True for a text that came in pieces."""
    return isinstance(value, tuple) and hasattr(value, "pieces")


def parted(texts: list[str]) -> list[str]:
    """Return the texts of a list as parts of one, with a blank behind each of a command line: `["mysql", "-p…"]`."""
    return [f"{text} " for text in texts] if any(text.startswith("-") for text in texts) else texts


def text_of(item: Any) -> str | None:
    """Return the text of a block of content."""
    if isinstance(item, dict):
        item = item.get("text")
    return item if isinstance(item, str) else None
