"""Diagnoses made by hand, for the tests of the renderers."""

from keras_gradguard.records.report import Diagnosis, Help

NAMES = ("hidden/kernel", "hidden/bias", "head/kernel", "head/bias")
CUT = Diagnosis(
    code="GG102",
    name="comparison",
    kind="disconnected",
    severity="error",
    message="`Greater` turns numbers into true and false",
    why=(
        "True and false cannot change by a little, so there is no gradient; "
        "a cast back to float32 does not restore one."
    ),
    help=(
        Help(
            "keep the score soft",
            "hard = tf.cast(y_pred > 0.5, tf.float32)",
            "soft = tf.sigmoid(10.0 * (y_pred - 0.5))",
        ),
        Help("or compare\nin a metric", after="def metric(y_true, y_pred):\n"),
    ),
    file="train.py",
    line=12,
    function="my_loss",
    snippet=(
        "def my_loss(y_true, y_pred):",
        "    hard = tf.cast(y_pred > 0.5, tf.float32)",
        "",
    ),
    op="Greater",
    loss="mse",
    variables=tuple(f"sequential/{name}" for name in NAMES),
    num_variables=4,
    path=("Mean", "Abs", "Sub", "Cast", "Greater"),
    step=0,
    epoch=0,
    evidence={
        "snippet_start": 11,
        "notes": ["`Cast` on the same line would cut the gradient as well"],
        "norms": [0.0, 1.23456e-9],
    },
)
BARE = Diagnosis(
    code="GG190",
    name="unexplained-cut",
    kind="untraceable",
    severity="warning",
    message="the gradient ends here, the cause is not known",
    why="No rule knows.",
)
