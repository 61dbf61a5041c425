"""GG225: a number too large for its dtype."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import both, is_half, no, op

_is_exp = op("Exp", "Expm1", "Cosh", "Sinh")


def _may_diverge(finding):
    # The first step has made no update yet; a loss alone makes none.
    return bool(finding.step)


def _from(finding, *types):
    """The ops from the last of some types to this one, none without it."""
    path = list(finding.path)
    found = [n for n, op_type in enumerate(path) if op_type in types]
    return path[found[-1] :] if found else []


def _is_softplus(finding):
    between = _from(finding, "Log", "Log1p")
    return _is_exp(finding) and bool(between) and "Sum" not in between


def _is_logsumexp(finding):
    return _is_exp(finding) and "Sum" in _from(finding, "Log", "Log1p")


def _is_softmax(finding):
    is_log = bool(_from(finding, "Log", "Log1p"))
    return _is_exp(finding) and bool(_from(finding, "RealDiv")) and not is_log


_BAD = """\
import tensorflow as tf


def loss(y_true, y_pred):
    margin = 100.0 * y_pred * (1.0 - 2.0 * y_true)
    odds = tf.exp(margin)  # [overflow]
    return tf.reduce_mean(tf.math.log(1.0 + odds))
"""

RULE = Rule(
    code="GG225",
    name="overflow",
    kind="nonfinite",
    ops=("Exp", "Expm1", "Cosh", "Sinh", "Pow", "Square", "Mul", "Cast"),
    matches=lambda finding: finding.cause == "overflow",
    message="`{op}` overflows to Inf",
    why=(
        "float32 ends at 3.4e38 and float16 at 65504; exp(x) exceeds them at x "
        "= 89 and x = 12. Without an exponential, values this large usually "
        "come from a diverging loss."
    ),
    help=(
        Remedy(
            text="use softplus, which cannot overflow",
            before="cost = ops.log(1.0 + ops.exp(margin))",
            after="cost = ops.softplus(margin)",
            when=_is_softplus,
        ),
        Remedy(
            text="use logsumexp, which cannot overflow",
            before="cost = ops.log(ops.sum(ops.exp(scores), axis=-1))",
            after="cost = ops.logsumexp(scores, axis=-1)",
            when=_is_logsumexp,
        ),
        Remedy(
            text="use softmax, which cannot overflow",
            before=(
                "share = ops.exp(scores) / "
                "ops.sum(ops.exp(scores), axis=-1, keepdims=True)"
            ),
            after="share = ops.softmax(scores, axis=-1)",
            when=_is_softmax,
        ),
        Remedy(
            text="bound the exponent (the gradient is zero outside)",
            before="scale = ops.exp(exponent)",
            after="scale = ops.exp(ops.clip(exponent, -10.0, 10.0))",
            when=both(
                _is_exp,
                no(_is_softplus),
                no(_is_logsumexp),
                no(_is_softmax),
            ),
        ),
        Remedy(
            text="compute in float32",
            before="error = ops.square(gap)",
            after='error = ops.square(ops.cast(gap, "float32"))',
            when=both(is_half, no(_is_exp)),
        ),
        Remedy(
            text="lower the learning rate",
            before="optimizer = keras.optimizers.SGD(10.0)",
            after="optimizer = keras.optimizers.SGD(0.001)",
            when=both(_may_diverge, no(is_half), no(_is_exp)),
        ),
        Remedy(
            text="scale inputs and targets",
            before="model.fit(x, y)",
            after=(
                "x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-7)\n"
                "y = (y - y.mean(axis=0)) / (y.std(axis=0) + 1e-7)\n"
                "model.fit(x, y)"
            ),
            when=both(no(is_half), no(_is_exp)),
        ),
    ),
    bad=_BAD,
    good="""\
import tensorflow as tf


def loss(y_true, y_pred):
    margin = 100.0 * y_pred * (1.0 - 2.0 * y_true)
    return tf.reduce_mean(tf.math.softplus(margin))
""",
)
