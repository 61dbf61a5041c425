"""GG313: updates that go to another model."""

from keras_gradguard.rules._rule import Remedy, Rule

_GIVEN, _LEFT_OUT = "given_to_others", "left_out"
_NEVER = "never_applied"


def _is_of_other(finding):
    return finding.cause not in (_GIVEN, _LEFT_OUT, _NEVER)


_BAD = """\
import keras
import tensorflow as tf


class Trainer(keras.Model):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x=x, y=y, y_pred=self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients)  # [optimizer-of-other-variables]
        self.metrics[0].update_state(loss)
        return {"loss": self.metrics[0].result()}


def network():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(8, activation="tanh", name="hidden")(inputs)
    return Trainer(inputs, keras.layers.Dense(3, name="head")(hidden))


def model():
    first, second = network(), network()
    optimizer = keras.optimizers.SGD(0.01)
    optimizer.build(first.trainable_variables)
    second.compile(optimizer, loss="mse")
    return second


EPOCHS = 8
"""

RULE = Rule(
    code="GG313",
    name="optimizer-of-other-variables",
    kind="not_applied",
    matches=lambda finding: (
        finding.cause in ("other_variables", _GIVEN, _LEFT_OUT, _NEVER)
    ),
    message="no optimizer updates these weights",
    why=(
        "`optimizer.apply` updates the variables of its list, and without a "
        "list those that the optimizer was built with. A variable in no list "
        "keeps its first value."
    ),
    help=(
        Remedy(
            text="give each model its own optimizer",
            before='second.compile(optimizer, loss="mse")',
            after=(
                'second.compile(keras.optimizers.SGD(0.01), loss="mse")\n'
                "second.optimizer.build(second.trainable_variables)"
            ),
            when=_is_of_other,
        ),
        Remedy(
            text="pass the variables to apply, so that Keras checks them",
            when=_is_of_other,
        ),
        Remedy(
            text="apply each gradient to the variable that it belongs to",
            before=(
                "gradients = tape.gradient(loss, "
                "self.online.trainable_variables)\n"
                "self.optimizer.apply(gradients, self.target.variables)"
            ),
            after=(
                "weights = self.online.trainable_variables\n"
                "gradients = tape.gradient(loss, weights)\n"
                "self.optimizer.apply(gradients, weights)"
            ),
            when=lambda finding: finding.cause == _GIVEN,
        ),
        Remedy(
            text="ask for these too, or set trainable=False on their layers",
            before="weights = self.online.trainable_variables",
            after="weights = self.trainable_variables",
            when=lambda finding: finding.cause == _LEFT_OUT,
        ),
    ),
    bad=_BAD,
    good=_BAD.replace("    first, second = network(), network()\n", "")
    .replace("    optimizer.build(first.trainable_variables)\n", "")
    .replace("    second.compile", "    second = network()\n    second.compile")
    .replace(
        "(gradients)  # [optimizer-of-other-variables]",
        "(gradients, self.trainable_variables)",
    ),
)
