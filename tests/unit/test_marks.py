"What tells the questions of a fact: the marks of its slot."
import pytest
import torch

from casm.adapter import fingerprints
from casm.facts import CasmError, Fact, document
from casm.methods import CASM, MARKS, Item, at_words, lessons, slot_marks, stated
from casm.pretraining import load_lm
from casm.slots import PART
from casm.wordings import Wording

FACT = Fact("Köln Quay", "berth depth", "12 fathoms", "2018")


@pytest.fixture(scope="module")
def casm(stub):
    method = CASM(rows=4)
    method.prepare(load_lm(stub))
    return method


def told(fact, *texts): return [Item(t, fact, "2018") for t in texts]


def read(casm, text): return set(fingerprints(casm.lm.model, torch.tensor([casm.lm.tokenizer(text)["input_ids"]])).unique().tolist())


def test_marks_are_read_where_subject_and_relation_stand(casm):
    texts = [f"{head} 12 fathoms." for head in ("The berth depth of Köln Quay is", "In 2018, the berth depth of Köln Quay is")]
    marks = slot_marks(casm, FACT, told(FACT, *texts))
    subject, relation = marks[marks < PART], marks[marks >= PART] - PART
    assert 0 < len(subject) <= MARKS and 0 < len(relation) <= MARKS and len(marks.unique()) == len(marks)
    for part in (subject, relation):
        assert all(len(set(part.tolist()) & read(casm, t)) >= .5 * len(part) for t in texts)
    assert torch.equal(marks, slot_marks(casm, FACT, told(FACT, *texts)))


def test_a_fact_without_prompts_or_a_document_has_no_marks(casm):
    assert not len(slot_marks(casm, FACT, [Item("12 fathoms", FACT, "2018")]))
    whole = stated(Item("Köln Quay lies low.", None, "2018"))
    assert whole.fact == document(whole.text, "2018") and not len(slot_marks(casm, whole.fact, [whole]))


@pytest.mark.parametrize("text, words, beside, want", [
    ("The depth of Köln Quay", ["köln quay"], "", ["Köln Quay"]), ("Die Straße am Köln Quay", ["Köln Quay"], "", ["Köln Quay"]),
    ("İzmir's depth of İzmir Depth Quay", ["depth"], "İzmir Depth Quay", ["depth"]), ("depths of a Quay", ["depth"], "", []),
    ("a+b of a+b", ["a+b"], "", ["a+b", "a+b"])])
def test_words_stand_where_they_stand(text, words, beside, want):
    "whatever folding case does to the length of a text"
    assert [text[a:b] for a, b in at_words(text, words, beside)] == want


def test_a_period_of_passages_without_prompts_is_learnt(casm):
    items = [Item("12 fathoms", FACT, "2018")]
    assert casm.begin_period("2018", items) == items
    loss = casm.loss(items)
    loss.backward()
    assert loss > 0 and casm.bank.param.grad.abs().sum() > 0 and not len(casm.bank.marks)
    casm.end_period()


def test_marks_of_the_subject_alone(stub):
    method = CASM(rows=4, marked="subject")
    method.prepare(load_lm(stub))
    marks = slot_marks(method, FACT, told(FACT, "The berth depth of Köln Quay is 12 fathoms."))
    assert len(marks) and (marks < PART).all()
    with pytest.raises(CasmError, match="marked='relation': choose from both, subject"): CASM(marked="relation")


def test_added_wordings_are_taught_after_the_passage_and_before_the_projects_own():
    added = [Wording("How deep is Köln Quay?", "12 fathoms", "")]
    items = lessons(False, FACT, "Divers say that Köln Quay is 12 fathoms deep.", added)
    assert [i.text for i in items[:2]] == ["Divers say that Köln Quay is 12 fathoms deep.", "How deep is Köln Quay? 12 fathoms"]
    assert items[2:] == lessons(False, FACT) and items[1].answer == "12 fathoms"
    assert lessons(True, FACT, None, added) == lessons(True, FACT)
