"""Wordings: whatever the names are made of, the sentences stay whole; every added wording is checked."""
import re

import pytest
from hypothesis import given, settings, strategies as st

from casm.facts import CasmError, Fact, canonical
from casm.wordings import DIRECT, FORMS, KINDS, SPLITS, check_wording, paraphrases, phrases, wordings

RELATIONS = (
    "chief engineer", "capital of", "plays for", "was founded in", "is the capital of", "born in", "has as its patron",
    "directed by", "works_at", "the_mayor", "mother's name", "official languages", "CEO", "place_of_birth", "member of",
    "has won", "married", "led", "located in", "has capital", "were built by", "will move to", "speaks", "is", "of", "has",
    "as", "the", "{r}", "%d%%", "is {v} of")
VALUE = "Qz{v}%s{0}Zq"  # stands in no name
odd = st.one_of(
    st.text(min_size=1, max_size=30),
    st.text("abs {}%\"'.?!:_éßİıŁ", min_size=1, max_size=12),
    st.sampled_from(["Elm Docks", "the Hague", "iPhone", "Who Am I?", "Veldris Co.", "{s}", "{}", "%s", '"Quoted"', "O'Neill's", "\\1", "ß"]),
).filter(lambda s: canonical(s) and not re.search("[\ud800-\udfff]", s))
date = st.sampled_from(["2018", "2018-06", "2018-06-01"])


def everything(fact, **more):
    return [(kind, w) for split in SPLITS for kind in KINDS for w in wordings(fact, split, "Ox{s}Xo", (kind,), **more)]


@settings(max_examples=150, deadline=None)
@given(odd, st.sampled_from(RELATIONS), date)
def test_odd_subjects(subject, relation, when):
    "Subject, date and value are where they belong, and nothing in a name acts as a place to fill"
    for kind, w in everything(Fact(subject, relation, VALUE, when)):
        if kind == "inverse": assert w.reply == " ".join(subject.split())
        else: assert canonical(subject) in canonical(w.prompt)
        assert when in w.prompt or w.form == "q6"
        assert (VALUE in w.prompt or "Ox{s}Xo" in w.prompt) == (kind in ("yes", "inverse"))
        if kind in (*DIRECT, "middle"): assert w.reply.count(VALUE) == 1
        for text in w[:2]:
            assert text == text.strip() and "\n" not in text
            assert "  " not in text
        if ".." not in subject: assert not w.prompt.endswith("..") and not w.reply.endswith("..")


@settings(max_examples=100, deadline=None)
@given(odd, odd)
def test_odd_relations(subject, relation):
    for _, w in everything(Fact(subject, relation, VALUE, "2018")):
        assert w.prompt and "Qz{v}%s{0}Zq" in w.prompt + w.reply or w.reply in ("Yes", "No", " ".join(subject.split()))
    assert all(v.strip() for v in phrases(subject, relation).values())


@settings(max_examples=150, deadline=None)
@given(odd.filter(lambda v: len(canonical(v)) > 1), st.sampled_from(RELATIONS))
def test_odd_values(value, relation):
    "A value of whatever make is the reply, as it is written"
    fact = Fact("Seabridge Construction", relation, value, "2018")
    said = " ".join(value.split())
    for split in SPLITS:
        for w in wordings(fact, split): assert w.reply == said
        for w in wordings(fact, split, kinds=("middle", "yes", "inverse")): assert said in w.prompt + w.reply


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(RELATIONS[:20]), st.sampled_from(["Elm Docks", "Veldris Co.", "the Hague", "Ida Holt"]), date)
def test_no_form_passes_as_new(relation, subject, when):
    "A held-out form with another date, or with a greeting, is never taught; a trained one is no news"
    fact = Fact(subject, relation, "Kaelen Orr", "2018")
    for split in SPLITS:
        for w in wordings(fact, split, date=when):
            for prompt in (w.prompt, w.prompt.upper(), f"Hi. {w.prompt} Thanks!"):
                problem = check_wording(prompt, "Kaelen Orr", fact)
                if split != "train": assert "never trained" in problem
                elif "Hi." not in prompt: assert "already" in problem or "never trained" in problem


def test_one_third_is_held_out():
    for kinds in (DIRECT, *((k,) for k in KINDS[len(DIRECT):])):
        by = {s: sum(f.split == s and f.kind in kinds for f in FORMS) for s in SPLITS}
        assert by["choose"] == by["final"] and by["train"] == 2 * (by["choose"] + by["final"])


@given(st.lists(st.text("Kaelen Or\n?.-Seabridge Construction 2018 Who", max_size=60), min_size=3, max_size=3))
def test_paraphrases_pass_the_check(texts):
    "Whatever a model says, what is kept asks about the subject and does not give the value away"
    fact = Fact("Seabridge", "chief engineer", "Kaelen Orr", "2018")
    for w in paraphrases(lambda asked: texts, fact, 5):
        assert w.prompt.endswith("?") and check_wording(w.prompt, w.reply, fact) is None and w.reply == "Kaelen Orr"


@pytest.mark.parametrize("when", ["2017-12-31", "2020", "2021", "aug_sep", "2018-13"])
def test_no_wording_outside_the_fact(when):
    with pytest.raises(CasmError, match=when): wordings(Fact("a", "b", "c", "2018", "2020"), date=when)
