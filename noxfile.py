"""The versions that are supported: `nox --list` names them, `nox` runs them.

Each session runs the tests in an environment of its own; what follows `--`
goes to pytest, as in `nox --session oldest-3.12 -- -m smoke`.
"""

import nox

nox.options.error_on_missing_interpreters = False


@nox.session(python=["3.11", "3.12", "3.13"])
def newest(session):
    """Runs the tests with the newest TensorFlow, Keras and TensorBoard."""
    session.install(".[test,tensorflow-cpu]")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def jax(session):
    """Runs what users get on JAX, where no TensorFlow is installed."""
    session.install(".", "jax")
    session.run(
        "python",
        "-m",
        "tests.entry.other_backend",
        env={"KERAS_BACKEND": "jax"},
    )


# TensorFlow 2.18 has no wheel for Python 3.13.
@nox.session(python=["3.11", "3.12"])
def oldest(session):
    """Runs the tests with the oldest ones, see `.ci/oldest.txt`."""
    session.install("-c", ".ci/oldest.txt", ".[test,tensorflow-cpu]")
    session.run("python", "-m", "pytest", *session.posargs)
