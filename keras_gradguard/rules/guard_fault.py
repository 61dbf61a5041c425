"""GG900: a fault of the guard, not of the gradient; never matched."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG900",
    name="guard-fault",
    kind="untraceable",
    matches=lambda finding: False,
    message="the guard itself failed and switched itself off",
    why=(
        "A fault of keras_gradguard must not break a training run, so it is "
        "reported once and the run goes on unwatched."
    ),
    help=(
        Remedy(text="report the traceback; training without the guard is safe"),
    ),
    bad="",
    good="",
)
