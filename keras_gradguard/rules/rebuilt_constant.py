"""GG119: a new tensor made from the values of an old one."""

from keras_gradguard.rules._rule import Remedy, Rule

RULE = Rule(
    code="GG119",
    name="rebuilt-constant",
    kind="untraceable",
    matches=lambda finding: finding.cause == "rebuilt_constant",
    message="a new tensor is built from plain values",
    why=(
        "`tf.constant`, `tf.Variable` and `np.array` copy numbers; the copy "
        "does not know which variables they came from."
    ),
    help=(
        Remedy(
            text="use the tensor itself",
            before="scores = tf.constant(y_pred.numpy())",
            after="scores = y_pred",
        ),
        Remedy(
            text="to put tensors together, stack them",
            before="pair = tf.constant([float(first), float(second)])",
            after="pair = tf.stack([first, second])",
        ),
    ),
    bad="""\
import tensorflow as tf

EAGER = True


def loss(y_true, y_pred):
    scores = tf.constant(y_pred.numpy())  # [rebuilt-constant]
    return tf.reduce_mean(tf.square(y_true - scores))
""",
    good="""\
import tensorflow as tf

EAGER = True


def loss(y_true, y_pred):
    return tf.reduce_mean(tf.square(y_true - y_pred))
""",
)
