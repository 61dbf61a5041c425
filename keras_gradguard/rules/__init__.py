"""What the diagnosis knows: every rule of the catalogue, in one tuple."""

import difflib

from keras_gradguard.rules import (
    argmax,
    comparison,
    counting,
    custom_gradient_none,
    discarded_output,
    guard_fault,
    integer_cast,
    iterated_tensor,
    loss_ignores_prediction,
    numpy_call,
    numpy_function,
    one_hot_of_prediction,
    output_without_loss,
    outside_the_tape,
    predict_in_step,
    python_value,
    rebuilt_constant,
    rounding,
    sampling,
    sort_indices,
    stop_gradient,
    string_op,
    tensor_as_bool,
    unexplained_cut,
    unregistered_op,
    unused_layer,
    unused_weight,
    variable_state,
    where_indices,
)

# In order of precedence: first what names its cause, then what goes by the
# op alone, then what also looks at the ops that follow the cut (their cut
# often shows as a cast), then the casts and comparisons themselves.
RULES = (
    predict_in_step.RULE,
    rebuilt_constant.RULE,
    numpy_call.RULE,
    python_value.RULE,
    tensor_as_bool.RULE,
    iterated_tensor.RULE,
    outside_the_tape.RULE,
    variable_state.RULE,
    custom_gradient_none.RULE,
    unused_layer.RULE,
    unused_weight.RULE,
    output_without_loss.RULE,
    loss_ignores_prediction.RULE,
    discarded_output.RULE,
    unregistered_op.RULE,
    numpy_function.RULE,
    stop_gradient.RULE,
    argmax.RULE,
    sort_indices.RULE,
    sampling.RULE,
    string_op.RULE,
    counting.RULE,
    where_indices.RULE,
    one_hot_of_prediction.RULE,
    comparison.RULE,
    rounding.RULE,
    integer_cast.RULE,
    guard_fault.RULE,
    unexplained_cut.RULE,
)


def find(code_or_name):
    """Returns the rule with that code or name, whatever its case.

    Args:
        code_or_name: e.g. `"GG104"` or `"argmax"`.

    Raises:
        ValueError: If there is no such rule.
    """
    wanted = str(code_or_name).strip().lower()
    rules = {}
    for rule in RULES:
        rules[rule.code.lower()] = rules[rule.name] = rule
    if wanted in rules:
        return rules[wanted]
    close = difflib.get_close_matches(wanted, rules, n=3)
    known = ", ".join(
        f"{rules[key].code} {rules[key].name}" for key in dict.fromkeys(close)
    ) or ", ".join(sorted(rule.code for rule in RULES))
    raise ValueError(
        f"no rule has the code or name {code_or_name!r}; expected one like "
        f"{known}; list them all with `python -m keras_gradguard rules`"
    )


def match(finding):
    """Returns the first rule that explains the finding.

    Args:
        finding: A `Finding`.

    Returns:
        A `Rule`; GG190, the unexplained cut, if no other one fits.
    """
    for rule in RULES:
        if rule.explains(finding):
            return rule
    return unexplained_cut.RULE
