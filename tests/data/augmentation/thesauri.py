"""A small WordNet and a small Cilin, written in the formats of their own files."""

# Part of speech, and the synsets in it: words, as the data files write them.
SYNSETS = {
    "noun": [["car", "auto", "motorcar"], ["car", "railway_car"], ["film", "movie"], ["dog"]],
    "verb": [["walk", "stroll"], ["film", "shoot"]],
    "adj": [["quick", "fast", "agile"], ["outback(a)", "remote"], ["brown", "dun"]],
    "adv": [["well", "easily"]],
}
NAMES = [["Brown", "John_Brown"]]
LICENCE = "  1 This software is provided to you by the LICENSOR.  \n  2 And so on.  \n"
KINDS = {"noun": "n", "verb": "v", "adj": "s", "adv": "r"}

CILIN = """Aa01A02= 人类 生人 全人类
Bn17A05# 公园 花园
Dk31A01= 电影 影片 片子
Ed03A01= 好看 漂亮 美丽 美
Ka01A01= 非常 十分 格外
Hf04A01= 爬山 登山
Cb02A01@ 山坡
"""


def write_wordnet(folder):
    for part, synsets in SYNSETS.items():
        offsets, data = {}, LICENCE.encode()
        for words in synsets + (NAMES if part == "noun" else []):
            offset = len(data)
            pairs = " ".join(f"{word} 0" for word in words)
            pointers = "001 @ 00000000 n 0000" if part == "noun" else "000"
            line = f"{offset:08} 03 {KINDS[part]} {len(words):02x} {pairs} {pointers} | a gloss  \n"
            data += line.encode()
            for word in words:
                offsets.setdefault(word.partition("(")[0].lower(), []).append(offset)
        (folder / f"data.{part}").write_bytes(data)
        lines = [
            f"{word} {KINDS[part]} {len(own)} 2 @ ~ {len(own)} 0 "
            + " ".join(f"{offset:08}" for offset in own)
            for word, own in sorted(offsets.items())
        ]
        (folder / f"index.{part}").write_text(LICENCE + "  \n".join(lines) + "  \n")
    return folder
