"""The rules as data: nothing here needs TensorFlow."""

import ast
import collections
import dataclasses
import pathlib
import re
import subprocess
import sys

import pytest

from keras_gradguard import rules
from keras_gradguard.records.finding import Finding
from keras_gradguard.records.kinds import KINDS
from keras_gradguard.report import catalogue
from keras_gradguard.rules import RULES

LONGEST_HEADLINE = 80
CAUSES = {
    "numpy": "GG101",
    "python_value": "GG108",
    "tensor_as_bool": "GG109",
    "iterated_tensor": "GG110",
    "state": "GG118",
    "rebuilt_constant": "GG119",
    "outside_tape": "GG120",
    "predict": "GG121",
    "custom_gradient": "GG122",
    "unused_layer": "GG301",
    "unused_weight": "GG305",
    "computed_once": "GG305",
    "output_without_loss": "GG302",
    "loss_ignores_prediction": "GG303",
    "discarded_output": "GG304",
    "loss_left_out": "GG306",
    "early_trace": "GG307",
    "untracked_variable": "GG308",
    "untracked_layer": "GG309",
    "dead_relu": "GG201",
    "sign": "GG202",
    "saturated_clip": "GG203",
    "saturated_activation": "GG204",
    "one_unit_softmax": "GG205",
    "zero_factor": "GG206",
    "loss_weight": "GG207",
    "zero_weights": "GG208",
    "constant_loss": "GG209",
    "unexplained_zero": "GG210",
    "zero_input": "GG211",
    "data": "GG221",
    "weight": "GG222",
    "unchosen": "GG227",
    "overflow": "GG225",
    "vanishing": "GG231",
    "exploding": "GG232",
    "jump": "GG241",
    "straight_through": "GG242",
    "step_function": "GG243",
    "wrong_gradient": "GG251",
    "identity": "GG252",
    "scores": "GG213",
    "probabilities": "GG214",
    "one_class": "GG215",
    "uncounted": "GG217",
    "labels_out_of_range": "GG216",
    "loss_not_scaled": "GG263",
    "scaled_twice": "GG264",
    "unscaled_twice": "GG265",
    "learning_rate": "GG311",
    "tiny_learning_rate": "GG311",
    "invalid_learning_rate": "GG317",
    "constraint": "GG312",
    "other_variables": "GG313",
    "given_to_others": "GG313",
    "left_out": "GG313",
    "never_applied": "GG313",
    "trainable_changed": "GG314",
    "frozen": "GG316",
    "no_derivative": "GG126",
    "flat_derivative": "GG212",
    "only_derivative": "GG310",
}
# What is wrong there stands in no line of the model or the loss.
WITHOUT_LINE = ("GG207", "GG221", "GG261", "GG262", "GG306", "GG316")
every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
every_example = pytest.mark.parametrize(
    "rule", [rule for rule in RULES if rule.bad], ids=lambda rule: rule.code
)


def disconnected(*chain, calls=()):
    """Makes the finding for a cut that is followed by some ops."""
    return Finding("disconnected", op=chain[0], chain=chain, calls=calls)


def whole(*chain):
    """Makes the finding for a cut by an op that returns integers."""
    return dataclasses.replace(disconnected(*chain), output_dtype="int64")


def sentences(text):
    """Counts sentences; dots inside backticks do not end one."""
    return len(re.findall(r"[.?!](?:\s|$)", re.sub(r"`[^`]*`", "", text)))


def test_codes_and_names_are_unique():
    """A code or a name leads to one rule only."""
    names = [rule.code for rule in RULES] + [rule.name for rule in RULES]
    assert [n for n, k in collections.Counter(names).items() if k > 1] == []


def test_every_rule_file_is_in_the_catalogue():
    """A new rule file that nobody listed would never be asked."""
    folder = rules.__path__[0]
    listed = {f"{rule.name.replace('-', '_')}.py" for rule in RULES}
    found = {path.name for path in pathlib.Path(folder).glob("[a-z]*.py")}
    assert listed == found


@every_rule
def test_fields_are_filled_in(rule):
    """Only the two rules that are no cause may lack an example."""
    empty = {
        field.name
        for field in dataclasses.fields(rule)
        if getattr(rule, field.name) in ("", (), None)
    }
    allowed = {"ops", "matches"}
    if rule.code in ("GG190", "GG900"):
        allowed |= {"bad", "good"}
    assert empty <= allowed


@every_rule
def test_code_name_and_kind_follow_the_house(rule):
    """The name says what is flagged, not what to do about it."""
    assert re.fullmatch(r"GG\d{3}", rule.code)
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", rule.name)
    assert not rule.name.startswith(("no-", "avoid-", "disallow-"))
    assert rule.kind in KINDS


@every_rule
def test_message_makes_sense_in_one_line(rule):
    """The first line is what ends up in a log, so it is not wrapped."""
    for op in rule.ops or ("Op",):
        words = dict.fromkeys(("layer", "loss", "function", "source"), "it")
        message = rule.message.format(op=op, **words)
        headline = f"warning[{rule.code}] {rule.name}: {message}"
        assert len(headline) <= LONGEST_HEADLINE, headline
        assert not message.endswith(".")
        assert message[0] in "`KNPT" or message[0].islower()


@every_rule
def test_words_are_few_and_ascii(rule):
    """At most two sentences why; a remedy is an imperative clause."""
    assert 1 <= sentences(rule.why) <= 2
    assert rule.why.endswith(".")
    assert rule.help
    assert not any(item.text.endswith(".") for item in rule.help)
    assert catalogue.rule_page(rule).isascii()
    assert "!" not in rule.message + rule.why


@every_rule
def test_op_types_are_listed_once(rule):
    """Where kind and op type decide, no other rule may claim them."""
    rivals = [r for r in RULES if r is not rule and r.kind == rule.kind]
    assert {op for r in rivals for op in _sole(r)}.isdisjoint(_sole(rule))
    assert len(set(rule.ops)) == len(rule.ops)


def _sole(rule):
    return rule.ops if rule.matches is None else ()


@every_example
def test_example_marks_one_line(rule):
    """The bad module marks the guilty line, if there is one."""
    mark = f"  # [{rule.name}]"
    marked = [line for line in rule.bad.splitlines() if line.endswith(mark)]
    assert len(marked) == (rule.code not in WITHOUT_LINE)
    assert rule.bad.count("# [") == len(marked)
    assert "# [" not in rule.good
    assert rule.good != rule.bad


@every_example
def test_example_defines_what_the_tests_run(rule):
    """Both modules compile and define `loss` or `model`, and the same one."""
    wanted = []
    for source in (rule.bad, rule.good):
        assert max(map(len, source.splitlines())) <= 80
        tree = ast.parse(source)
        names = {node.name for node in tree.body if hasattr(node, "name")}
        marks = re.findall(r"^(?:EPOCHS|CHECK) = \w+$", source, re.MULTILINE)
        wanted.append(names & {"loss", "model", "inputs", "targets"} | {*marks})
    assert wanted[0] == wanted[1]
    assert len(wanted[0] & {"loss", "model"}) == 1


@pytest.mark.parametrize("query", ["GG104", "gg104", "argmax", " ArgMax "])
def test_find_takes_code_or_name(query):
    """Case and blanks do not matter."""
    assert rules.find(query).code == "GG104"


def test_find_says_what_it_expected():
    """An unknown name brings the nearest known ones and how to list all."""
    with pytest.raises(ValueError, match="'argmx'.*GG104 argmax.* rules`"):
        rules.find("argmx")


def test_find_lists_the_codes_where_nothing_is_near():
    """A query that is like no name brings every code."""
    with pytest.raises(ValueError) as caught:
        rules.find("zzz")
    assert all(rule.code in str(caught.value) for rule in RULES)


@every_rule
def test_op_leads_to_its_rule(rule):
    """Each op of a rule without further conditions is explained by it."""
    for op in _sole(rule):
        finding = Finding(rule.kind, op=op, chain=(op, "Cast", "Mean"))
        assert rules.match(finding) is rule


@pytest.mark.parametrize("cause", CAUSES)
def test_cause_leads_to_its_rule(cause):
    """A cause wins over whatever the op would say."""
    kind = rules.find(CAUSES[cause]).kind
    finding = Finding(kind, cause=cause, op="Cast", chain=("Cast", "OneHot"))
    assert rules.match(finding).code == CAUSES[cause]


@pytest.mark.parametrize(
    ("finding", "code"),
    [
        (disconnected("Cast", "Mean"), "GG103"),
        (disconnected("Cast", "DenseBincount"), "GG114"),
        (disconnected("Greater", "Cast", "DenseBincount"), "GG114"),
        (disconnected("NotEqual", "Cast", calls=("count_nonzero",)), "GG114"),
        (
            disconnected("Cast", "ScatterNd", calls=("confusion_matrix",)),
            "GG114",
        ),
        (disconnected("ArgMax", "DenseBincount"), "GG104"),
        (disconnected("Cast", "OneHot", "Sub"), "GG112"),
        (disconnected("ArgMax", "OneHot", "Sub"), "GG104"),
        (disconnected("Multinomial", "StridedSlice", "OneHot"), "GG115"),
        (disconnected("Round", "Cast", "OneHot"), "GG112"),
        (disconnected("Cast", "GatherV2"), "GG123"),
        (disconnected("Cast", "SelectV2", "GatherV2"), "GG123"),
        (disconnected("Floor", "Cast", "GatherNd"), "GG123"),
        (disconnected("Cast", "ResourceGather"), "GG123"),
        (disconnected("Greater", "Cast", "GatherV2"), "GG102"),
        (disconnected("ArgMax", "GatherV2"), "GG104"),
        (disconnected("MaxPoolWithArgmax", "Cast"), "GG104"),
        (disconnected("Round", "GatherV2"), "GG105"),
        (disconnected("Greater", "Where", "GatherNd"), "GG113"),
        (disconnected("Greater", "Reshape", "Where", "Squeeze"), "GG113"),
        (disconnected("Greater", "Cast", "Mul", "Where"), "GG102"),
        (disconnected("Where", "Cast"), "GG113"),
        (disconnected("AsString", "StringToNumber"), "GG117"),
        (disconnected("Cast", "AsString", "StringToNumber"), "GG117"),
        (disconnected("IdentityN", "Sub"), "GG122"),
        (disconnected("Bitcast", "BitwiseAnd", "Bitcast"), "GG190"),
        (whole("Bitcast", "BitwiseAnd", "Bitcast"), "GG190"),
        (whole("CTCGreedyDecoder", "SparseToDense", "Cast"), "GG124"),
        (whole("ArgMax", "Cast"), "GG104"),
        (Finding("no_gradient_registered", op="ResizeArea"), "GG107"),
        (Finding("no_gradient_registered", op="ArgMax"), "GG107"),
        (Finding("untraceable"), "GG190"),
        (Finding("zero", op="Greater"), "GG210"),
        (Finding("zero", op="Softmax", cause="one_unit_softmax"), "GG205"),
        (Finding("nonfinite", op="Log", cause="data"), "GG221"),
        (Finding("nonfinite", op="Log", cause="unchosen"), "GG227"),
        (Finding("nonfinite", op="Log", cause="origin"), "GG223"),
        (Finding("nonfinite", op="Pow", cause="origin"), "GG228"),
        (Finding("nonfinite", op="Pow", cause="overflow"), "GG225"),
        (Finding("nonfinite", op="RealDiv", cause="overflow"), "GG225"),
        (Finding("nonfinite", op="Ndtri", cause="origin"), "GG230"),
        (Finding("nonfinite", cause="unexplained"), "GG230"),
        (Finding("not_applied", cause="unexplained"), "GG315"),
        (Finding("underflow", op="Greater"), "GG190"),
    ],
    ids=lambda value: getattr(value, "op", value),
)
def test_the_more_special_rule_comes_first(finding, code):
    """What follows the cut can say more than the cut's own op type."""
    assert rules.match(finding).code == code


def test_guard_fault_is_never_matched():
    """GG900 is about the tool; no finding leads to it."""
    assert not any(
        rules.find("GG900").explains(Finding(kind)) for kind in KINDS
    )


def test_tables_list_every_rule_by_code():
    """Both tables are sorted and complete."""
    codes = sorted(rule.code for rule in RULES)
    rows = catalogue.markdown_table().splitlines()[2:]
    anchors = [f'<a id="{code.lower()}"></a>{code}' for code in codes]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == anchors
    assert [
        row.split()[0] for row in catalogue.rule_table().splitlines()
    ] == codes
    assert all(row.count("|") == 5 for row in rows)


def test_a_table_lists_the_codes_of_one_kind():
    """The page of rules has a table for each hundred."""
    wanted = [rule.code for rule in RULES if rule.code.startswith("GG3")]
    rows = catalogue.markdown_table("GG3").splitlines()[2:]
    assert len(wanted) == len(rows) > 0
    assert all("</a>GG3" in row for row in rows)


@every_rule
def test_no_template_is_left_in_the_tables(rule):
    """Each row reads as a sentence: code is a real name, or there is none."""
    what = catalogue.summary(rule)
    assert not re.search(r"[{}]|\.\.\.|`(an?|the|this) |``", what), what
    # A general noun is no code, so nothing in backticks is made up.
    for name in re.findall(r"`([^`]*)`", what):
        assert name in rule.message or name in rule.ops


@every_rule
def test_page_says_all_that_the_rule_knows(rule):
    """`explain` drops no field."""
    page = " ".join(catalogue.rule_page(rule).split())
    texts = [rule.code, rule.name, rule.kind, rule.why, *rule.ops]
    texts += [rule.bad, rule.good, *(item.text for item in rule.help)]
    assert [t for t in texts if " ".join(t.split()) not in page] == []


@pytest.mark.parametrize(
    ("module", "is_light"),
    [
        ("keras_gradguard.rules", True),
        ("keras_gradguard.records.text", True),
        ("keras_gradguard.__main__", True),
        ("tensorflow", False),
    ],
)
def test_import_is_light(module, is_light):
    """No TensorFlow behind the rules; the last case shows it would tell."""
    code = (
        f"import sys, {module}; sys.exit('tensorflow' in sys.modules or "
        "'keras' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert (done.returncode == 0) is is_light
