"""Networks that chase a second network, a queue, or a reward."""

import keras
import tensorflow as tf

from .build import compile_with, dense, integers, normal


class Agent(keras.Model):
    """A Q-network and its slow copy (DQN)."""

    def __init__(self):
        """Makes both networks."""
        super().__init__()
        self.online = dense(3)
        self.slow = dense(3)
        self.slow.trainable = False
        self.slow.set_weights(self.online.get_weights())
        self.built = True

    def train_step(self, data):
        """One step toward reward plus the slow network's best value."""
        x, _ = data
        best = tf.argmax(self.online(x["next_state"]), axis=1)
        value = tf.gather(self.slow(x["next_state"]), best, batch_dims=1)
        target = tf.stop_gradient(x["reward"] + 0.9 * value)
        with tf.GradientTape() as tape:
            taken = tf.one_hot(x["action"], 3)
            value = tf.reduce_sum(self.online(x["state"]) * taken, axis=1)
            loss = self.compute_loss(y=target, y_pred=value)
        variables = self.online.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"objective": loss}


def target_network():
    """Argmax chooses actions; the target stands behind stop_gradient."""
    data = {
        "state": normal(16, 4),
        "next_state": normal(16, 4)[::-1],
        "action": integers(3, 16),
        "reward": normal(16),
    }
    model = compile_with(Agent(), keras.losses.Huber())
    return model, data, normal(16)


class Bootstrap(keras.Model):
    """Two views of one row, and a teacher that follows (BYOL)."""

    def __init__(self):
        """Makes student, predictor and teacher."""
        super().__init__()
        self.student = dense(8)
        self.predictor = dense(8, inputs=8)
        self.teacher = dense(8)
        self.teacher.trainable = False
        self.teacher.set_weights(self.student.get_weights())
        self.built = True

    def call(self, x):
        """Returns the student's guess."""
        return self.predictor(self.student(x))

    def compute_loss(self, x, y, y_pred, *others, **arguments):
        """Cosine distance to what the teacher says of the other view."""
        other = x + 0.1 * tf.random.normal(tf.shape(x))
        target = tf.stop_gradient(self.teacher(other))
        loss = 1.0 + keras.losses.cosine_similarity(target, y_pred)
        for slow, fast in zip(
            self.teacher.variables, self.student.variables, strict=True
        ):
            slow.assign(0.9 * slow + 0.1 * fast)
        return tf.reduce_mean(loss)


def slow_teacher():
    """A moving average of the student gives the targets."""
    return compile_with(Bootstrap()), normal(16, 4), None


class Queue(keras.Model):
    """Contrasts rows with what it has seen before (MoCo)."""

    def __init__(self):
        """Makes the encoder and the queue."""
        super().__init__()
        self.encoder = dense(8)
        self.queue = self.add_weight(
            shape=(32, 8), trainable=False, name="queue"
        )
        self.built = True

    def call(self, x):
        """Returns unit vectors."""
        return tf.math.l2_normalize(self.encoder(x), axis=1)

    def compute_loss(self, x, y, y_pred, *others, **arguments):
        """Cross-entropy of the right pair against the queue."""
        key = tf.stop_gradient(self(x + 0.1))
        logits = tf.concat(
            [
                tf.reduce_sum(y_pred * key, axis=1, keepdims=True),
                tf.matmul(y_pred, self.queue, transpose_b=True),
            ],
            axis=1,
        )
        self.queue.assign(tf.concat([key, self.queue], axis=0)[:32])
        return tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(
                labels=tf.zeros_like(logits[:, 0], tf.int32),
                logits=logits / 0.1,
            )
        )


def queue_of_negatives():
    """The loss reads and writes a variable that does not learn."""
    return compile_with(Queue()), normal(16, 4), None


class Policy(keras.Model):
    """Acts at random by its own probabilities, then learns (REINFORCE)."""

    def train_step(self, data):
        """One step; column 0 of the state decides which action is right."""
        state, _ = data
        with tf.GradientTape() as tape:
            logits = self(state, training=True)
            action = tf.random.categorical(logits, 1)[:, 0]
            right = tf.cast(state[:, 0] > 0.0, tf.int64)
            reward = tf.cast(action == right, tf.float32)
            surprise = tf.nn.sparse_softmax_cross_entropy_with_logits(
                labels=action, logits=logits
            )
            loss = tf.reduce_mean(surprise * (reward - 0.5))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"objective": loss, "reward": tf.reduce_mean(reward)}


def sampled_actions():
    """Actions and rewards have no gradient; the log-probability has one."""
    body = dense(3)
    model = compile_with(Policy(body.inputs, body.outputs))
    return model, normal(16, 4), normal(16)


def actor_and_critic():
    """PPO: a clipped ratio, and an advantage taken as a constant."""

    def surrogate(y_true, y_pred):
        """Columns of y_true: action, old log-probability, return."""
        logits, value = y_pred[:, :3], y_pred[:, 3]
        action = tf.one_hot(tf.cast(y_true[:, 0], tf.int32), 3)
        new = tf.reduce_sum(tf.nn.log_softmax(logits) * action, axis=1)
        ratio = tf.exp(new - y_true[:, 1])
        advantage = tf.stop_gradient(y_true[:, 2] - value)
        gain = tf.minimum(
            ratio * advantage, tf.clip_by_value(ratio, 0.8, 1.2) * advantage
        )
        return tf.square(y_true[:, 2] - value) - gain

    targets = normal(16, 3)
    targets[:, 0] = integers(3, 16)
    targets[:, 1] = -1.1
    return compile_with(dense(4), surrogate), normal(16, 4), targets


CASES = (
    target_network,
    slow_teacher,
    queue_of_negatives,
    sampled_actions,
    actor_and_critic,
)
NO_SINGLE_LOSS = (slow_teacher, queue_of_negatives, sampled_actions)
