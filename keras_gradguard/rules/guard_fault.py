"""GG900: a fault of the guard, not of the gradient; never matched."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG900",
    name="guard-fault",
    kind="untraceable",
    matches=lambda finding: False,
    message="keras_gradguard failed and has switched itself off",
    why=(
        "An error in keras_gradguard must not stop a training run, so it is "
        "reported once, and training continues without diagnosis."
    ),
    help=(Remedy(text="report the traceback; the training is not affected"),),
    bad="",
    good="",
)
