"""Times `near_duplicates` beside datasketch's MinHash and MinHashLSH on the same documents.

    python -m tests.data.dedup.benchmark

5,000 documents of about 1.5 KB, half of them planted near-duplicates at Jaccard 0.5 to 1.0. Both
get texts and give, for each, the document that is kept. Both use 5-grams of words, the same 128
permutations, the same bands and rows, and verify every candidate exactly. datasketch is used at
its fastest: xxhash for its shingles, `update_batch`, the permutations shared between documents.
They take turns; the last line is one JSON object with the medians and their ratio.
"""

import json
import re
import statistics
import tempfile
import time

import numpy as np
import xxhash
from datasketch import MinHash, MinHashLSH

from llm_jax.data.dedup import NearDuplicates, near_duplicates
from llm_jax.data.dedup.minhash import permutations
from tests.data.dedup import synthetic

DOCUMENTS, ROUNDS = 5_000, 3
WORD = re.compile(r"\w+")


def datasketch_pairs(texts, settings, hashfunc=xxhash.xxh32_intdigest):
    """Returns the pairs that are candidates of datasketch and similar by their exact shingles."""
    drawn = np.stack(permutations(settings.num_permutations, settings.seed))
    index = MinHashLSH(num_perm=settings.num_permutations, params=settings.bands)
    sets, pairs = [], set()
    for number, text in enumerate(texts):
        words = WORD.findall(text.lower())
        n = settings.ngram
        own = {" ".join(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}
        sets.append(own)
        minhash = MinHash(
            settings.num_permutations, permutations=drawn, scheme="affine32", hashfunc=hashfunc
        )
        minhash.update_batch([shingle.encode() for shingle in own])
        for other in index.query(minhash):
            if synthetic.jaccard(sets[other], own) >= settings.threshold:
                pairs.add((other, number))
        index.insert(number, minhash, check_duplication=False)
    return pairs


def main():
    texts, _ = synthetic.families(0, DOCUMENTS, words=(200, 280), largest=3)
    settings = NearDuplicates()
    ours, theirs = [], []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as directory:
            start = time.perf_counter()
            found = near_duplicates(len(texts), texts.__getitem__, settings, directory)
            ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        reference = synthetic.kept(len(texts), datasketch_pairs(texts, settings))
        theirs.append(time.perf_counter() - start)
        print(f"llm_jax {ours[-1]:.2f} s, datasketch {theirs[-1]:.2f} s")
    result = {
        "documents": len(texts),
        "bytes": sum(map(len, texts)),
        "seconds": statistics.median(ours),
        "datasketch_seconds": statistics.median(theirs),
        "ratio": statistics.median(theirs) / statistics.median(ours),
        "removed": int((found != np.arange(len(texts))).sum()),
        "pairs_equal": bool(np.array_equal(found, reference)),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
