"""GG119: a tensor rebuilt from the values of another one."""

from keras_gradguard.rules._rule import Remedy, Rule
from keras_gradguard.rules._when import line

RULE = Rule(
    code="GG119",
    name="rebuilt-constant",
    kind="untraceable",
    matches=lambda finding: finding.cause == "rebuilt_constant",
    message="a tensor is rebuilt from plain values",
    why=(
        "`tf.constant`, `tf.Variable` and `np.array` copy only the numbers: "
        "the copy has no connection to the variables that it was computed "
        "from."
    ),
    help=(
        Remedy(
            text="stack the tensors",
            before="pair = ops.convert_to_tensor([float(one), float(two)])",
            after="pair = ops.stack([one, two])",
            when=line(r"\(\s*\[.*,"),
        ),
        Remedy(
            text="use the tensor itself",
            before="scores = ops.convert_to_tensor(y_pred.numpy())",
            after="scores = y_pred",
            when=line(r"^(?!.*\(\s*\[.*,)"),
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
