"Invariants of the vocabulary: normal forms are normal, prompts are prefixes, time is read only where it is written."
import sys, unicodedata
import pytest
from hypothesis import given, strategies as st
from casm.facts import BACKGROUND_FORMS, PROBE_FORM, UNSEEN_FORM, UPDATE_FORMS, CasmError, Fact, TimeOrder
from casm.facts import answers_match, canonical, contains, date_key, dated, find_time, normalize_answer, question, render, token_f1, value_key

text = st.text(max_size=30)
word = st.text(st.characters(codec="utf-8", categories=("L", "P", "Zs", "N")), min_size=1, max_size=20).filter(canonical)
dates = st.dates().map(str)

@given(text)
def test_normal_forms_are_idempotent(t):
    assert canonical(canonical(t)) == canonical(t)
    assert normalize_answer(normalize_answer(t)) == normalize_answer(t)
    assert bool(normalize_answer(t)) == bool(canonical(t))

def test_canonical_is_idempotent_on_every_code_point():
    for i in range(sys.maxunicode + 1):
        once = canonical(chr(i))
        assert canonical(once) == once, hex(i)

@given(text)
def test_spelling_does_not_matter(t):
    # upper() is left out: it is not the inverse of casefold for every letter
    assert canonical(f"  {unicodedata.normalize('NFD', t)} ") == canonical(unicodedata.normalize("NFC", t)) == canonical(t.replace(" ", "_\t"))

number_words = st.lists(st.sampled_from(["million", "thousand", "june", "st", "mar", "km", "/h", "fathoms", "$", "€", "%", "°c", "0", "1", "5", "12", "2018", "000", ",", ".",
                                         "-", "/", " ", "  ", "'", "−", "m", "²", "_", "zero", "one", "the "]), max_size=8).map("".join)

@given(st.one_of(text, number_words))
def test_value_keys_are_idempotent_and_never_finer_than_answers(t):
    assert value_key(value_key(t)) == value_key(t) == value_key(normalize_answer(t))
    assert bool(value_key(t)) == bool(canonical(t))

@given(st.decimals(min_value=-10**9, max_value=10**9, places=3), st.sampled_from([("m", "km", 3), ("m", "cm", -2), ("kg", "t", 3), ("w", "MW", 6), ("m", "m", 0)]))
def test_units_convert_exactly(x, units):
    small, big, power = units
    assert value_key(f"{x.scaleb(power):f} {small}") == value_key(f"{x:,f}{big}") == value_key(f"{x:f} {big}")
    assert value_key(f"{x:f} {big}") != value_key(f"{x + 1:f} {big}")

@given(dates)
def test_a_date_is_one_value_however_it_is_written(d):
    y, m, day = d.split("-")
    month = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"][int(m) - 1]
    for form in (f"{int(day)} {month} {y}", f"{month} {int(day)}, {y}", f"{int(day)}th of {month[:3]} {y}", f"{int(day)}.{int(m)}.{y}", f"{y}/{m}/{day}"): assert value_key(form) == d
    assert len({value_key(v) for v in (d, d[:7], d[:4])}) == 3 and value_key(f"{month} {y}") == d[:7]
    assert (value_key(f"{day}/{m}/{y}") == d) == (int(day) > 12 or day == m)

@given(text, text)
def test_match_is_symmetric_and_bounds_f1(a, b):
    if canonical(b): assert answers_match(a, b) == answers_match(b, a)
    assert 0 <= token_f1(a, b) <= 1 and token_f1(a, b) == pytest.approx(token_f1(b, a))
    if answers_match(a, b): assert token_f1(a, b) == 1

@pytest.mark.parametrize("answer,gold", [("No", "unknown"), ("5", "2015"), ("Low", "Yellow"), ("8m", "18m"), ("Zone A", "Zone AE"),
                                         ("not Maren Holt but Dex", "Maren Holt"), ("", "x"), ("x", ""), ("  ", " ")])
def test_no_match_by_substring(answer, gold): assert not answers_match(answer, gold)

@given(word, word, word, dates)
def test_a_prompt_is_its_sentence_up_to_the_value(subject, relation, value, date):
    for f in BACKGROUND_FORMS + (UNSEEN_FORM,):
        assert render(f, subject, relation, date, value) == f"{render(f, subject, relation, date)} {value}."
    for f in (PROBE_FORM, UNSEEN_FORM):
        assert question(f, subject, relation, date) == f"[{date}] {question(f, subject, relation)}"

def test_forms_are_held_out():
    assert PROBE_FORM not in UPDATE_FORMS and UNSEEN_FORM not in BACKGROUND_FORMS
    assert len(UPDATE_FORMS) == 5 and len(set(BACKGROUND_FORMS)) == len(BACKGROUND_FORMS)

@pytest.mark.parametrize("form", BACKGROUND_FORMS + (UNSEEN_FORM,))
def test_every_form_says_its_date_where_find_time_looks(form):
    for t in ("2018", "2018-06", "2018-06-01"):
        asked = question(form, "Coral Reef Buoy", "signal_pattern", t)
        assert find_time(asked) == t and dated(asked, t) == asked and dated(asked, None) == asked

@given(text)
def test_found_times_are_dates_of_the_text(t):
    found = find_time(t)
    assert found is None or (found in t and date_key(found) is not None)

@given(st.dates(), st.dates(), st.dates())
def test_intervals_are_half_open(a, b, t):
    if a < b:
        Fact("s", "r", "v", str(a), str(b))
        assert contains(str(a), str(b), str(t)) == (a <= t < b)
    else:
        with pytest.raises(CasmError): Fact("s", "r", "v", str(a), str(b))
    assert contains(str(a), None, str(t)) == (a <= t)

@given(st.lists(st.sampled_from(["aug_sep", "sep_oct", "oct_nov", "nov_dec"]), unique=True, min_size=1))
def test_names_sort_as_declared(names): assert sorted(sorted(names), key=TimeOrder(names).key) == names

@given(text)
def test_a_time_is_placed_or_refused(t):
    try: assert isinstance(TimeOrder().key(t), int)
    except CasmError as e: assert repr(t) in str(e)
