"""What the diagnosis knows: every rule of the catalogue, in one tuple."""

import difflib

from keras_gradguard.rules import (
    arc_function,
    argmax,
    changed_identity,
    comparison,
    constant_loss,
    constraint_holds_weight,
    counting,
    custom_gradient_none,
    dead_relu,
    discarded_output,
    division_by_zero,
    early_trace,
    exploding_gradient,
    falling_loss_scale,
    flat_derivative,
    frozen_model,
    gradients_unscaled_twice,
    guard_fault,
    index_of_prediction,
    integer_cast,
    invalid_learning_rate,
    iterated_tensor,
    jump_at_condition,
    labels_not_counted,
    labels_out_of_range,
    logarithm,
    loss_ignores_prediction,
    loss_left_out,
    loss_not_scaled,
    loss_scaled_twice,
    lost_in_half_precision,
    nonfinite_data,
    nonfinite_update,
    nonfinite_weight,
    numpy_call,
    numpy_function,
    one_class,
    one_hot_of_prediction,
    one_unit_softmax,
    only_derivative,
    optimizer_of_other_variables,
    output_without_loss,
    outside_the_tape,
    overflow,
    power,
    predict_in_step,
    probabilities_for_scores,
    python_value,
    rebuilt_constant,
    root_at_zero,
    rounding,
    sampling,
    saturated_activation,
    saturated_clip,
    scores_for_probabilities,
    sign_of_prediction,
    sort_indices,
    step_function,
    stop_gradient,
    straight_through,
    string_op,
    tensor_as_bool,
    trainable_changed,
    unbounded_loss,
    unchosen_side,
    unexplained_cut,
    unexplained_nonfinite,
    unexplained_zero,
    unregistered_op,
    untracked_layer,
    untracked_variable,
    unused_layer,
    unused_weight,
    unwatched_source,
    vanishing_gradient,
    variable_state,
    weight_stands_still,
    weighted_count,
    where_indices,
    whole_numbers,
    wrong_gradient,
    zero_factor,
    zero_input,
    zero_learning_rate,
    zero_loss_weight,
    zero_weights,
)

# In order of precedence within a kind: first what names its cause, then what
# goes by the op alone, then what also looks at the ops that follow the cut
# (their cut often shows as a cast), then the casts and comparisons
# themselves; last the rule that takes what no other one explains.
RULES = (
    predict_in_step.RULE,
    rebuilt_constant.RULE,
    numpy_call.RULE,
    python_value.RULE,
    tensor_as_bool.RULE,
    iterated_tensor.RULE,
    outside_the_tape.RULE,
    unwatched_source.RULE,
    variable_state.RULE,
    custom_gradient_none.RULE,
    early_trace.RULE,
    unused_layer.RULE,
    unused_weight.RULE,
    untracked_variable.RULE,
    untracked_layer.RULE,
    output_without_loss.RULE,
    loss_ignores_prediction.RULE,
    loss_left_out.RULE,
    discarded_output.RULE,
    only_derivative.RULE,
    weighted_count.RULE,
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
    index_of_prediction.RULE,
    comparison.RULE,
    rounding.RULE,
    integer_cast.RULE,
    whole_numbers.RULE,
    one_unit_softmax.RULE,
    flat_derivative.RULE,
    dead_relu.RULE,
    sign_of_prediction.RULE,
    saturated_clip.RULE,
    saturated_activation.RULE,
    zero_loss_weight.RULE,
    zero_factor.RULE,
    zero_weights.RULE,
    zero_input.RULE,
    constant_loss.RULE,
    labels_not_counted.RULE,
    unexplained_zero.RULE,
    nonfinite_data.RULE,
    nonfinite_update.RULE,
    nonfinite_weight.RULE,
    unchosen_side.RULE,
    overflow.RULE,
    logarithm.RULE,
    division_by_zero.RULE,
    root_at_zero.RULE,
    power.RULE,
    arc_function.RULE,
    unexplained_nonfinite.RULE,
    vanishing_gradient.RULE,
    unbounded_loss.RULE,
    exploding_gradient.RULE,
    zero_learning_rate.RULE,
    invalid_learning_rate.RULE,
    constraint_holds_weight.RULE,
    optimizer_of_other_variables.RULE,
    trainable_changed.RULE,
    frozen_model.RULE,
    weight_stands_still.RULE,
    jump_at_condition.RULE,
    straight_through.RULE,
    step_function.RULE,
    scores_for_probabilities.RULE,
    probabilities_for_scores.RULE,
    one_class.RULE,
    labels_out_of_range.RULE,
    wrong_gradient.RULE,
    changed_identity.RULE,
    lost_in_half_precision.RULE,
    falling_loss_scale.RULE,
    loss_not_scaled.RULE,
    loss_scaled_twice.RULE,
    gradients_unscaled_twice.RULE,
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
