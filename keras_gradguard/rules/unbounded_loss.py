"""GG234: a loss that falls for ever, as the score of a critic without bound."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import line

_BAD = """\
import keras
from keras import ops


def wasserstein(y_true, score):
    is_real = y_true[:, :1]
    fake, real = score * (1.0 - is_real), score * is_real
    return ops.mean(fake) - ops.mean(real)  # [unbounded-loss]


def model():
    critic = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, name="hidden"),
            keras.layers.Dense(1, name="score"),
        ]
    )
    critic.compile(keras.optimizers.SGD(1.0), loss=wasserstein)
    return critic


EPOCHS = 48
"""


def _is_difference(finding):
    return line(r"mean\(.*-.*mean\(")(finding)


RULE = Rule(
    code="GG234",
    name="unbounded-loss",
    kind="exploding",
    matches=lambda finding: finding.cause == "unbounded_loss",
    message="the loss falls without bound",
    why=(
        "Larger weights make such a loss ever smaller and its gradient larger: "
        "a critic's score that nothing bounds, or an error with the wrong sign."
    ),
    help=(
        Remedy(
            text="bound the critic: clip its weights, add a gradient penalty, "
            "or penalise large scores",
            before="return ops.mean(fake) - ops.mean(real)",
            after=(
                "drift = 0.1 * ops.mean(ops.square(score))\n"
                "return ops.mean(fake) - ops.mean(real) + drift"
            ),
            when=_is_difference,
        ),
        Remedy(
            text="minimise the distance: drop the minus sign",
            before="return -ops.mean(ops.square(y_true - y_pred))",
            after="return ops.mean(ops.square(y_true - y_pred))",
            when=line(r"-\s*[\w.]*(mean|sum)\([^()]*(square|abs)"),
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("  # [unbounded-loss]", "").replace(
        "ops.mean(real)\n",
        "ops.mean(real) + 0.1 * ops.mean(ops.square(score))\n",
    ),
)
