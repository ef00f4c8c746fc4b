"""A small grammar in two languages: English sentences and their Spanish translation.

    sentence := subject verb [adverb] | subject transitive object [adverb]
    subject, object := article [adjective] noun

Articles and adjectives agree with the noun's gender ("la casa roja"), the adjective follows its noun ("the red house"),
and several English words have one Spanish one ("big", "large": "grande"), so the way back is not a function.
"""


def _table(text: str) -> dict[str, str]:
    """Pairs `english:spanish`; a blank within a translation is written as an underscore."""
    return dict(pair.replace("_", " ").split(":") for pair in text.split())


_NOUNS = _table(
    """
    house:casa,f door:puerta,f table:mesa,f window:ventana,f street:calle,f moon:luna,f flower:flor,f girl:niña,f
    woman:mujer,f doctor:doctora,f queen:reina,f sister:hermana,f city:ciudad,f night:noche,f letter:carta,f
    cow:vaca,f hen:gallina,f spoon:cuchara,f chair:silla,f song:canción,f
    dog:perro,m cat:gato,m boy:niño,m man:hombre,m teacher:maestro,m king:rey,m brother:hermano,m tree:árbol,m
    book:libro,m bread:pan,m river:río,m horse:caballo,m fish:pez,m garden:jardín,m train:tren,m friend:amigo,m
    pencil:lápiz,m shoe:zapato,m sun:sol,m duck:pato,m
    """
)
_ADJECTIVES = _table(
    """
    red:rojo white:blanco black:negro yellow:amarillo small:pequeño little:pequeño old:viejo new:nuevo beautiful:hermoso
    pretty:hermoso tall:alto clean:limpio slow:lento quick:rápido fast:rápido expensive:caro big:grande large:grande
    green:verde strong:fuerte happy:feliz sad:triste blue:azul young:joven poor:pobre gentle:suave
    """
)
_VERBS = _table(
    """
    sleeps:duerme runs:corre sings:canta dances:baila falls:cae returns:vuelve arrives:llega waits:espera begins:empieza
    starts:empieza grows:crece laughs:ríe
    """
)
_TRANSITIVE = _table(
    """
    sees:ve finds:encuentra hides:esconde paints:pinta buys:compra carries:lleva touches:toca wants:quiere loves:ama
    breaks:rompe cleans:limpia forgets:olvida
    """
)
_ADVERBS = _table(
    """
    slowly:despacio today:hoy tomorrow:mañana here:aquí there:allí always:siempre quickly:rápidamente
    rapidly:rápidamente often:a_menudo well:bien early:temprano late:tarde
    """
)
_ARTICLES = {"the": {"f": "la", "m": "el"}, "a": {"f": "una", "m": "un"}, "this": {"f": "esta", "m": "este"}}
"""By gender."""


def phrase(word: int) -> tuple[str, str]:
    """The sentence that a random 64-bit word stands for."""
    choose = _Chooser(word)
    source, target = _noun_phrase(choose)
    if choose.below(2):
        verb = choose.key(_TRANSITIVE)
        what, translated = _noun_phrase(choose)
        source, target = f"{source} {verb} {what}", f"{target} {_TRANSITIVE[verb]} {translated}"
    else:
        verb = choose.key(_VERBS)
        source, target = f"{source} {verb}", f"{target} {_VERBS[verb]}"
    if choose.below(2):
        adverb = choose.key(_ADVERBS)
        source, target = f"{source} {adverb}", f"{target} {_ADVERBS[adverb]}"
    return source, target


class _Chooser:
    """Digits of a random word in changing bases; the whole grammar needs less than 2^40 of its values."""

    def __init__(self, word: int) -> None:
        self._word = word

    def below(self, base: int) -> int:
        """A number from 0 to `base` - 1."""
        self._word, digit = divmod(self._word, base)
        return digit

    def key(self, table: dict[str, str]) -> str:
        """A key of the table."""
        return list(table)[self.below(len(table))]


def _noun_phrase(choose: _Chooser) -> tuple[str, str]:
    """Article, perhaps an adjective, noun; in Spanish with agreement and the adjective last."""
    noun = choose.key(_NOUNS)
    spanish, gender = _NOUNS[noun].split(",")
    article = list(_ARTICLES)[choose.below(len(_ARTICLES))]
    first = f"{_ARTICLES[article][gender]} {spanish}"
    if choose.below(3) == 0:
        return f"{_article(article, noun)} {noun}", first
    adjective = choose.key(_ADJECTIVES)
    return f"{_article(article, adjective)} {adjective} {noun}", f"{first} {_agree(_ADJECTIVES[adjective], gender)}"


def _article(article: str, following: str) -> str:
    """`an` before a vowel."""
    return "an" if article == "a" and following[0] in "aeiou" else article


def _agree(adjective: str, gender: str) -> str:
    """Adjectives in -o have a feminine form in -a; the others have one form."""
    return f"{adjective[:-1]}a" if gender == "f" and adjective.endswith("o") else adjective


def stems() -> tuple[set[str], set[str]]:
    """All words that carry meaning, of both languages."""
    tables = (_NOUNS, _ADJECTIVES, _VERBS, _TRANSITIVE, _ADVERBS)
    return {word for table in tables for word in table}, {one.split(",")[0] for t in tables for one in t.values()}
