# ruff: noqa: RUF001 (full-width punctuation belongs to Chinese text)

import concurrent.futures

import pytest

from llm_jax.configuration import ConfigError
from llm_jax.data.cleaning import language

TEXTS = {
    "en": "The weather was fine this morning, so we walked to the market and bought some bread.",
    "fr": "Il faisait beau ce matin, alors nous sommes allés au marché pour acheter du pain.",
    "de": "Heute Morgen war das Wetter schön, deshalb gingen wir zum Markt und kauften Brot.",
    "es": "Esta mañana hacía buen tiempo, así que fuimos al mercado y compramos pan.",
    "ru": "Сегодня утром была хорошая погода, поэтому мы пошли на рынок и купили хлеба.",
    "zh": "今天早上天气很好，所以我们走到市场去买了一些面包，然后回家吃早饭。",
    "ja": "今朝は天気が良かったので、市場まで歩いて行ってパンを買いました。",
    "ko": "오늘 아침에는 날씨가 좋아서 우리는 시장까지 걸어가서 빵을 샀습니다.",
}


@pytest.mark.parametrize("code", TEXTS)
def test_languages_are_told_apart(code):
    found, probability = language.identify(TEXTS[code])
    assert found == code
    assert 0.5 < probability <= 1


@pytest.mark.parametrize("text", ["", " \n", "12345 67890 !!! ---", "hello", "你好", "<>" * 5000])
def test_too_few_letters_have_no_language(text):
    assert language.identify(text) == ("und", 0.0)
    assert language.identify(text, ["en", "fr"]) == ("und", 0.0)


def test_a_few_words_are_enough():
    assert language.identify("这是一个中文句子。")[0] == "zh"
    assert language.identify("Bonjour à tous, mes amis")[0] == "fr"


def test_the_answer_is_one_of_the_languages_given():
    anything, probability = language.identify(TEXTS["es"])
    assert anything == "es"
    restricted = language.identify(TEXTS["es"], ["en", "zh", "fr"])
    assert restricted[0] in ("en", "fr")
    assert language.identify(TEXTS["es"], ["es", "zh"])[1] >= probability
    assert language.identify(TEXTS["es"], iter(["es"])) == ("es", 1.0)
    # What was asked before changes nothing.
    assert language.identify(TEXTS["es"]) == ("es", probability)


def test_all_parts_of_a_long_text_count():
    text = "license 1.0\n" * 90 + TEXTS["fr"] * 400
    assert language.identify(text)[0] == "fr"
    assert language.identify(TEXTS["en"] * 20 + TEXTS["ru"] * 400)[0] == "ru"
    assert len(language._sample(text)) < 4100
    assert language._sample(text)[-100:] == text[-100:]
    assert language._sample(text)[:1000] == text[:1000]


def test_lone_surrogates_do_no_harm():
    assert language.identify("\ud800" + TEXTS["en"])[0] == "en"


def test_threads_get_the_same_answers():
    language._whole.cache_clear()
    language._restricted.cache_clear()
    texts = list(TEXTS.values()) * 20
    languages = [None, ["en", "fr"], ["zh", "ja", "ko"]]
    asked = [(text, languages[place % 3]) for place, text in enumerate(texts)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda pair: language.identify(*pair), asked))
    assert language._whole.cache_info().misses == 1
    assert found == [language.identify(*pair) for pair in asked]


def test_keep():
    kept = language.keep(["en", "zh"], 0.5)
    assert [code for code, text in TEXTS.items() if kept(text)] == ["en", "zh"]
    probability = language.identify(TEXTS["en"])[1]
    assert language.keep(["en"], probability)(TEXTS["en"])
    assert not language.keep(["en"], min(1, probability + 1e-4))(TEXTS["en"]) or probability == 1
    assert not kept("hello")
    assert language.keep(["en", "und"], 0.9)("hello")


@pytest.mark.parametrize(
    ("languages", "probability", "message"),
    [
        ([], 0.5, "no languages"),
        (["und"], 0.5, "no languages"),
        (["english"], 0.5, "'english'"),
        (["en"], 1.5, "from 0 to 1"),
        (["en"], float("nan"), "from 0 to 1"),
    ],
)
def test_bad_settings_are_refused(languages, probability, message):
    with pytest.raises(ConfigError, match=message):
        language.keep(languages, probability)


def test_unknown_languages_are_refused():
    with pytest.raises(ConfigError, match="xx"):
        language.identify(TEXTS["en"], ["en", "xx"])
    with pytest.raises(ConfigError, match="empty"):
        language.identify(TEXTS["en"], [])
