"""Language codes: ISO 639-1 → the names a model is asked with."""

from __future__ import annotations

import re
import unicodedata

from gemma4_gguf.errors import OptionError

LANGUAGES = {
    "af": "Afrikaans", "am": "Amharic", "ar": "Arabic", "az": "Azerbaijani", "be": "Belarusian",
    "bg": "Bulgarian", "bn": "Bengali", "bs": "Bosnian", "ca": "Catalan", "cs": "Czech", "cy": "Welsh",
    "da": "Danish", "de": "German", "el": "Greek", "en": "English", "es": "Spanish", "et": "Estonian",
    "eu": "Basque", "fa": "Persian", "fi": "Finnish", "fil": "Filipino", "fr": "French", "ga": "Irish",
    "gl": "Galician", "gu": "Gujarati", "he": "Hebrew", "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian",
    "hy": "Armenian", "id": "Indonesian", "is": "Icelandic", "it": "Italian", "ja": "Japanese",
    "ka": "Georgian", "kk": "Kazakh", "km": "Khmer", "kn": "Kannada", "ko": "Korean", "lo": "Lao",
    "lt": "Lithuanian", "lv": "Latvian", "mk": "Macedonian", "ml": "Malayalam", "mn": "Mongolian",
    "mr": "Marathi", "ms": "Malay", "my": "Burmese", "nb": "Norwegian", "ne": "Nepali", "nl": "Dutch",
    "no": "Norwegian", "pa": "Punjabi", "pl": "Polish", "ps": "Pashto", "pt": "Portuguese", "ro": "Romanian",
    "ru": "Russian", "si": "Sinhala", "sk": "Slovak", "sl": "Slovenian", "so": "Somali", "sq": "Albanian",
    "sr": "Serbian", "sv": "Swedish", "sw": "Swahili", "ta": "Tamil", "te": "Telugu", "th": "Thai",
    "tl": "Filipino", "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu", "uz": "Uzbek", "vi": "Vietnamese",
    "yo": "Yoruba", "zh": "Chinese", "zu": "Zulu",
}  # fmt: skip

_NAME = re.compile(r"[^\W\d_][\w ,()'-]{2,60}")


def language_name(language: str) -> str:
    """The name of a language.

    Args:
        language: a code such as "de" or "pt-BR", or a name, which is taken as it is.

    Returns:
        In English.

    Raises:
        OptionError: it is neither.
    """
    code = language.strip().lower().replace("_", "-")
    name = LANGUAGES.get(code) or LANGUAGES.get(code.partition("-")[0] if len(code) <= 7 else code)
    if name is not None:
        return name
    if not _NAME.fullmatch(language.strip()):
        raise OptionError(f"{language!r} is no language. Pass its English name, or a code such as de or ja.")
    return language.strip()


def is_wide(character: str) -> bool:
    """Whether a character takes the width of two, as Chinese, Japanese and Korean ones do.

    Args:
        character: one.

    Returns:
        True for East Asian Width W and F (Unicode annex 11).
    """
    return unicodedata.east_asian_width(character) in ("W", "F")
