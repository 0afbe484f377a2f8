"""In which language a text is, lightly: by its script, and by its commonest words. Enough to see a mix, not to name a dialect."""

from __future__ import annotations

import re
from collections import Counter
from itertools import chain

_WORDS = {
    "en": "the of and to in is that it was for on are with as his they be at this have from or had by but not what all were we "
    "when your can said there use an each which she do how their if will up about out many then them these so some her would "
    "make like him into has you does did my who could please i a me no man men am over also want its our door war son am us",
    "de": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an werden aus er hat dass "
    "sie nach wird bei einer um am sind noch wie einem über einen so zum war haben nur oder aber vor zur bis mehr durch man sein "
    "wurde sei ich du wir ihr kann was",
    "fr": "le la les de des du et un une est que qui dans pour pas ne ce il elle nous vous ils au aux avec sur se par plus son "
    "sa ses mais ou où comme tout cette ces été être avoir sont fait je tu mon votre leur très bien même",
    "es": "el la los las de que y en un una por con no se es lo su para al como más pero sus le ya o este sí porque esta entre "
    "cuando muy sin sobre también me hasta hay donde quien desde todo nos durante todos uno les ni contra otros fue son está",
    "pt": "o a os as de que e do da em um uma para com não por mais dos como mas ao ele das à seu sua ou quando muito nos já eu "
    "também só pelo pela até isso ela entre depois sem mesmo aos seus quem nas me esse eles você são está foi tem",
    "it": "il lo la gli le di che e è un una in per con non sono del della dei nel nella al alla si da come più ma anche ho ha "
    "questo questa loro suo sua o se ci perché quando molto essere stato tutto dopo cosa io tu lei noi voi",
    "nl": "de het een en van ik te dat die in is niet zijn op aan met als voor had er maar om hem dan zou of wat mijn men dit zo "
    "door over ze zich bij ook tot je mij uit der daar haar naar heb hoe heeft hebben deze u want nog zal me",
    "pl": "w na się nie z że jest jak co tak ale czy by ma być przez jego dla już tylko te ten może są było "
    "jej oraz które który która mnie go ich pod gdy",
    "sv": "och i att det som en på är av för med till den har de inte om ett han men var jag sig från vi så kan när nu ska eller "
    "hade vid efter under mot också alla skulle där mycket ut blir upp vad",
    "tr": "ve bir bu için ile da de ne çok o gibi daha ben var en ama mi olarak sonra kadar her değil olan ki ya şey biz sen mı "
    "içinde olduğu göre kendi veya",
    "id": "yang dan di dengan untuk tidak ini dari dalam akan pada itu juga saya ke karena ada bisa oleh mereka atau sudah kita "
    "adalah seperti dapat telah lebih anda",
    "vi": "và của là có không được cho một trong những người với các này để đã khi từ đến cũng như tôi nhưng bạn về ra",
}
_BY_WORD: dict[str, tuple[str, ...]] = {}
for _language, _text in _WORDS.items():
    for _word in _text.split():
        _BY_WORD[_word] = (*_BY_WORD.get(_word, ()), _language)

_SCRIPTS = (
    ("ja", re.compile("[\u3041-\u30ff]")),
    ("ko", re.compile("[\uac00-\ud7af]")),
    ("zh", re.compile("[\u4e00-\u9fff]")),
    ("ru", re.compile("[\u0400-\u04ff]")),
    ("el", re.compile("[\u0370-\u03ff]")),
    ("ar", re.compile("[\u0600-\u06ff]")),
    ("he", re.compile("[\u0590-\u05ff]")),
    ("hi", re.compile("[\u0900-\u097f]")),
    ("th", re.compile("[\u0e00-\u0e7f]")),
)
"""A script stands for its commonest language. Japanese before Chinese: it uses both kinds of signs."""
_WORD = re.compile(r"[^\W\d_]+")
_READ = 400
_LEAST_SCRIPT = 0.2
_LEAST_HITS = 2
UNKNOWN = "und"


def language_of(text: str) -> str:
    """The language that a text looks like (ISO 639-1), or `und` where that is not clear: code, numbers, a few words.

    >>> language_of("Where is the parcel that I was waiting for?"), language_of("Wo ist das Paket, auf das ich warte?")
    ('en', 'de')
    >>> language_of("荷物はどこですか"), language_of("3 + 4 = 7")
    ('ja', 'und')
    """
    text = text[:_READ]
    if not text.isascii():
        for language, script in _SCRIPTS:
            if len(script.findall(text)) > _LEAST_SCRIPT * len(text):
                return language
    known = filter(None, map(_BY_WORD.get, _WORD.findall(text.lower())))
    hits = Counter(chain.from_iterable(known))
    ranked = hits.most_common(2)
    second = ranked[1][1] if len(ranked) == 2 else 0
    if not ranked or ranked[0][1] < _LEAST_HITS or ranked[0][1] < 1.5 * second:
        return UNKNOWN
    return ranked[0][0]
