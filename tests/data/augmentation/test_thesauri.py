import pytest

from llm_jax.configuration import ConfigError
from llm_jax.data.augmentation.text import Cilin, WordNet
from tests.data.augmentation.thesauri import CILIN, write_wordnet


def test_wordnet_joins_the_synsets_of_all_parts_of_speech(tmp_path):
    wordnet = WordNet(write_wordnet(tmp_path))
    assert wordnet.synonyms("car") == ("auto", "motorcar", "railway car")
    assert wordnet.synonyms("film") == ("movie", "shoot")
    assert wordnet.synonyms("remote") == ("outback",)
    assert wordnet.synonyms("outback") == ("remote",)
    # "Brown" is a name, another word.
    assert wordnet.synonyms("brown") == ("dun",)
    assert wordnet.synonyms("dog") == ()
    assert wordnet.synonyms("unheard") == ()
    assert "railway car" in wordnet
    assert "unheard" not in wordnet
    assert "This" not in wordnet


def test_wordnet_may_lack_parts(tmp_path):
    write_wordnet(tmp_path)
    for name in ("index.noun", "data.noun", "index.adj"):
        (tmp_path / name).unlink()
    wordnet = WordNet(tmp_path)
    assert wordnet.synonyms("film") == ("shoot",)
    assert "quick" not in wordnet


def test_a_damaged_wordnet_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no WordNet: give the folder with index.noun"):
        WordNet(tmp_path)
    write_wordnet(tmp_path)
    index, data = tmp_path / "index.noun", tmp_path / "data.noun"
    whole = index.read_text()
    for line in ("cat", "cat n one 0 1 0 00000010", "cat n 2 0 1 0 00000010", "cat n 0 0 0 0"):
        index.write_text(whole + line + "\n")
        count = len(whole.splitlines()) + 1
        with pytest.raises(ConfigError, match=f"index.noun, line {count} is none of WordNet's"):
            WordNet(tmp_path)
    index.write_text(whole)
    data.write_bytes(data.read_bytes()[1:])
    with pytest.raises(ConfigError, match=r"data.noun has no synset at byte \d+"):
        WordNet(tmp_path).synonyms("car")
    data.unlink()
    with pytest.raises(ConfigError, match="index.noun without data.noun"):
        WordNet(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
def test_cilin_joins_groups_of_equal_meaning(tmp_path, encoding):
    path = tmp_path / "cilin.txt"
    path.write_text(CILIN + "Aa01B01= 生人 陌生人\r\n", encoding=encoding)
    cilin = Cilin(path)
    assert cilin.synonyms("生人") == tuple(sorted(["人类", "全人类", "陌生人"]))
    assert cilin.synonyms("漂亮") == tuple(sorted(["好看", "美丽"]))
    # Related words, particles, words alone and single characters are not replaced.
    for word in ("公园", "非常", "山坡", "美", "没有"):
        assert cilin.synonyms(word) == ()
    # But they are words.
    assert all(word in cilin for word in ("公园", "非常", "山坡"))
    assert "美" not in cilin


def test_a_file_that_is_no_cilin_is_refused(tmp_path):
    path = tmp_path / "cilin.txt"
    with pytest.raises(ConfigError, match="cannot be read"):
        Cilin(path)
    for line in ("公园 花园", "Aa01A01=", "Aa01A01! 人 士", "17455:Ka01A01= 非常"):
        path.write_text(CILIN + "\n" + line)
        with pytest.raises(ConfigError, match="line 9 is none of Cilin's"):
            Cilin(path)
    path.write_bytes(b"\xff\xff\xff")
    with pytest.raises(ConfigError, match="neither UTF-8 nor GB 18030"):
        Cilin(path)
