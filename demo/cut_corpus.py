"""Cuts demo/corpus.tsv.gz out of a file of DBpedia abstract sentences, one a line after a source name and a tab.

    python3 demo/cut_corpus.py sentences.tsv.gz > corpus.tsv; gzip -9n corpus.tsv

A passage has to stand on its own: it says what something is, begins with its subject rather than with a pronoun,
is 70 to 320 characters long, and was not cut at an abbreviation. The order is by hash, so it depends on nothing.
"""

import gzip
import hashlib
import re
import sys

SOURCE = "dbpedia_5k_docs"

DEPENDENT = re.compile(
    r"^(It|He|She|They|His|Her|Its|Their|Each|This|These|Those|That|There|However|In addition|Also|Although|But|And|"
    r"The (current|following|dates|show|film|album|series|song|book|company|town|city|building|station|school|name|"
    r"term|other|two|first|team|club|game|novel|structure|population|area|village|race|season|band|local|whole|"
    r"single|route)|As of|After|Before|Since|While|When|Later|Both|Some|Many|Most|One|Here|Another|Other|Such|Born|"
    r"Founded|Located|Based|At the|In the|During|On|Under|For|From|With|By|Then|Thus|Secondly|According)\b"
)
ABBREVIATION = re.compile(
    r"\b([A-Z]|St|Mr|Mrs|Dr|Jr|Sr|No|vs|Lt|Col|Gen|Maj|Capt|Sgt|Rev|Prof|Inc|Co|Ltd|Mt|Ft|c|ca|approx|U\.S)\.$"
)
STATEMENT = re.compile(
    r"\b(is|are|was|were) (an?|the|one|any|two|three|located|used|considered|found|formed|known|primarily|"
    r"sometimes|named)\b"
)


def passage(sentence):
    """The sentence as a passage, or None where it does not stand on its own."""
    # Paragraphs were joined without a space: the first one is the passage.
    text = re.split(r"(?<=[a-z0-9)])\.(?=[A-Z])", sentence)[0]
    text = re.sub(r"\s+", " ", text if text.endswith(".") else text + ".").strip()
    # Foreign scripts and markup; a backslash would be COPY's escape character.
    foreign = sum(ord(c) > 0x24F for c in text) + 5 * sum(c in "\\<>{}|" for c in text)
    whole = text.count("(") == text.count(")") and text.count('"') % 2 == 0
    stands = re.match(r"[A-Z0-9]", text) and not DEPENDENT.match(text) and STATEMENT.search(text)
    if 70 <= len(text) <= 320 and stands and whole and foreign <= 4 and not ABBREVIATION.search(text):
        return text
    return None


def main(path):
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = (line.rstrip("\n").split("\t", 1) for line in lines)
        passages = {passage(text) for source, text in rows if source == SOURCE} - {None}
    ordered = sorted(passages, key=lambda text: hashlib.sha256(text.encode()).digest())
    for number, text in enumerate(ordered, 1):
        print(number, text, sep="\t")


if __name__ == "__main__":
    main(sys.argv[1])
