"""The command line, called as a function and once as a program."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from keras_gradguard.__main__ import main
from keras_gradguard.records.reading import read_report
from keras_gradguard.records.report import Report
from keras_gradguard.report import catalogue
from keras_gradguard.rules import RULES, find
from tests.fitting import X, classifier, fit


def rounded(y_true, y_pred):
    """Cuts everything."""
    return tf.reduce_mean(tf.square(y_true - tf.round(y_pred)))


@pytest.mark.parametrize("query", ["GG104", "gg104", "argmax", "ArgMax"])
def test_explain_takes_code_or_name(query, capsys):
    """The page goes to stdout and nothing to stderr."""
    assert main(["explain", query]) == 0
    said = capsys.readouterr()
    assert said.out == catalogue.rule_page(find("GG104")) + "\n"
    assert said.err == ""


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_explain_has_a_page_for_each_rule(rule, capsys):
    """The page starts with what the message shows."""
    assert main(["explain", rule.code]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f"{rule.code} {rule.name} ({rule.kind})"


def test_explain_shows_the_whole_page(capsys):
    """One page in full."""
    main(["explain", "GG303"])
    assert (
        capsys.readouterr().out
        == """\
GG303 loss-ignores-prediction (unused)

what: the loss does not use the prediction
why:  No op connects the prediction to the loss, so the loss is the same
      whatever the model predicts.

bad:
    import tensorflow as tf


    def loss(y_true, y_pred):
        return tf.reduce_mean(tf.square(y_true))  # [loss-ignores-prediction]

good:
    import tensorflow as tf


    def loss(y_true, y_pred):
        return tf.reduce_mean(tf.square(y_true - y_pred))

help: compare the prediction with the labels
    - return ops.mean(ops.square(y_true))
    + return ops.mean(ops.square(y_true - y_pred))
"""
    )


def test_unknown_rule_is_an_error(capsys):
    """The error names what was given and goes to stderr."""
    assert main(["explain", "argmx"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("keras-gradguard: no rule ")
    assert "'argmx'" in said.err
    assert "GG104 argmax" in said.err


def test_rules_lists_all(capsys):
    """One line for each rule."""
    assert main(["rules"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(
        rule.code for rule in RULES
    )


def test_report_prints_a_stored_report(tmp_path, capsys):
    """What was written as JSON reads as the report itself did."""
    callback, _ = fit(classifier(rounded))
    poisoned, _ = fit(classifier("mse"), x=X * np.float32("nan"))
    several, _ = fit(classifier("mse", kernel_regularizer="l2"))
    assert several.report.losses
    assert several.report.optimizers
    capsys.readouterr()
    for report in (callback.report, poisoned.report, several.report):
        file = tmp_path / "report.json"
        file.write_text(report.to_json(indent=2))
        assert main(["report", str(file)]) == (0 if report.ok else 1)
        said = capsys.readouterr()
        assert said.out == f"{report}\n"
        assert said.err == ""
        assert read_report(file).to_json() == report.to_json()


def test_report_of_what_was_not_checked(tmp_path, capsys):
    """It is printed as it is, and the exit code is that of no success."""
    file = tmp_path / "report.json"
    report = Report(not_checked="the Keras backend is jax")
    file.write_text(report.to_json())
    assert main(["report", str(file)]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err) == (f"{report}\n", "")
    assert read_report(file) == report


def test_report_of_a_log_folder(tmp_path, capsys):
    """The cards of each run and its verdict, with the run's name."""
    for run, loss in (("one", rounded), ("two", "mse")):
        fit(classifier(loss), log_dir=tmp_path / run)
    assert main(["report", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{tmp_path / 'one' / 'gradients'}, step 0:")
    assert said.count("explain GG105") == 1
    assert "error[GG105]" in said
    verdicts = [s for s in said.splitlines() if s.startswith("### Verdict")]
    assert ["### Verdict: broken", "### Verdict: healthy"] == verdicts
    assert main(["report", str(tmp_path / "two")]) == 0
    run = tmp_path / "two" / "gradients"
    said = capsys.readouterr().out
    assert said == f"{run}, step 1:\n\n### Verdict: healthy\n\n- 1 step\n"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["report", str(empty)]) == 2
    assert "given as `log_dir`" in capsys.readouterr().err


def test_report_of_no_report_is_an_error(tmp_path, capsys):
    """The error names the file and goes to stderr."""
    assert main(["report", str(tmp_path / "none.json")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("keras-gradguard: cannot read ")


@pytest.mark.parametrize("arguments", [[], ["explain"], ["mend"], ["report"]])
def test_wrong_use_is_an_error(arguments, capsys):
    """Wrong use of the command itself ends as in every argparse program."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: keras-gradguard ")


def test_runs_as_a_module():
    """`python -m keras_gradguard` passes the exit code on."""
    command = [sys.executable, "-m", "keras_gradguard", "explain", "nothing"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("keras-gradguard: ")
